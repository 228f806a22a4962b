from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.io import ImageReadMode, decode_image

from bacs.data.pixels import PixelReader, decode, decode_picture, open_mask
from bacs.errors import RequestError


@pytest.fixture
def pair(tmp_path):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(tmp_path / "image.png")
    Image.fromarray(rng.integers(0, 5, (20, 30), dtype=np.uint8)).save(tmp_path / "mask.png")
    return str(tmp_path / "image.png"), str(tmp_path / "mask.png")


def test_pixels_are_colours_and_mask_values(pair):
    pixels = decode(*pair)
    assert pixels.shape == (20, 30, 4)
    assert np.array_equal(pixels[..., :3], np.asarray(Image.open(pair[0])))
    assert np.array_equal(pixels[..., 3], np.asarray(Image.open(pair[1])))


@pytest.mark.parametrize(
    ("mode", "colour", "suffix", "rgb"),
    [
        ("L", 90, "jpg", (90, 90, 90)),
        ("1", 1, "png", (255, 255, 255)),
        ("LA", (90, 10), "png", (90, 90, 90)),
        ("RGBA", (200, 100, 50, 0), "png", (200, 100, 50)),
        ("CMYK", (0, 255, 255, 0), "jpg", (255, 0, 0)),
        ("YCbCr", (90, 128, 128), "jpg", (90, 90, 90)),
    ],
)
def test_unusual_images_come_out_as_rgb(tmp_path, mode, colour, suffix, rgb):
    path = tmp_path / f"image.{suffix}"
    Image.new(mode, (16, 8), colour).save(path)
    pixels = decode_picture(str(path))
    assert pixels.shape == (8, 16, 3)
    assert np.abs(pixels.astype(int) - rgb).max() <= 3  # JPEG is lossy


def test_a_palette_with_transparency_is_looked_up_in_images_only(tmp_path):
    picture = Image.new("P", (4, 4), 2)
    picture.putpalette([0, 0, 0, 10, 20, 30, 40, 50, 60])
    picture.save(tmp_path / "palette.png", transparency=2)
    assert (decode_picture(str(tmp_path / "palette.png")) == (40, 50, 60)).all()
    assert (np.asarray(open_mask(str(tmp_path / "palette.png"))) == 2).all()


def test_what_is_no_8_bit_picture_is_refused(tmp_path):
    Image.fromarray(np.full((4, 4), 40000, dtype=np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(RequestError, match=r"deep\.png: has 16 bits a channel"):
        decode_picture(str(tmp_path / "deep.png"))
    Image.new("RGB", (4, 4)).save(tmp_path / "coloured.png")
    with pytest.raises(RequestError, match=r"coloured\.png: has pixels of mode RGB, but a mask"):
        open_mask(str(tmp_path / "coloured.png"))


@pytest.mark.parametrize("damage", ["missing", "cut", "text", "empty"])
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_damaged_files_are_named(pair, damage, suffix):
    picture = pair[0].replace("png", suffix)
    Image.open(pair[0]).save(picture)
    pair = picture, pair[1]
    for path in (Path(file) for file in pair):
        data = path.read_bytes()
        path.write_bytes({"cut": data[: len(data) // 2], "text": b"not an image"}.get(damage, b""))
        if damage == "missing":
            path.unlink()
        with pytest.raises(RequestError, match=rf"{path}: cannot be read") as error:
            decode(*pair)
        assert "restore" in error.value.faults[0].remedy
        path.write_bytes(data)


def test_sizes_must_agree(pair):
    Image.new("L", (29, 20)).save(pair[1])
    with pytest.raises(RequestError, match=r"mask\.png: is 29x20 pixels, but its image .* is 30x20"):
        decode(*pair)


def test_copies_are_mapped_and_mended(pair, tmp_path):
    reader = PixelReader(tmp_path / "pixels")
    wanted = decode(*pair)
    assert np.array_equal(reader.read("city/a", *pair), wanted)
    again = reader.read("city/a", *pair)
    assert isinstance(again, np.memmap)
    assert np.array_equal(again, wanted)
    copy = tmp_path / "pixels" / "city" / "a.npy"
    for size in (0, 50, copy.stat().st_size - 1):
        copy.write_bytes(copy.read_bytes()[:size])
        assert np.array_equal(reader.read("city/a", *pair), wanted)
        assert isinstance(reader.read("city/a", *pair), np.memmap)
    assert [path.name for path in copy.parent.iterdir()] == ["a.npy"]


def test_every_kind_of_png_comes_out_as_torchvision_has_it(tmp_path):
    path = str(tmp_path / "image.png")
    colours = Image.fromarray(np.random.default_rng(0).integers(0, 256, (1100, 9, 3), dtype=np.uint8))
    pictures = [(colours.convert(mode), {}) for mode in ("RGB", "L", "1", "P", "LA", "RGBA")]
    pictures += [(colours.convert("P"), {"transparency": 3}), (colours, {"transparency": (1, 2, 3)})]
    pictures += [(colours.quantize(4), {"bits": 2}), (colours.quantize(16), {"bits": 4})]
    for picture, options in pictures:
        picture.save(path, **options)
        wanted = decode_image(path, ImageReadMode.RGB).permute(1, 2, 0).numpy()
        assert np.array_equal(decode_picture(path), wanted), (picture.mode, options)


def test_a_png_with_damaged_pixels_ends_no_process(tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)).save(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(RequestError, match=r"image\.png: cannot be read: broken"):
        decode_picture(str(path))
