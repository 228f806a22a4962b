"""Cityscapes, fine annotations: 19 classes that arrive in steps, or 21 cities that arrive in steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bacs.data.file_dataset import FileDataset, FilesConfig, check_files, check_pairs, dataset_root, is_held_out
from bacs.data.folders import is_hidden
from bacs.data.layout import Layout, Pair
from bacs.data.scenario import IGNORE
from bacs.errors import Fault, RequestError

LABEL_IDS = {
    "road": 7,
    "sidewalk": 8,
    "building": 11,
    "wall": 12,
    "fence": 13,
    "pole": 17,
    "traffic light": 19,
    "traffic sign": 20,
    "vegetation": 21,
    "terrain": 22,
    "sky": 23,
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
}
"""Mask value (labelId) of each class, in the order of the classes."""
BACKGROUND_IDS = (0, 1, 6, 9, 10, 14, 15, 16, 18, 29, 30)
"""Things that no class names: ego vehicle, parking, rail track, bridge, tunnel, caravan, ..."""
LEGAL_IDS = frozenset(range(34))
"""The licence plate, id -1, is not drawn in a mask; 2 to 5 (border, out of region, static, dynamic) are ignored."""

# fmt: off
CITIES = (
    "aachen", "bremen", "darmstadt", "erfurt", "hanover", "krefeld", "strasbourg", "tubingen", "weimar", "bochum",
    "cologne", "dusseldorf", "hamburg", "jena", "monchengladbach", "stuttgart", "ulm", "zurich",
    "frankfurt", "lindau", "munster",
)
# fmt: on
"""The order in which the domains arrive; the last three are the val folders."""
TEST_SHARE = 0.2
"""Share of each city's images that results are measured on."""

_IMAGE, _MASK = "_leftImg8bit.png", "_gtFine_labelIds.png"
_SUBSETS = ("train", "val")
_FOLDERS = [f"{files}/{subset}" for files in ("leftImg8bit", "gtFine") for subset in _SUBSETS]
_GET = (
    "extract leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip of www.cityscapes-dataset.com (free account "
    "needed) there, so that dataset.root/leftImg8bit and dataset.root/gtFine exist"
)


@dataclass(frozen=True, kw_only=True)
class CityscapesConfig(FilesConfig):
    """Keys of ``dataset=cityscapes`` and ``=cityscapes_domain``; ``root`` holds ``leftImg8bit`` and ``gtFine``."""


class Cityscapes(FileDataset):
    """Classes arrive in steps. The val folder is the test set, as the test folder has no public masks."""

    Config = CityscapesConfig
    kind = "cityscapes"

    @staticmethod
    def check(config: CityscapesConfig) -> list[Fault]:
        """As in :class:`FileDataset`."""
        return check_files(config, _FOLDERS, _GET)

    @staticmethod
    def classes(config: CityscapesConfig) -> tuple[str, ...]:
        """The 19 classes; class id = position + 1."""
        return tuple(LABEL_IDS)

    @staticmethod
    def layout(config: CityscapesConfig) -> Layout:
        """As in :class:`FileDataset`."""
        if faults := Cityscapes.check(config):
            raise RequestError(faults)
        root = dataset_root(config)
        train, test = (_pairs(root, subset) for subset in _SUBSETS)
        check_pairs(str(root), train, test)
        table = _table(first=1)
        table[list(BACKGROUND_IDS)] = 0
        return Layout(
            class_names=tuple(LABEL_IDS),
            train=train,
            test=test,
            table=table,
            legal=LEGAL_IDS,
            expected={"train": 2975, "test": 500},
        )


class CityscapesDomain(FileDataset):
    """Cities arrive in steps; labels are always all 19 classes, 0..18, and there is no background.

    A fifth of each city's images, told by their names, is the test set: the published val folder is three cities.
    """

    Config = CityscapesConfig
    kind = "cityscapes_domain"
    domains = CITIES

    @staticmethod
    def check(config: CityscapesConfig) -> list[Fault]:
        """As in :class:`FileDataset`."""
        cities = [f"leftImg8bit/{_subset_of(city)}/{city}" for city in CITIES]
        return check_files(config, [*_FOLDERS, *cities], _GET)

    @staticmethod
    def classes(config: CityscapesConfig) -> tuple[str, ...]:
        """The 19 classes; label = position."""
        return tuple(LABEL_IDS)

    @staticmethod
    def layout(config: CityscapesConfig) -> Layout:
        """As in :class:`FileDataset`; each pair's group is its city."""
        if faults := CityscapesDomain.check(config):
            raise RequestError(faults)
        root = dataset_root(config)
        pairs = [pair for city in CITIES for pair in _city_pairs(root, _subset_of(city), city)]
        tested = [is_held_out(pair.name, TEST_SHARE, "domain test") for pair in pairs]
        train, test = (
            tuple(pair for pair, test in zip(pairs, tested, strict=True) if test is wanted) for wanted in (False, True)
        )
        check_pairs(str(root), train, test)
        return Layout(class_names=tuple(LABEL_IDS), train=train, test=test, table=_table(first=0), legal=LEGAL_IDS)


def _table(first: int) -> NDArray[np.uint8]:
    """(256,) The 19 classes from ``first`` on, everything else ignored."""
    table = np.full(256, IGNORE, dtype=np.uint8)
    table[list(LABEL_IDS.values())] = np.arange(first, first + len(LABEL_IDS))
    return table


def _subset_of(city: str) -> str:
    return "val" if city in CITIES[-3:] else "train"


def _pairs(root: Path, subset: str) -> tuple[Pair, ...]:
    folders = [folder for files in ("leftImg8bit", "gtFine") for folder in (root / files / subset).glob("*")]
    cities = sorted({folder.name for folder in folders if folder.is_dir() and not is_hidden(folder.name)})
    return tuple(pair for city in cities for pair in _city_pairs(root, subset, city))


def _city_pairs(root: Path, subset: str, city: str) -> Sequence[Pair]:
    """Sorted. A file without its partner is a pair too, so that the missing one is found."""
    images, masks = root / "leftImg8bit" / subset / city, root / "gtFine" / subset / city
    names = {path.name.removesuffix(_IMAGE) for path in images.glob(f"*{_IMAGE}")}
    names |= {path.name.removesuffix(_MASK) for path in masks.glob(f"*{_MASK}")}
    shown = sorted(name for name in names if not is_hidden(name))
    return [Pair(f"{city}/{n}", images / f"{n}{_IMAGE}", masks / f"{n}{_MASK}", city) for n in shown]
