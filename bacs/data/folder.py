"""A dataset of one's own: a folder of images, a folder of masks, the names of the classes and two lists."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from bacs.data.file_dataset import FileDataset, FilesConfig, check_files, check_pairs, dataset_root
from bacs.data.folders import Folders
from bacs.data.layout import Layout, Pair, identity_table, name_fault, raise_faults, read_list
from bacs.data.scenario import IGNORE
from bacs.errors import Fault, RequestError

SUFFIXES = (".jpg", ".jpeg", ".png")
_LONGEST_NAME = 100
_FILES = ("images", "masks", "classes.txt", "train.txt", "val.txt")
_GET = (
    "put there images/ (jpg, jpeg or png), masks/ (png of class ids, 0 background, 255 ignored), classes.txt (the name "
    "of class 1, 2, ... on a line each), train.txt and val.txt (names of images without suffix)"
)


@dataclass(frozen=True, kw_only=True)
class FolderConfig(FilesConfig):
    """Keys of ``dataset=folder``; ``root`` holds images, masks, classes.txt, train.txt and val.txt."""


class Folder(FileDataset):
    """Images and masks of the same name. The val list is the test set; a share of the train list is held out."""

    Config = FolderConfig
    kind = "folder"

    @staticmethod
    def check(config: FolderConfig) -> list[Fault]:
        """As in :class:`FileDataset`."""
        faults = check_files(config, _FILES, _GET)
        return faults or _class_faults(dataset_root(config) / "classes.txt")

    @staticmethod
    def classes(config: FolderConfig) -> tuple[str, ...]:
        """The lines of classes.txt; class id = position + 1. A first line ``background`` is no class and left out.

        Raises:
            RequestError: with the faults of :meth:`check`.
        """
        if faults := Folder.check(config):
            raise RequestError(faults)
        return tuple(_class_names(dataset_root(config) / "classes.txt"))

    @staticmethod
    def layout(config: FolderConfig) -> Layout:
        """As in :class:`FileDataset`."""
        names = Folder.classes(config)
        root = dataset_root(config)
        images = _Images(root)
        train, test = (_pairs(images, root / f"{subset}.txt") for subset in ("train", "val"))
        check_pairs(str(root), train, test)
        return Layout(
            class_names=names,
            train=train,
            test=test,
            table=identity_table(len(names)),
            legal=frozenset([*range(len(names) + 1), IGNORE]),
        )


def _class_names(path: Path) -> list[str]:
    names = read_list(path)
    return names[1:] if names and names[0].lower() == "background" else names


def _class_faults(path: Path) -> list[Fault]:
    try:
        names = _class_names(path)
    except RequestError as error:
        return error.faults
    if not 1 <= len(names) < IGNORE:
        return [Fault(str(path), f"names {len(names)} classes, but must name 1..{IGNORE - 1}", "one name a line")]
    twice = sorted({name for name in names if names.count(name) > 1})
    faults = [Fault(str(path), f"names more than once: {', '.join(twice)}", "name each class once")] if twice else []
    return faults + [_name_fault(path, name) for name in names if not _is_class_name(name)]


def _is_class_name(name: str) -> bool:
    """Whether it can head a column: a table program takes a cell that begins with a sign for a formula and runs it."""
    return len(name) <= _LONGEST_NAME and name.isprintable() and not name.startswith(("=", "+", "-", "@"))


def _name_fault(path: Path, name: str) -> Fault:
    rule = f"up to {_LONGEST_NAME} printable characters that do not begin with =, +, - or @"
    return Fault(str(path), f"names {name[:_LONGEST_NAME]!r}, but the name of a class must be {rule}", "rename it")


class _Images:
    """The images below a folder by their names, which have no suffix. Each folder is listed once."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "images"
        self.masks = root / "masks"
        self.folders = Folders()
        self._found: dict[Path, dict[str, list[Path]]] = {}

    def of(self, name: str) -> list[Path]:
        """The files of a name, in whichever normal form its accents are written."""
        path = self.folder / name
        if path.parent not in self._found:
            stems = self._found.setdefault(path.parent, {})
            for file in sorted(self.folders.names(path.parent)):
                if Path(file).suffix.lower() in SUFFIXES:
                    stems.setdefault(_composed(Path(file).stem), []).append(path.with_name(file))
        found = self._found[path.parent].get(_composed(path.name), [])
        return [file for file in found if file.stem == path.name] or found

    def name_in(self, line: str) -> str:
        """The name that a line means: as it stands, or with the suffix or the folder of its image, or with its mask."""
        if self.of(line):
            return line
        path = PurePosixPath(line.removeprefix("images/"))
        name = str(path.with_suffix("")) if path.suffix.lower() in SUFFIXES else str(path)
        known = [] if name_fault(self.folder, name) else self.of(name)
        if any(str(path) in (name, f"{name}{file.suffix}") for file in known):
            return name
        image, *mask = re.split(r"[\s,;]+", line)
        if len(mask) == 1 and mask[0].removeprefix("masks/") == f"{self.name_in(image)}.png":
            return self.name_in(image)
        return line

    def pair(self, name: str) -> Pair:
        image = next(iter(self.of(name)), self.folder / f"{name}.jpg")
        return Pair(name, image, self.folders.same(self.masks / f"{name}.png"))


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _pairs(images: _Images, list_file: Path) -> tuple[Pair, ...]:
    lines = read_list(list_file, lambda line: name_fault(list_file, line) is None and bool(images.of(line)))
    raise_faults([fault for line in lines if (fault := name_fault(list_file, line))])
    names = [images.name_in(line) for line in lines]
    raise_faults([_ambiguous(list_file, name, images.of(name)) for name in names if len(images.of(name)) > 1])
    return tuple(images.pair(name) for name in names)


def _ambiguous(list_file: Path, name: str, paths: list[Path]) -> Fault:
    files = " and ".join(path.name for path in paths)
    return Fault(str(list_file), f"names {name!r}, which is {files}", "remove or rename all but one")
