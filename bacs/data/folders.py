"""Names of the files that exist, and which of them are meant by a name that is a little different."""

from __future__ import annotations

import unicodedata
from pathlib import Path

_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp")


class Folders:
    """Every folder is listed once, however many of its files are asked for: questions are slow on a network drive."""

    def __init__(self) -> None:
        self._names: dict[Path, frozenset[str]] = {}
        self._alike: dict[Path, dict[str, list[str]]] = {}

    def names(self, folder: Path) -> frozenset[str]:
        """Of everything in a folder; empty where it cannot be listed."""
        if folder not in self._names:
            self._names[folder] = _listed(folder)
        return self._names[folder]

    def has(self, path: Path) -> bool:
        return path.name in self.names(path.parent)

    def same(self, path: Path) -> Path:
        """The file that has the name of ``path`` in another Unicode normal form, if there is one and only one."""
        if self.has(path):
            return path
        wanted = unicodedata.normalize("NFC", path.name)
        twins = [name for name in self.alike(path) if unicodedata.normalize("NFC", name) == wanted]
        return path.with_name(twins[0]) if len(twins) == 1 else path

    def absence(self, path: Path, name: str) -> tuple[str, str]:
        """What is said of a file of the image ``name`` that is not there, and the remedy."""
        if twins := self.alike(path):
            return f"is not there; {' and '.join(twins)} is", "give the file and the list the same name"
        return "is not there", f"restore it from the dataset's archive, or take {name} out of the lists and folders"

    def alike(self, path: Path) -> list[str]:
        """Names beside ``path`` that differ from its own in case, the form of accents, blanks or suffixes alone."""
        folder = path.parent
        if folder not in self._alike:
            self._alike[folder] = {}
            for name in sorted(self.names(folder)):
                if not is_hidden(name):
                    self._alike[folder].setdefault(_skeleton(name), []).append(name)
        return [name for name in self._alike[folder].get(_skeleton(path.name), []) if name != path.name]


def is_hidden(name: str) -> bool:
    """Whether a file is none of the dataset's: macOS leaves ``._NAME`` beside NAME on disks of other systems."""
    return name.startswith(".")


def _listed(folder: Path) -> frozenset[str]:
    try:
        return frozenset(path.name for path in folder.iterdir())
    except OSError:
        return frozenset()


def _skeleton(name: str) -> str:
    """Of a name, without suffixes of pictures, blanks and signs that are not seen, whatever its case and width."""
    text = unicodedata.normalize("NFKD", name).casefold()
    while text.endswith(_SUFFIXES):
        text = text.rpartition(".")[0]
    return "".join(sign for sign in text if unicodedata.category(sign)[0] not in "ZC")
