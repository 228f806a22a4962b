"""What datasets in files share: their settings, the share held out for validation, the manifest and the class index."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from bacs.data.array_cache import cache_faults
from bacs.data.class_index import load_index
from bacs.data.file_scenes import FileScenes
from bacs.data.folders import Folders
from bacs.data.layout import Layout, Pair, raise_faults
from bacs.data.pixels import PixelReader
from bacs.data.transforms import AREA
from bacs.errors import Fault, UnreachableError
from bacs.files import mode_problem
from bacs.randomness import derive_seed
from bacs.schema import acts_from, knob, parse_all
from bacs.source import digest_of


@dataclass(frozen=True, kw_only=True)
class FilesConfig:
    """Keys of every dataset in files."""

    root: str | None = knob(None, acts_from=None, path=True)
    """Folder that holds the published folders of the dataset. Where it lies never changes a result."""
    cache: str = knob("runs/cache", acts_from=None, path=True)
    """Folder that keeps the class index, and decoded copies."""
    decode_cache: bool = knob(False, acts_from=None)
    """Keep a decoded copy of each image under ``cache``, so that a crop is read without decoding its image again. The
    same bytes come out. 4 bytes a pixel: about 9 GB for VOC, 29 for Cityscapes, 31 for ADE20K."""
    crop_size: int | list[int] = knob(512, ge=1, le=16_384)
    """Side, or [height, width], of the images that the network sees, in pixels."""
    crop_area: list[float] = knob(list(AREA), gt=0)
    """Bounds of the area of a random crop, as a share of the image's. With the original's 0.5 to 2 three quarters of
    all crops of images twice as wide as high (Cityscapes) are the central one; [0.1, 0.5] really moves there."""
    evaluation: str = knob("crop_val", choices=("crop_val", "full"))
    """What is scored: ``crop_val`` scaled centre crops of ``crop_size``, the convention of the published numbers, or
    ``full`` whole images at their original resolution."""
    val_share: float = knob(0.2, ge=0, lt=0.9)
    """Share of the training images held out for validation; 0: none, all of them train as in published protocols."""
    val_seed: int = knob(0, ge=0)
    """Decides, per image by its name, who is held out."""


class FileDataset(ABC):
    """A dataset in files. A subclass says where its files should lie; the rest is the same for all."""

    Config: ClassVar[type[FilesConfig]]
    kind: ClassVar[str]
    """Name of the dataset in folders of the cache, and in the manifest."""
    domains: ClassVar[tuple[str, ...]] = ()
    """Names of the domains, in their order, where images are told apart by origin."""
    channels = 3
    mean = (0.485, 0.456, 0.406)  # of ImageNet, which the backbones were trained on
    std = (0.229, 0.224, 0.225)

    @staticmethod
    @abstractmethod
    def check(config: Any) -> list[Fault]:
        """Everything wrong with the settings and the folders; opens no image."""

    @staticmethod
    @abstractmethod
    def classes(config: Any) -> tuple[str, ...]:
        """Names of the classes, as in :class:`Layout`."""

    @staticmethod
    @abstractmethod
    def layout(config: Any) -> Layout:
        """The files as they should lie. Raises: RequestError: with the faults of :meth:`check` and of the lists."""

    def __init__(self, config: FilesConfig) -> None:
        """Looks at the size of every file, and opens every mask where the cache has no class index.

        Raises:
            RequestError: with every fault of the settings, or the files that are missing or unreadable.
        """
        layout = self.layout(config)
        size = config.crop_size
        crop_size = size if isinstance(size, int) else (size[0], size[1])
        self.class_names = layout.class_names
        self.evaluation = config.evaluation
        self.window = (crop_size, crop_size) if isinstance(crop_size, int) else crop_size
        contents = contents_hash(self.kind, layout, dataset_root(config))
        self.manifest = _manifest(contents, config)
        folder = Path(config.cache) / f"{self.kind}-{contents}"
        trained, tested = load_index(layout, folder / _made_by("index", "bacs.data.class_index"))
        reader = PixelReader(folder / _made_by("pixels", "bacs.data.pixels") if config.decode_cache else None)
        held_out = held_out_rows(layout.train, config.val_share, config.val_seed)

        def scenes(pairs: Sequence[Pair], present: NDArray[np.bool_], rows: NDArray[np.int64]) -> FileScenes:
            return FileScenes(
                [pairs[row] for row in rows],
                presence=present[rows],
                group=self._domains_of([pairs[row] for row in rows]),
                table=layout.table,
                crop_size=crop_size,
                crop_area=(config.crop_area[0], config.crop_area[1]),
                reader=reader,
            )

        self.train = scenes(layout.train, trained.presence, np.flatnonzero(~held_out))
        self.val = scenes(layout.train, trained.presence, np.flatnonzero(held_out))
        self.test = scenes(layout.test, tested.presence, np.arange(len(layout.test)))
        heights, widths = np.concatenate([trained.sizes, tested.sizes]).min(axis=0)
        self.smallest = (int(heights), int(widths))
        """(h, w): the least height and the least width of all images."""
        self.notes = doubtful_notes([*layout.train, *layout.test], np.concatenate([trained.doubtful, tested.doubtful]))
        """What the user should know about files that were accepted."""

    def _domains_of(self, pairs: Sequence[Pair]) -> NDArray[np.int64] | None:
        return np.array([self.domains.index(pair.group) for pair in pairs], dtype=np.int64) if self.domains else None


def _made_by(name: str, module: str) -> str:
    """A folder of the cache whose files other code than that of now leaves alone."""
    return f"{name}-{digest_of(module)}"


def is_held_out(name: str, share: float, *parts: int | str) -> bool:
    """Whether an image belongs to a random share: by its name alone, whatever other images there are.

    Args:
        name: of the image.
        share: 0..1.
        parts: tell one division, and one seed, from another.
    """
    return derive_seed(*parts, name) < share * 2**63


def held_out_rows(pairs: Sequence[Pair], share: float, seed: int) -> NDArray[np.bool_]:
    """(N,) which training images are held out for validation. Args: share, seed: see :class:`FilesConfig`."""
    return np.array([is_held_out(pair.name, share, "val", seed) for pair in pairs], dtype=bool)


def doubtful_notes(pairs: Sequence[Pair], doubtful: NDArray[np.bool_]) -> list[str]:
    """On images that a viewer turns by what the camera has noted, which nothing here does."""
    files = [str(pair.image) for pair, doubt in zip(pairs, doubtful, strict=True) if doubt]
    if not files:
        return []
    return [
        f"{len(files)} image(s) hold a note of the camera (EXIF orientation) that is not applied, such as {files[0]}: "
        "their masks must be drawn on the pixels as they are stored"
    ]


def check_files(config: FilesConfig, needed: Sequence[str], source: str) -> list[Fault]:
    """Everything wrong with the common settings and the folders.

    Args:
        config: the settings.
        needed: files and folders below ``config.root`` that must exist.
        source: what to get where.
    """
    # A configuration that was built in Python has not passed the checks of a parsed one.
    _, faults = parse_all(type(config), asdict(config), "dataset")
    if len(config.crop_area) != 2 or config.crop_area[0] > config.crop_area[1]:
        problem = f"is {config.crop_area}, but must be [smallest, largest]"
        faults.append(Fault("dataset.crop_area", problem, "give two shares, such as [0.5, 2.0]"))
    if isinstance(config.crop_size, list) and len(config.crop_size) != 2:
        problem = f"is {config.crop_size}, but a list must be [height, width]"
        faults.append(Fault("dataset.crop_size", problem, "give one number for a square, or two"))
    return faults + _root_faults(config.root, needed, source) + cache_faults(Path(config.cache))


def dataset_root(config: FilesConfig) -> Path:
    """The folder of the dataset, where :func:`check_files` found it set."""
    assert config.root is not None, "check() asks for it"
    return Path(config.root)


def check_pairs(where: str, train: Sequence[Pair], test: Sequence[Pair]) -> None:
    """Raises: RequestError: where a subset is empty, or an image is listed twice or in both subsets.

    Files count, not names: accents can be written in several ways.
    """
    faults = []
    for subset, pairs in (("train", train), ("test", test)):
        names = {pair.image: pair.name for pair in pairs}
        counts = Counter(pair.image for pair in pairs)
        if not counts:
            faults.append(Fault(where, f"has no image to {subset} on", "complete the lists and folders"))
        if twice := [names[image] for image, count in counts.items() if count > 1]:
            faults.append(Fault(where, f"lists more than once for {subset}: {_some(twice)}", "list each image once"))
    tested = {pair.image for pair in test}
    shared = sorted({pair.name for pair in train if pair.image in tested})
    if shared:
        problem = f"lists {len(shared)} images for training that results are measured on: {_some(shared)}"
        faults.append(Fault(where, problem, "remove them from the training list"))
    raise_faults(faults)


def contents_hash(kind: str, layout: Layout, root: Path) -> str:
    """Hash of the names and sizes of all files, in order, and of what their mask values mean.

    Sizes instead of bytes keep it quick for tens of thousands of files; a file that was changed without changing its
    size is not noticed. Time stamps and the place of the tree do not matter.

    Raises:
        UnreachableError: with the files that are missing, or are no files.
    """
    facts = {"kind": kind, "table": layout.table.tolist()}
    digest = hashlib.sha256(json.dumps(facts).encode())
    folders = Folders()
    faults: list[Fault] = []
    for subset, pairs in (("train", layout.train), ("test", layout.test)):
        for pair in pairs:
            parts = [subset, pair.name, pair.group]
            for path in (pair.image, pair.mask):
                try:
                    found = path.stat()
                    parts += [str(path).removeprefix(str(root)), str(found.st_size)]
                    if problem := mode_problem(found.st_mode):
                        faults.append(Fault(str(path), problem, "put the picture itself there"))
                except FileNotFoundError:
                    faults.append(Fault(str(path), *folders.absence(path, pair.name)))
                except (OSError, ValueError) as error:
                    problem = f"cannot be read: {getattr(error, 'strerror', None) or error}"
                    faults.append(Fault(str(path), problem, "make it readable"))
            digest.update("\t".join([*parts, "\n"]).encode())
    raise_faults(faults, UnreachableError)
    return digest.hexdigest()[:32]


def _manifest(contents: str, config: FilesConfig) -> str:
    """Settings of a subclass are left out: what they change shows in the files."""
    settings = {name: getattr(config, name) for name, step in acts_from(FilesConfig).items() if step is not None}
    facts = {"contents": contents, "settings": settings}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def _root_faults(root: str | None, needed: Sequence[str], source: str) -> list[Fault]:
    where = "dataset.root"
    if root is None:
        return [Fault(where, f"is not set, but must be the folder that holds {needed[0]}", source)]
    try:
        is_folder = Path(root).is_dir()
    except OSError:  # its name is too long for the disk
        is_folder = False
    if not is_folder:
        return [Fault(where, f"is {root}, which is not a folder", source)]
    absent = [name for name in needed if not (Path(root) / name).exists()]
    return [Fault(where, f"is {root}, which lacks {', '.join(absent)}", source)] if absent else []


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
