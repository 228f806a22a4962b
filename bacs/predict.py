"""``python -m bacs predict BUNDLE IMAGE... [--out DIR]``: masks of images, by the model of a checkpoint."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bacs.atomic import replacing
from bacs.bundle import BundleError
from bacs.errors import Fault, RequestError
from bacs.exits import DONE, FAILED, refuse
from bacs.media.palette import mask_palette
from bacs.model_record import ModelRecord
from bacs.plugins import allowing
from bacs.predictor import Predictor
from bacs.terminal import Terminal

_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
"""What Pillow calls pixels of 8 bits a channel or fewer."""

EPILOG = """A mask has the size of its image and holds a class id of the dataset in every pixel, 0 background, with a
palette. It is written to DIR/<name of the image>.png.

example:
  python -m bacs predict runs/single/voc/stage-005 photo.jpg --out masks

Exit codes: 0 done, 1 the checkpoint or an image is damaged (the other images are done), 2 the request was wrong."""


class UnreadableError(Exception):
    """A file is no usable picture; the message says why."""


def main(arguments: Sequence[str]) -> int:
    options = parser().parse_args(arguments)
    console, errors = Terminal(), Terminal(stderr=True)
    try:
        targets = check(options.bundle, options.images, options.out)
        with allowing(options.plugins):
            predictor = Predictor.load(options.bundle)
    except RequestError as error:
        return refuse(errors, error)
    except BundleError as error:
        errors.print(f"the checkpoint cannot be used: {error}", markup=False, highlight=False, soft_wrap=True)
        return FAILED
    code = DONE
    for image, target in targets.items():
        try:
            mask = predictor(read_image(image, predictor.record.channels))
        except (UnreadableError, RuntimeError) as error:  # PyTorch's, for images too small for the network
            errors.print(f"{image}: {error}", markup=False, highlight=False, soft_wrap=True)
            code = FAILED
            continue
        write_mask(target, mask, predictor.record)
        line = f"{image} -> {target}  {_shares(mask, predictor.record)}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return code


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m bacs predict",
        description="Segment images with the model of a checkpoint.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("bundle", metavar="BUNDLE", type=Path, help="a folder stage-NNN among the checkpoints of a run")
    made.add_argument("images", metavar="IMAGE", type=Path, nargs="+", help="a picture of any size")
    made.add_argument(
        "--out", metavar="DIR", type=Path, default=Path("runs/predictions"), help="where masks go (%(default)s)"
    )
    made.add_argument(
        "--plugins",
        metavar="PACKAGE,...",
        type=lambda names: names.split(","),
        default=[],
        help="packages of yours that the checkpoint may load",
    )
    return made


def check(bundle: Path, images: Sequence[Path], out: Path) -> dict[Path, Path]:
    """The file of each image's mask. Raises: RequestError: with everything that is wrong with the request."""
    faults = []
    if not (bundle / "meta.json").is_file():
        stages = ", ".join(str(path) for path in sorted(bundle.glob("stage-*")))
        remedy = f"give one of: {stages}" if stages else "give a folder stage-NNN that a run wrote to training.ckpt_dir"
        faults.append(Fault("BUNDLE", f"is {bundle}, which is no checkpoint", remedy))
    targets: dict[Path, Path] = {}
    for image in dict.fromkeys(images):
        target = out / f"{image.stem}.png"
        if not image.is_file():
            faults.append(Fault("IMAGE", f"is {image}, which is no file", "correct the path"))
        elif target.exists() and target.samefile(image):
            faults.append(Fault("--out", f"is {out}, where the mask would replace {image}", "give another folder"))
        elif target in targets.values():
            problem = f"is {image}, whose mask would replace that of another image ({target})"
            faults.append(Fault("IMAGE", problem, "give images of one name in calls with different --out"))
        targets[image] = target
    if out.exists() and not out.is_dir():
        faults.append(Fault("--out", f"is {out}, which is no folder", "give a folder"))
    if faults:
        raise RequestError(faults)
    return targets


def read_image(path: Path, channels: int) -> NDArray[np.uint8]:
    """(H, W, C), grey or colour; transparency is dropped, an orientation noted by the camera is not applied.

    Raises:
        UnreadableError: where the file is no picture of 8 bits a channel, or damaged.
    """
    try:
        with Image.open(path) as picture:
            if picture.mode not in _MODES:
                raise UnreadableError(f"has pixels of mode {picture.mode}, but must have 8 bits a channel")
            pixels = np.array(picture.convert("L" if channels == 1 else "RGB"), dtype=np.uint8)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UnreadableError(f"cannot be read: {error}") from error
    return pixels.reshape(*pixels.shape[:2], channels)


def write_mask(path: Path, mask: NDArray[np.uint8], record: ModelRecord) -> None:
    """A palette PNG. Args: mask: (H, W) class ids."""
    image = Image.fromarray(mask)
    image.putpalette(mask_palette(record.split).ravel().tolist())
    with replacing(path) as draft:
        image.save(draft, format="PNG")


def _shares(mask: NDArray[np.uint8], record: ModelRecord) -> str:
    """What is in a mask, the most frequent class first."""
    counts = np.bincount(mask.ravel(), minlength=256)
    labels = sorted(enumerate(record.split.label_ids), key=lambda pair: -counts[pair[1]])
    return ", ".join(
        f"{record.split.label_name(label, record.class_names)}: {100 * counts[class_id] / mask.size:.1f} %"
        for label, class_id in labels
        if counts[class_id]
    )
