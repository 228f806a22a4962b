"""Small trees in the true on-disk format of each dataset: true names, palettes, borders, suffixes; a second at most.

Every class is a shape of its own colour on a noisy background, so a network can learn it. The same arguments write
the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

TRAIN_CITIES = (
    "aachen",
    "bochum",
    "bremen",
    "cologne",
    "darmstadt",
    "dusseldorf",
    "erfurt",
    "hamburg",
    "hanover",
    "jena",
    "krefeld",
    "monchengladbach",
    "strasbourg",
    "stuttgart",
    "tubingen",
    "ulm",
    "weimar",
    "zurich",
)
VAL_CITIES = ("frankfurt", "lindau", "munster")
LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""The mask values of the 19 classes of Cityscapes, in the order of the classes."""
VOID_IDS = (0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30)


def make_voc(root: Path, *, train: int = 20, augmented: int = 20, val: int = 20, side: int = 64, seed: int = 0) -> Path:
    """``root/VOCdevkit/VOC2012``, JPEG images of uneven sizes around ``side`` pixels, palette PNG masks with borders.

    Args:
        root: the future ``dataset.root``.
        train: images of VOC's own train list (class 1 first, then 2, ..., each with up to two further classes).
        augmented: further images that only ``train_aug.txt`` and ``SegmentationClassAug`` know; 0 writes neither.
        val: images of the val list.
        side: shorter side of the images, about.
        seed: of everything that is random.

    Returns:
        ``root``.
    """
    voc = root / "VOCdevkit" / "VOC2012"
    ids: dict[str, list[str]] = {}
    for subset, count, year in (("train", train, 2007), ("val", val, 2008), ("train_aug", augmented, 2010)):
        ids[subset] = [f"{year}_{number:06d}" for number in range(32, 32 + count)]
        for position, name in enumerate(ids[subset]):
            rng = np.random.default_rng([seed, year, position])
            image, mask = paint(_classes(position, 20, rng), _uneven(side, rng), rng, border=True)
            _save(image, voc / "JPEGImages" / f"{name}.jpg")
            if subset != "train_aug":
                _save_palette(mask, voc / "SegmentationClass" / f"{name}.png")
            if augmented and subset != "val":
                _save(mask, voc / "SegmentationClassAug" / f"{name}.png")
    lists = voc / "ImageSets" / "Segmentation"
    _write_lines(lists / "train.txt", ids["train"])
    _write_lines(lists / "val.txt", ids["val"])
    _write_lines(lists / "trainval.txt", sorted(ids["train"] + ids["val"]))
    if augmented:
        _write_lines(lists / "train_aug.txt", ids["train"] + ids["train_aug"])
    return root


def make_cityscapes(
    root: Path, *, per_city: int = 2, cities: Sequence[str] | None = None, height: int = 64, seed: int = 0
) -> Path:
    """``root/leftImg8bit`` and ``root/gtFine`` with the city folders of train (18) and val (3), PNG images 2:1.

    Args:
        root: the future ``dataset.root``.
        per_city: images of each city.
        cities: the cities to write; ``None``: all 21.
        height: of the images, in pixels; the width is twice as much.
        seed: of everything that is random.
    """
    known = (*TRAIN_CITIES, *VAL_CITIES)
    for city in known if cities is None else cities:
        subset = "val" if city in VAL_CITIES else "train"
        for position in range(per_city):
            rng = np.random.default_rng([seed, known.index(city), position])
            drawn = _classes(known.index(city) * per_city + position, 19, rng)
            values = [LABEL_IDS[class_id - 1] for class_id in drawn] + [int(rng.choice(VOID_IDS))]
            image, mask = paint(values, (height, 2 * height), rng, border=False)
            name = f"{city}_{position:06d}_000019"
            truth = root / "gtFine" / subset / city / f"{name}_gtFine"
            _save(image, root / "leftImg8bit" / subset / city / f"{name}_leftImg8bit.png")
            _save(mask, truth.with_name(f"{truth.name}_labelIds.png"))
            _save(Image.fromarray(colour_map()[np.asarray(mask)]), truth.with_name(f"{truth.name}_color.png"))
            polygons = {"imgHeight": height, "imgWidth": 2 * height, "objects": []}
            truth.with_name(f"{truth.name}_polygons.json").write_text(json.dumps(polygons))
    return root


def make_ade20k(root: Path, *, train: int = 30, val: int = 15, side: int = 64, seed: int = 0) -> Path:
    """``root/ADEChallengeData2016``; each image has five of the 150 classes, so 30 images have all of them."""
    ade = root / "ADEChallengeData2016"
    for folder, prefix, count in (("training", "train", train), ("validation", "val", val)):
        for position in range(count):
            rng = np.random.default_rng([seed, len(folder), position])
            classes = [1 + (5 * position + offset) % 150 for offset in range(5)]
            image, mask = paint(classes, _uneven(side, rng), rng, border=False)
            name = f"ADE_{prefix}_{position + 1:08d}"
            _save(image, ade / "images" / folder / f"{name}.jpg")
            _save(mask, ade / "annotations" / folder / f"{name}.png")
    return root


def make_folder(
    root: Path,
    *,
    class_names: Sequence[str] = ("disc", "square", "triangle"),
    train: int = 12,
    val: int = 6,
    side: int = 64,
    seed: int = 0,
) -> Path:
    """``root/{images,masks,classes.txt,train.txt,val.txt}``; images are JPEG and PNG in turn."""
    for subset, count in (("train", train), ("val", val)):
        names = [f"{subset}_{number}" for number in range(count)]
        for position, name in enumerate(names):
            rng = np.random.default_rng([seed, len(subset), position])
            image, mask = paint(_classes(position, len(class_names), rng), _uneven(side, rng), rng, border=True)
            _save(image, root / "images" / f"{name}.{('jpg', 'png')[position % 2]}")
            _save(mask, root / "masks" / f"{name}.png")
        _write_lines(root / f"{subset}.txt", names)
    _write_lines(root / "classes.txt", class_names)
    return root


def paint(
    values: Sequence[int], size: tuple[int, int], rng: np.random.Generator, *, border: bool
) -> tuple[Image.Image, Image.Image]:
    """A scene with a shape for each mask value, none hidden by another.

    Args:
        values: mask values; a value has the colour and the shape that it has in every scene.
        size: (H, W) in pixels.
        rng: of places and noise.
        border: outline the shapes with 255, as VOC does.

    Returns:
        An RGB image and its mask of mode L.
    """
    height, width = size
    image, mask = (Image.new(mode, (width, height)) for mode in ("RGB", "L"))
    on_image, on_mask = ImageDraw.Draw(image), ImageDraw.Draw(mask)
    colours = colour_map()
    slot = width / len(values)
    for position, value in enumerate(values):
        w, h = slot * rng.uniform(0.6, 0.9), height * rng.uniform(0.4, 0.8)
        x, y = position * slot + rng.uniform(0, slot - w), rng.uniform(0, height - h)
        outline = 255 if border else value
        for draw, fill, edge in (
            (on_image, tuple(colours[value].tolist()), None),
            (on_mask, value, outline),
        ):
            box = [int(x), int(y), int(x + w), int(y + h)]
            (draw.ellipse, draw.rectangle)[value % 2](box, fill=fill, outline=edge)
    noise = rng.integers(0, 40, (height, width, 3))
    noisy = np.clip(np.asarray(image, dtype=np.int64) + noise, 0, 255).astype(np.uint8)
    return Image.fromarray(noisy), mask


def colour_map() -> np.ndarray:
    """(256, 3) The palette of the VOC masks: the bits of the index dealt to red, green and blue, high bits first."""
    index = np.arange(256)
    channels = [sum(((index >> (3 * bit + c)) & 1) << (7 - bit) for bit in range(3)) for c in range(3)]
    return np.stack(channels, axis=1).astype(np.uint8)


def _classes(position: int, n_classes: int, rng: np.random.Generator) -> list[int]:
    """The class whose turn it is, and up to two others, so that every class is met in ``n_classes`` images."""
    first = 1 + position % n_classes
    others = [c for c in range(1, n_classes + 1) if c != first]
    extra = rng.choice(others, size=min(int(rng.integers(3)), len(others)), replace=False)
    return [first, *(int(c) for c in extra)]


def _uneven(side: int, rng: np.random.Generator) -> tuple[int, int]:
    """(H, W) in landscape or portrait, the shorter one ``side``."""
    longer = side + int(rng.integers(side // 2))
    return (side, longer) if rng.random() < 0.5 else (longer, side)


def _save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def _save_palette(mask: Image.Image, path: Path) -> None:
    coloured = mask.copy()
    coloured.putpalette(list(chain.from_iterable(colour_map().tolist())))
    _save(coloured, path)


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))
