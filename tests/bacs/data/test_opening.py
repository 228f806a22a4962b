"""What is found out about files when a dataset is opened; `data verify` must say the same of each of them."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bacs.data.ade20k import ADE20K, ADE20KConfig
from bacs.data.cityscapes import Cityscapes, CityscapesConfig
from bacs.data.folder import Folder, FolderConfig
from bacs.data.pixels import decode, open_mask
from bacs.data.verify import FAULT, WARNING, verify
from bacs.errors import RequestError
from tests.bacs.data import trees


@pytest.fixture
def root(tmp_path) -> Path:
    return trees.make_folder(tmp_path / "data", train=6, val=3, side=24)


def opened(root: Path, **settings) -> Folder:
    return Folder(FolderConfig(root=str(root), cache=str(root / "cache"), crop_size=16, val_share=0.5, **settings))


def refusal(root: Path) -> str:
    with pytest.raises(RequestError) as error:
        opened(root)
    return str(error.value)


def verdicts(root: Path) -> list[tuple[str, str]]:
    layout = Folder.layout(FolderConfig(root=str(root)))
    found = verify(layout, None).findings
    return [(f.level, f"{f.message} {f.remedy} {f.files}") for f in found if f.level in (FAULT, WARNING)]


def colours(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def exif(orientation: int) -> Image.Exif:
    note = Image.Exif()
    note[0x0112] = orientation
    return note


def as_format(kind: str, **options):
    def plant(path: Path) -> None:
        Image.fromarray(colours(path)).save(path, format=kind, **options)

    return plant


def as_mask(convert):
    def plant(path: Path) -> None:
        with Image.open(path) as mask:
            convert(mask.copy()).save(path, format="PNG")

    return plant


def deep_colour(path: Path) -> None:
    """A PNG of 16 bits a channel, which Pillow can read but not write."""
    height, width, _ = colours(path).shape
    rows = b"".join(b"\0" + bytes(6 * width) for _ in range(height))
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows))]
    packed = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in [*chunks, (b"IEND", b"")]
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(packed))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def lying(path: Path) -> None:
    """A photograph whose mask was drawn on what a viewer shows."""
    with Image.open(path) as image:
        image.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif(6))


ANIMATED = {"save_all": True, "append_images": [Image.new("RGB", (9, 9))]}
REFUSED = [
    ("images/val_0.jpg", cut, "cannot be read"),
    ("images/train_1.png", cut, "cannot be read"),
    ("images/val_0.jpg", lambda path: path.write_bytes(b""), "it is empty"),
    ("images/val_0.jpg", lambda path: path.write_text("<html>"), "it is no image"),
    ("images/val_0.jpg", as_format("BMP"), "is a BMP picture"),
    ("images/val_0.jpg", as_format("TIFF"), "is a TIFF picture"),
    ("images/train_1.png", as_format("PNG", **ANIMATED), "is an animation of 2 pictures"),
    ("images/train_1.png", as_format("GIF", **ANIMATED), "is an animation of 2 pictures"),
    ("images/train_1.png", deep_colour, "has 16 bits a channel"),
    ("images/val_0.jpg", lying, "lies on its side (EXIF orientation 6"),
    ("masks/val_2.png", cut, "cannot be read"),
    ("masks/val_2.png", lambda path: path.write_bytes(b""), "it is empty"),
    ("masks/val_2.png", as_format("JPEG"), "is a JPEG picture, but a mask must be a PNG"),
    ("masks/val_2.png", as_format("BMP"), "is a BMP picture, but a mask must be a PNG"),
    ("masks/val_2.png", as_mask(lambda mask: mask.convert("RGB")), "has pixels of mode RGB"),
    ("masks/val_2.png", as_mask(lambda mask: mask.convert("RGBA")), "has pixels of mode RGBA"),
    ("masks/val_2.png", as_mask(lambda mask: mask.convert("LA")), "has pixels of mode LA"),
    ("masks/val_2.png", as_mask(lambda m: Image.fromarray(np.asarray(m).astype(np.uint16))), "has pixels of mode I;16"),
    ("masks/val_2.png", as_mask(lambda mask: mask.resize((9, 7), 0)), "is 9x7, its image"),
]


@pytest.mark.parametrize(("file", "plant", "words"), REFUSED)
def test_a_run_and_verify_refuse_the_same_files(root, file, plant, words):
    plant(root / file)
    told = refusal(root)
    assert words in told
    assert str(root / file) in told
    (verdict,) = verdicts(root)
    assert verdict[0] == FAULT
    assert words in verdict[1]


READ = [
    ("images/val_0.jpg", as_format("JPEG", progressive=True)),
    ("images/val_0.jpg", as_format("PNG")),
    ("images/train_1.png", as_format("JPEG")),
    ("images/val_0.jpg", as_format("MPO", **ANIMATED)),
    ("images/train_1.png", lambda path: Image.fromarray(colours(path)).convert("CMYK").save(path, format="JPEG")),
    ("images/train_1.png", lambda path: Image.fromarray(colours(path)).convert("P").save(path)),
    ("masks/val_2.png", as_mask(lambda mask: mask.convert("P"))),
]


@pytest.mark.parametrize(("file", "plant"), READ)
def test_a_run_and_verify_read_the_same_files(root, file, plant):
    before = np.asarray(open_mask(str(root / "masks/val_2.png")))
    plant(root / file)
    data = opened(root)
    assert not verdicts(root)
    for scenes in (data.train, data.val, data.test):
        for row in range(len(scenes)):
            scenes.read_whole(row)
    assert np.array_equal(np.asarray(open_mask(str(root / "masks/val_2.png"))), before)


@pytest.mark.parametrize(("bits", "top"), [(1, 1), (2, 3), (4, 3)])
@pytest.mark.parametrize("kind", ["grey", "palette"])
def test_masks_of_few_bits_hold_their_ids(tmp_path, bits, top, kind):
    ids = np.random.default_rng(0).integers(0, top + 1, (5, 7), dtype=np.uint8)
    size = struct.pack(">IIBBBBB", 7, 5, bits, 0 if kind == "grey" else 3, 0, 0, 0)
    rows = b""
    for row in ids:
        text = "".join(f"{value:0{bits}b}" for value in row)
        rows += b"\0" + bytes(int(text[i : i + 8].ljust(8, "0"), 2) for i in range(0, len(text), 8))
    palette = [(b"PLTE", bytes(range(3 * 2**bits)))] if kind == "palette" else []
    chunks = [(b"IHDR", size), *palette, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    packed = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks]
    (tmp_path / "mask.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(packed))
    Image.new("RGB", (7, 5)).save(tmp_path / "image.png")
    assert np.array_equal(np.asarray(open_mask(str(tmp_path / "mask.png"))), ids)
    assert np.array_equal(decode(str(tmp_path / "image.png"), str(tmp_path / "mask.png"))[..., 3], ids)


def test_a_mask_beyond_the_limit_is_named(root, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 24 * 40)
    Image.new("L", (100, 100)).save(root / "masks/train_0.png")
    assert "masks/train_0.png: has more than 1,920 pixels" in refusal(root)
    assert "has more than 1,920 pixels" in verdicts(root)[0][1]


@pytest.mark.parametrize("orientation", [3, 6])
def test_a_note_to_turn_an_image_is_told_where_its_size_decides_nothing(root, orientation):
    path = root / "images/train_0.jpg"
    with Image.open(path) as image:
        size = (24, 24) if orientation == 6 else image.size
        image.resize(size).save(path, exif=exif(orientation))
    with Image.open(root / "masks/train_0.png") as mask:
        mask.resize(size, Image.Resampling.NEAREST).save(root / "masks/train_0.png")
    (note,) = opened(root).notes
    assert "1 image(s) hold a note of the camera" in note
    assert "train_0.jpg" in note
    assert [level for level, _ in verdicts(root)] == [WARNING]


def remapped(change):
    def plant(root: Path) -> None:
        for path in (root / "masks").glob("*.png"):
            with Image.open(path) as mask:
                values = np.asarray(mask).copy()
            Image.fromarray(change(values)).save(path)

    return plant


VALUES = [
    (lambda m: np.where((m > 0) & (m < 255), m + 1, m).astype(np.uint8), "4 in ", "shifted by one"),
    (lambda m: np.where(m > 0, 255, 0).astype(np.uint8), "they hold 0 in 6, 255 in 6", "black and white"),
    (lambda m: np.where(m == 255, 254, m).astype(np.uint8), "254 in 9 masks", "write pixels to be ignored as 255"),
    (lambda m: np.where(m == 255, 0, m * 60).astype(np.uint8), "60 in ", "All are multiples of 60"),
    (lambda m: np.clip(m + np.arange(m.shape[1]), 0, 200).astype(np.uint8), " more", "resized with smoothing"),
    (np.zeros_like, "they hold 0 in 6", "look whether the masks"),
]


@pytest.mark.parametrize(("change", "values", "cause"), VALUES)
def test_illegal_values_are_refused_with_their_cause(root, change, values, cause):
    remapped(change)(root)
    told = refusal(root)
    assert values in told
    assert cause in told
    faults = [text for level, text in verdicts(root) if level == FAULT]
    assert any(cause in text for text in faults)


def test_train_ids_are_recognised(tmp_path):
    root = trees.make_cityscapes(tmp_path / "tree", cities=["aachen", "munster"], height=16)
    ids = {value: label for label, value in enumerate(trees.LABEL_IDS)}
    for path in root.rglob("*_labelIds.png"):
        with Image.open(path) as mask:
            train_ids = [[ids.get(int(value), 255) for value in row] for row in np.asarray(mask)]
        Image.fromarray(np.array(train_ids, dtype=np.uint8)).save(path)
    with pytest.raises(RequestError, match=r"255 in .*\n.*train ids, which count classes from 0"):
        Cityscapes(CityscapesConfig(root=str(root), cache=str(tmp_path / "cache")))


def test_what_macos_leaves_beside_files_is_no_image(tmp_path):
    root = trees.make_ade20k(tmp_path / "ade", train=3, val=2, side=16) / "ADEChallengeData2016"
    before = ADE20K.layout(ADE20KConfig(root=str(root.parent)))
    for folder in ("images/training", "annotations/training"):
        for name in ("._ADE_train_00000001.jpg", "._ADE_train_00000001.png", ".DS_Store"):
            (root / folder / name).write_bytes(b"\0\5\x16\7")
    assert ADE20K.layout(ADE20KConfig(root=str(root.parent))).train == before.train
    city = trees.make_cityscapes(tmp_path / "city", cities=["aachen", "munster"], height=16)
    before = Cityscapes.layout(CityscapesConfig(root=str(city)))
    (city / "leftImg8bit/train/aachen/._aachen_000000_000019_leftImg8bit.png").write_bytes(b"\0\5")
    (city / "gtFine/train/.Trashes").mkdir()
    assert Cityscapes.layout(CityscapesConfig(root=str(city))).train == before.train


def test_a_stray_copy_is_told_as_one(tmp_path):
    root = trees.make_ade20k(tmp_path / "ade", train=3, val=2, side=16) / "ADEChallengeData2016"
    images = root / "images/training"
    (images / "copy of 1.jpg").write_bytes((images / "ADE_train_00000001.jpg").read_bytes())
    with pytest.raises(RequestError, match=r"copy of 1\.png: is not there\n.*or take copy of 1 out of the lists"):
        ADE20K(ADE20KConfig(root=str(root.parent), cache=str(tmp_path / "cache")))


@pytest.mark.parametrize("file", ["images/val_0.jpg", "masks/val_0.png", "train.txt", "val.txt", "classes.txt"])
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: Path(path).symlink_to("/dev/zero"), os.mkdir])
def test_only_regular_files_are_opened(root, file, make):
    (root / file).unlink()
    make(root / file)
    told = refusal(root)
    assert str(root / file) in told
    assert "must be a regular file" in told
