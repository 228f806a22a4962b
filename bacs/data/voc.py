"""PASCAL VOC 2012: 20 classes, with the augmented training list of the published numbers where it is there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bacs.data.file_dataset import FileDataset, FilesConfig, check_files, check_pairs, dataset_root
from bacs.data.layout import Layout, Pair, identity_table, name_fault, raise_faults, read_list
from bacs.data.scenario import IGNORE
from bacs.errors import Fault, RequestError
from bacs.schema import knob

# fmt: off
VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)
# fmt: on
YEAR = "VOCdevkit/VOC2012"
LISTS = "ImageSets/Segmentation"
AUGMENTED_LISTS = (f"{LISTS}/train_aug.txt", f"{LISTS}/trainaug.txt", "train_aug.txt")
"""Where others put the augmented list, below ``YEAR``; the first that exists is read."""
AUGMENTED_MASKS = "SegmentationClassAug"
_GET = (
    "extract the VOC 2012 trainval archive (VOCtrainval_11-May-2012.tar) there, so that dataset.root/VOCdevkit exists"
)
_GET_AUGMENTED = (
    f"put the 10582 ids of the augmented list into {YEAR}/{LISTS}/train_aug.txt and its masks (VOC and SBD, as PNG) "
    f"into {YEAR}/{AUGMENTED_MASKS}, or set dataset.augmented=false"
)


@dataclass(frozen=True, kw_only=True)
class VOCConfig(FilesConfig):
    """Keys of ``dataset=voc``; ``root`` holds ``VOCdevkit``."""

    augmented: bool | None = knob(None)
    """Train on the augmented list (10582 images) rather than VOC's own (1464); null: where it is there."""


class VOC(FileDataset):
    """Images of VOC 2012. Its val list is the test set, as there is no other with public masks."""

    Config = VOCConfig
    kind = "voc"

    @staticmethod
    def check(config: VOCConfig) -> list[Fault]:
        """As in :class:`FileDataset`."""
        lists = [f"{YEAR}/{LISTS}/{name}.txt" for name in ("train", "val")]
        faults = check_files(config, ["VOCdevkit", f"{YEAR}/JPEGImages", f"{YEAR}/SegmentationClass", *lists], _GET)
        if not faults and config.augmented and _augmented_list(dataset_root(config) / YEAR) is None:
            absent = f"{AUGMENTED_LISTS[0]} or {AUGMENTED_MASKS}"
            faults.append(Fault("dataset.augmented", f"is true, but {YEAR} lacks {absent}", _GET_AUGMENTED))
        return faults

    @staticmethod
    def classes(config: VOCConfig) -> tuple[str, ...]:
        """The 20 classes; class id = position + 1."""
        return VOC_CLASSES

    @staticmethod
    def layout(config: VOCConfig) -> Layout:
        """As in :class:`FileDataset`."""
        if faults := VOC.check(config):
            raise RequestError(faults)
        voc = dataset_root(config) / YEAR
        augmented = None if config.augmented is False else _augmented_list(voc)
        train = _pairs(
            voc, augmented or voc / LISTS / "train.txt", AUGMENTED_MASKS if augmented else "SegmentationClass"
        )
        test = _pairs(voc, voc / LISTS / "val.txt", "SegmentationClass")
        check_pairs(f"the lists of {voc}", train, test)
        return Layout(
            class_names=VOC_CLASSES,
            train=train,
            test=test,
            table=identity_table(len(VOC_CLASSES)),
            legal=frozenset([*range(len(VOC_CLASSES) + 1), IGNORE]),
            expected={"train": 10582 if augmented else 1464, "test": 1449},
        )


def _augmented_list(voc: Path) -> Path | None:
    lists = [voc / name for name in AUGMENTED_LISTS if (voc / name).is_file()]
    return lists[0] if lists and (voc / AUGMENTED_MASKS).is_dir() else None


def _pairs(voc: Path, list_file: Path, masks: str) -> tuple[Pair, ...]:
    """Images and masks of a list, whose lines hold an id, or the paths of both below the VOC2012 folder.

    Raises:
        RequestError: with the lines of another form, or whose paths lead elsewhere.
    """
    pairs: list[Pair] = []
    faults: list[Fault] = []
    for line in read_list(list_file):
        pair = _pair(voc, line.split(), masks)
        if pair is None:
            faults.append(_no_pair(list_file, line))
        elif fault := name_fault(list_file, pair.name) or name_fault(list_file, pair.mask.name):
            faults.append(fault)
        else:
            pairs.append(pair)
    raise_faults(faults)
    return tuple(pairs)


def _pair(voc: Path, fields: list[str], masks: str) -> Pair | None:
    if len(fields) == 1:
        name = fields[0].removesuffix(".jpg")
        return Pair(name, voc / "JPEGImages" / f"{name}.jpg", voc / masks / f"{name}.png")
    if len(fields) == 2 and fields[1] == f"{fields[0].removesuffix('.jpg')}.png" and "/" not in fields[1]:
        return _pair(voc, fields[:1], masks)
    # Lists shipped by others write /JPEGImages/ID.jpg /SegmentationClassAug/ID.png and mean the VOC2012 folder.
    paths = [field.removeprefix("/").split("/") for field in fields]
    folders = (("JPEGImages",), ("SegmentationClass", AUGMENTED_MASKS))
    if len(paths) != 2 or any(len(p) != 2 or p[0] not in known for p, known in zip(paths, folders, strict=True)):
        return None
    image, mask = (Path(*path) for path in paths)
    return Pair(image.stem, voc / image, voc / mask)


def _no_pair(list_file: Path, line: str) -> Fault:
    forms = "ID, or JPEGImages/ID.jpg SegmentationClassAug/ID.png"
    return Fault(str(list_file), f"has the line {line!r}, but a line must be: {forms}", "correct the line")
