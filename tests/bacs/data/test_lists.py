"""Lists of images as other programs write them: read where the meaning is clear, else told what lies there."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from bacs.data.folder import Folder, FolderConfig
from bacs.data.layout import read_list
from bacs.data.voc import VOC, VOCConfig
from bacs.errors import RequestError
from tests.bacs.data import trees

NAMES = ["train_0", "train_1", "train_2"]


@pytest.fixture
def root(tmp_path) -> Path:
    return trees.make_folder(tmp_path / "data", train=3, val=2, side=16)


def names(root: Path) -> list[str]:
    return [pair.name for pair in Folder.layout(FolderConfig(root=str(root))).train]


@pytest.mark.parametrize(
    "text",
    [
        "train_0\r\ntrain_1\r\ntrain_2\r\n",
        "train_0\rtrain_1\rtrain_2",
        "\ufefftrain_0\n\ufefftrain_1\n\n  train_2  ",
        "train_0\u2028train_1\u2029train_2\x0c",
        "train_0.jpg\ntrain_1.png\ntrain_2.jpg\n",
        "images/train_0.jpg\nimages/train_1\ntrain_2\n",
        "train_0.jpg train_0.png\nimages/train_1.png masks/train_1.png\ntrain_2,train_2.png\n",
    ],
)
def test_lists_whose_meaning_is_clear_are_read(root, text):
    (root / "train.txt").write_text(text, newline="")
    assert names(root) == NAMES


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_lists_of_windows_are_read(root, encoding):
    (root / "train.txt").write_text("\r\n".join(NAMES), encoding=encoding, newline="")
    assert names(root) == NAMES


@pytest.mark.parametrize(("listed", "stored"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_accents_may_be_written_in_either_form(root, listed, stored):
    for folder, suffix in (("images", ".jpg"), ("masks", ".png")):
        path = root / folder / f"train_0{suffix}"
        path.rename(path.with_stem(unicodedata.normalize(stored, "tr\u00e4in")))
    name = unicodedata.normalize(listed, "tr\u00e4in")
    (root / "train.txt").write_text(f"{name}\ntrain_1\n")
    pair = Folder.layout(FolderConfig(root=str(root))).train[0]
    assert pair.name == name
    assert pair.image.is_file()
    assert pair.mask.is_file()
    other = unicodedata.normalize(stored, "tr\u00e4in")
    (root / "train.txt").write_text(f"{name}\n{other}\n")
    with pytest.raises(RequestError, match="lists more than once for train"):
        names(root)
    (root / "train.txt").write_text(f"{name}\n")
    (root / "val.txt").write_text(f"{other}\n")
    with pytest.raises(RequestError, match="that results are measured on"):
        names(root)


def test_a_name_may_hold_an_unusual_separator(root):
    odd = "a\u2028b c, d"
    for folder, suffix in (("images", ".jpg"), ("masks", ".png")):
        (root / folder / f"train_0{suffix}").rename(root / folder / f"{odd}{suffix}")
    (root / "train.txt").write_text(f"{odd}\ntrain_1\n")
    assert names(root) == [odd, "train_1"]
    assert read_list(root / "train.txt") == ["a", "b c, d", "train_1"]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("Train_0", r"Train_0\.jpg: is not there; train_0\.jpg is"),
        ("train_0.png", r"train_0\.png\.jpg: is not there; train_0\.jpg is"),
        ("train\u200b_0", r"_0\.jpg: is not there; train_0\.jpg is"),
        ("train_9", r"train_9\.jpg: is not there\n"),
    ],
)
def test_a_missing_image_is_told_with_what_lies_there(root, line, told):
    (root / "train.txt").write_text(f"{line}\ntrain_1\n")
    with pytest.raises(RequestError, match=told):
        Folder(FolderConfig(root=str(root), cache=str(root / "cache")))


def test_a_missing_mask_is_told_with_what_lies_there(root):
    (root / "masks/train_0.png").rename(root / "masks/train_0.PNG")
    with pytest.raises(RequestError, match=r"train_0\.png: is not there; train_0\.PNG is"):
        Folder(FolderConfig(root=str(root), cache=str(root / "cache")))


def test_lists_of_voc_may_name_files(tmp_path):
    voc = trees.make_voc(tmp_path / "voc", train=3, augmented=0, val=2, side=16) / "VOCdevkit/VOC2012"
    settings = VOCConfig(root=str(voc.parents[1]))
    before = VOC.layout(settings).train
    ids = [pair.name for pair in before]
    path = voc / "ImageSets/Segmentation/train.txt"
    for line in ("{0}.jpg", "{0}.jpg {0}.png", "{0} {0}.png"):
        path.write_text("\n".join(line.format(name) for name in ids))
        assert VOC.layout(settings).train == before
    path.write_text(f"{ids[0]} -1\n")
    with pytest.raises(RequestError, match="but a line must be"):
        VOC.layout(settings)
