"""ADE20K in the form of the scene parsing benchmark: 150 classes, mask value 0 is everything else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bacs.data.file_dataset import FileDataset, FilesConfig, check_files, check_pairs, dataset_root
from bacs.data.folders import is_hidden
from bacs.data.layout import Layout, Pair, identity_table
from bacs.errors import Fault, RequestError

# fmt: off
ADE20K_CLASSES = (
    "wall", "building", "sky", "floor", "tree", "ceiling", "road", "bed", "windowpane", "grass", "cabinet",
    "sidewalk", "person", "earth", "door", "table", "mountain", "plant", "curtain", "chair", "car", "water",
    "painting", "sofa", "shelf", "house", "sea", "mirror", "rug", "field", "armchair", "seat", "fence", "desk",
    "rock", "wardrobe", "lamp", "bathtub", "railing", "cushion", "base", "box", "column", "signboard",
    "chest of drawers", "counter", "sand", "sink", "skyscraper", "fireplace", "refrigerator", "grandstand", "path",
    "stairs", "runway", "case", "pool table", "pillow", "screen door", "stairway", "river", "bridge", "bookcase",
    "blind", "coffee table", "toilet", "flower", "book", "hill", "bench", "countertop", "stove", "palm",
    "kitchen island", "computer", "swivel chair", "boat", "bar", "arcade machine", "hovel", "bus", "towel",
    "light", "truck", "tower", "chandelier", "awning", "streetlight", "booth", "television", "airplane",
    "dirt track", "apparel", "pole", "land", "bannister", "escalator", "ottoman", "bottle", "buffet", "poster",
    "stage", "van", "ship", "fountain", "conveyer belt", "canopy", "washer", "plaything", "swimming pool", "stool",
    "barrel", "basket", "waterfall", "tent", "bag", "minibike", "cradle", "oven", "ball", "food", "step", "tank",
    "trade name", "microwave", "pot", "animal", "bicycle", "lake", "dishwasher", "screen", "blanket", "sculpture",
    "hood", "sconce", "vase", "traffic light", "tray", "trash can", "fan", "pier", "crt screen", "plate",
    "monitor", "bulletin board", "shower", "radiator", "glass", "clock", "flag",
)
# fmt: on
FOLDER = "ADEChallengeData2016"
_SUBSETS = {"train": "training", "test": "validation"}
_GET = f"extract {FOLDER}.zip of the MIT scene parsing benchmark there, so that dataset.root/{FOLDER} exists"


@dataclass(frozen=True, kw_only=True)
class ADE20KConfig(FilesConfig):
    """Keys of ``dataset=ade20k``; ``root`` holds ``ADEChallengeData2016``."""


class ADE20K(FileDataset):
    """Scenes of ADE20K. The validation folder is the test set."""

    Config = ADE20KConfig
    kind = "ade20k"

    @staticmethod
    def check(config: ADE20KConfig) -> list[Fault]:
        """As in :class:`FileDataset`."""
        folders = [f"{FOLDER}/{files}/{name}" for files in ("images", "annotations") for name in _SUBSETS.values()]
        return check_files(config, [FOLDER, *folders], _GET)

    @staticmethod
    def classes(config: ADE20KConfig) -> tuple[str, ...]:
        """The 150 classes; class id = position + 1."""
        return ADE20K_CLASSES

    @staticmethod
    def layout(config: ADE20KConfig) -> Layout:
        """As in :class:`FileDataset`."""
        if faults := ADE20K.check(config):
            raise RequestError(faults)
        ade = dataset_root(config) / FOLDER
        train, test = (_pairs(ade, folder) for folder in _SUBSETS.values())
        check_pairs(str(ade), train, test)
        return Layout(
            class_names=ADE20K_CLASSES,
            train=train,
            test=test,
            table=identity_table(len(ADE20K_CLASSES)),
            legal=frozenset(range(len(ADE20K_CLASSES) + 1)),
            expected={"train": 20210, "test": 2000},
        )


def _pairs(ade: Path, folder: str) -> tuple[Pair, ...]:
    """Sorted, as folders list their files in another order on each machine. A file without its partner is a pair too,
    so that the missing one is found."""
    images, masks = ade / "images" / folder, ade / "annotations" / folder
    names = {path.stem for path in images.glob("*.jpg")} | {path.stem for path in masks.glob("*.png")}
    return tuple(Pair(n, images / f"{n}.jpg", masks / f"{n}.png") for n in sorted(names) if not is_hidden(n))
