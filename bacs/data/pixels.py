"""Pixels of an image and its mask: decoded from their files, or mapped from a decoded copy."""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from bacs.errors import RequestError, UnreachableError
from bacs.files import file_problem

_MASK_MODES = ("1", "L", "P")
"""Modes of Pillow in which a pixel is one number of 0..255. Anything else would have to be converted: no index."""
FORMATS = ("JPEG", "MPO", "PNG", "GIF", "WEBP")
"""What images are decoded from, whatever their files are called. MPO: a JPEG with other pictures behind the first."""
_ENDINGS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB\x60\x82"}
"""What a complete file ends in. Inside the pixels of a JPEG these bytes cannot occur."""
_TAIL_BYTES = 64
_ROWS = 1024
_PNG = b"\x89PNG\r\n\x1a\n"
_HEAD_BYTES = 26
_BIT_DEPTH, _COLOUR_TYPE, _GREY = 24, 25, 0  # of a PNG: two bytes of its head
_ORIENTATION = 0x0112  # of EXIF
_RESTORE = "restore the file from the dataset's archive"
_AS_INDEX = "save it as a grey or palette PNG of class ids"

# Files larger than Pillow's second limit are refused, by name; nobody needs a word on those beyond its first.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class WrongKindError(RequestError):
    """A sound picture, but not of the kind that is read in its place."""


@dataclass(frozen=True, slots=True)
class Header:
    """What an image's file says before it is decoded."""

    size: tuple[int, int]
    """(width, height) of the pixels as they are stored."""
    orientation: int
    """How a viewer turns them, by EXIF; 1: not at all."""
    is_whole: bool
    """Whether the file ends as one does that was not cut off."""


@dataclass(frozen=True, slots=True)
class PixelReader:
    """Reads an image and its mask as one array."""

    copies: Path | None
    """Folder of decoded copies, one ``.npy`` per image, made when an image is first read; ``None``: decode always."""

    def read(self, name: str, image: str, mask: str) -> NDArray[np.uint8]:
        """(H, W, 4) RGB and raw mask value; a read-only memory map where there is a copy.

        Args:
            name: of the image, unique within the dataset.
            image: its file.
            mask: the file of its mask.

        Raises:
            RequestError: where a file is missing, damaged, of another kind, or both differ in size.
        """
        if self.copies is None:
            return decode(image, mask)
        copy = self.copies / f"{name}.npy"
        try:
            return np.load(copy, mmap_mode="r")
        except (OSError, ValueError, EOFError):  # absent, or cut short by a full disk or a power failure
            pixels = decode(image, mask)
            _write(copy, pixels)
            return pixels


def decode(image: str, mask: str) -> NDArray[np.uint8]:
    """(H, W, 4) RGB and raw mask value. As the method, without a copy."""
    colours, values = decode_picture(image), np.asarray(open_mask(mask))
    if colours.shape[:2] != values.shape:
        sizes = f"is {_size(values)} pixels, but its image {image} is {_size(colours)}"
        raise RequestError.of(mask, sizes, "replace the pair by files that belong together")
    pixels = np.empty((*values.shape, 4), dtype=np.uint8)
    for channel in range(3):  # one by one, as all three at once take NumPy four times as long
        pixels[..., channel] = colours[..., channel]
    pixels[..., 3] = values
    return pixels


def decode_picture(path: str) -> NDArray[np.uint8]:
    """(H, W, 3) RGB of any 8-bit JPEG or PNG: grey, palette, CMYK; transparency is dropped, not blended.

    An orientation noted by the camera is not applied, as masks are drawn on the stored pixels.

    Raises:
        UnreachableError: the system did not give the file.
        RequestError: it is damaged, or a :class:`WrongKindError`.
    """
    if problem := file_problem(path):
        raise UnreachableError.of(path, problem, _RESTORE)
    try:
        if np.fromfile(path, dtype=np.uint8, count=len(_PNG)).tobytes() != _PNG:
            return _decoded(path, np.fromfile(path, dtype=np.uint8))
    except OSError as error:
        _unreachable(path, error)
    with _opened(path) as (picture, head, _):  # a damaged one ends the process in torchvision 0.29
        _require_8_bits(path, head)
        return pixels_of(picture, "RGB")


def pixels_of(picture: Image.Image, mode: Literal["L", "RGB"]) -> NDArray[np.uint8]:
    """(H, W, 1) or (H, W, 3) of a picture of any mode. A large one is converted part by part, to save memory."""
    pixels = np.empty((picture.height, picture.width, len(mode)), dtype=np.uint8)
    for top in range(0, picture.height, _ROWS):
        below = min(top + _ROWS, picture.height)
        part = picture if below - top == picture.height else picture.crop((0, top, picture.width, below))
        part = part if part.mode == mode else part.convert(mode)
        pixels[top:below] = np.asarray(part).reshape(below - top, picture.width, len(mode))
    return pixels


def _decoded(path: str, content: NDArray[np.uint8]) -> NDArray[np.uint8]:
    from torchvision.io import ImageReadMode, decode_image  # two seconds, which not every command needs

    if not len(content):
        raise RequestError.of(path, "cannot be read: it is empty", _RESTORE)
    try:
        picture = decode_image(torch.from_numpy(content), ImageReadMode.RGB)
    except (RuntimeError, ValueError) as error:
        reason = str(error).rsplit(", ", 1)[-1]  # before it stands a place in torchvision's source
        raise RequestError.of(path, f"cannot be read: {reason}", _RESTORE) from None
    if picture.dim() != 3:
        raise _no_still(path, len(picture))
    return picture.permute(1, 2, 0).numpy()


def look_at_picture(path: str) -> Header:
    """The header of an image.

    Raises:
        UnreachableError: the system did not give the file.
        RequestError: it is no picture, or of a kind that :func:`decode_picture` does not read.
    """
    with _opened(path) as (picture, head, file):
        kind = picture.format or ""
        if kind not in FORMATS:
            raise WrongKindError.of(path, f"is a {kind} picture, but must be a JPEG or PNG", "convert it to PNG")
        if kind == "PNG":
            _require_8_bits(path, head)
        if kind != "MPO":
            _require_still(path, picture)
        ending = _ENDINGS.get(kind)
        return Header(picture.size, _orientation(picture), ending is not None and ending in _tail(file))


def open_mask(path: str) -> Image.Image:
    """A decoded mask of mode L or P, whose pixels are the mask values: a palette is never looked up.

    Grey values of 1, 2 and 4 bits are those in the file, which Pillow spreads over 0..255.

    Raises:
        UnreachableError: the system did not give the file.
        RequestError: it is damaged, or has colours instead of values.
    """
    with _opened(path) as (mask, head, _):
        if mask.format != "PNG":
            rule = f"is a {mask.format} picture, but a mask must be a PNG"
            raise WrongKindError.of(path, rule, f"{_AS_INDEX}; JPEG changes them, so draw such masks anew")
        if mask.mode not in _MASK_MODES:
            rule = f"has pixels of mode {mask.mode}, but a mask must hold one 8-bit class id a pixel"
            raise WrongKindError.of(path, rule, _AS_INDEX)
        _require_still(path, mask)
        mask.load()
    depth = head[_BIT_DEPTH]
    if head[_COLOUR_TYPE] != _GREY or depth == 8:
        return mask
    step = 255 // (2**depth - 1)
    return mask.convert("L").point(lambda value: value // step)


@contextmanager
def _opened(path: str) -> Iterator[tuple[Image.Image, bytes, IO[bytes]]]:
    """A picture, its first bytes and its file. Whatever goes wrong inside is an error that names the file."""
    if problem := file_problem(path):
        raise UnreachableError.of(path, problem, _RESTORE)
    try:
        with Path(path).open("rb") as file:
            head = file.read(_HEAD_BYTES)
            if not head:
                raise RequestError.of(path, "cannot be read: it is empty", _RESTORE)
            with Image.open(file) as picture:
                yield picture, head, file
    except RequestError:
        raise
    except UnidentifiedImageError:
        raise RequestError.of(path, "cannot be read: it is no image", _RESTORE) from None
    except Image.DecompressionBombError:
        problem = f"has more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels, the most that are read"
        raise WrongKindError.of(path, problem, "cut image and mask into tiles") from None
    except Exception as error:  # decoders raise whatever their format's parser met
        if isinstance(error, OSError) and error.errno is not None:
            _unreachable(path, error)
        raise RequestError.of(path, f"cannot be read: {str(error) or type(error).__name__}", _RESTORE) from None


def _unreachable(path: str, error: OSError) -> NoReturn:
    raise UnreachableError.of(path, f"cannot be read: {error.strerror or error}", _RESTORE) from None


def _require_8_bits(path: str, head: bytes) -> None:
    if (depth := head[_BIT_DEPTH]) > 8:
        raise WrongKindError.of(path, f"has {depth} bits a channel, but must have 8", "convert it to 8 bits")


def _require_still(path: str, picture: Image.Image) -> None:
    frames = getattr(picture, "n_frames", 1)
    if frames > 1:
        raise _no_still(path, frames)


def _no_still(path: str, frames: int) -> WrongKindError:
    return WrongKindError.of(path, f"is an animation of {frames} pictures, but must be one", "save one of them alone")


def _orientation(picture: Image.Image) -> int:
    try:
        # Of the class that all formats share: that of PNG decodes the whole picture to see what follows its pixels.
        value = Image.Image.getexif(picture).get(_ORIENTATION, 1)
    except Exception:  # notes of cameras are often damaged, and nothing else hangs on them
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _tail(file: IO[bytes]) -> bytes:
    file.seek(0, 2)
    file.seek(max(0, file.tell() - _TAIL_BYTES))
    return file.read()


def _size(pixels: NDArray[np.uint8]) -> str:
    return f"{pixels.shape[1]}x{pixels.shape[0]}"


def _write(copy: Path, pixels: NDArray[np.uint8]) -> None:
    """Under a name of its own first, so that no reader sees half a file; the last of several writers wins."""
    copy.parent.mkdir(parents=True, exist_ok=True)
    draft = copy.with_name(f".{copy.name}.{uuid.uuid4().hex}")
    try:
        with draft.open("wb") as file:
            np.save(file, pixels, allow_pickle=False)
        draft.replace(copy)
    finally:
        draft.unlink(missing_ok=True)
