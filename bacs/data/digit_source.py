"""Where the digit images come from, and which of them each subset draws on."""

from __future__ import annotations

import hashlib
import importlib.util
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bacs.errors import Fault, RequestError

SUBSETS = ("train", "val", "test")
_SKLEARN_SHARES = (0.6, 0.15, 0.25)
_MNIST_TRAIN_SHARES = (0.8, 0.2)  # the test scenes draw on MNIST's own test set
_SPLIT_STREAM = len(SUBSETS)
"""Random stream of the division into subsets; the streams 0..2 belong to the scenes of each subset."""

_MNIST_PAIRS = (
    ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
)


@dataclass(frozen=True, slots=True)
class DigitPool:
    """Digit images that scenes draw on."""

    images: NDArray[np.uint8]
    """(M, S, S) ink, 0 none .. 255 full."""
    digits: NDArray[np.uint8]
    """(M,) 0..9."""

    def __len__(self) -> int:
        return len(self.digits)

    def take(self, rows: NDArray[np.int64]) -> DigitPool:
        return DigitPool(self.images[rows], self.digits[rows])


def source_checksum(source: str, root: str | None) -> str:
    """SHA-256 of the files the digits are read from. Imports no library: every start of a run needs it."""
    digest = hashlib.sha256()
    for path in _mnist_files(root) if source == "mnist" else [_sklearn_file()]:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def load_pools(source: str, root: str | None, *, digit_size: int, seed: int) -> dict[str, DigitPool]:
    """The digit images of each subset, as tiles of ``digit_size`` pixels. No image is in two subsets.

    Raises:
        RequestError: when the source has too few images for every subset to get one.
    """
    rng = np.random.default_rng((seed, _SPLIT_STREAM))
    if source == "mnist":
        training = _load_mnist(root, train=True)
        train, val = _stratified(training, _MNIST_TRAIN_SHARES, rng)
        parts = [train, val, _load_mnist(root, train=False)]
    else:
        parts = _stratified(_load_sklearn(), _SKLEARN_SHARES, rng)
    pools = {name: _resized(part, digit_size) for name, part in zip(SUBSETS, parts, strict=True)}
    empty = [name for name, pool in pools.items() if not len(pool)]
    if empty:
        raise RequestError.of(
            "dataset.root",
            f"leaves no digit image for: {', '.join(empty)}",
            "give the complete set of digits",
        )
    return pools


def download_mnist(root: str) -> None:
    """Lets torchvision fetch the files that are missing under ``root``.

    Raises:
        RequestError: when they cannot be fetched.
    """
    if all(path.exists() for path in _mnist_files(root)):
        return
    from torchvision.datasets import MNIST

    try:
        MNIST(root, download=True)
    except (OSError, RuntimeError) as error:
        remedy = f"check the network, or put the unpacked MNIST files into {_raw_folder(root)} yourself"
        raise RequestError.of("dataset.download", f"could not fetch MNIST: {error}", remedy) from error


def mnist_faults(root: str | None, *, download: bool) -> list[Fault]:
    """What is missing or damaged in torchvision's MNIST folder; reads file headers only."""
    if root is None:
        problem = "is null, but the source mnist is read from a folder"
        return [Fault("dataset.root", problem, "set dataset.root to the folder that holds MNIST/raw")]
    missing = [path.name for path in _mnist_files(root) if not path.is_file()]
    faults = [_damaged(path) for path in _mnist_files(root) if path.is_file() and not _is_intact_idx(path)]
    if missing and not download:
        problem = f"is {root}, but {_raw_folder(root)} lacks {', '.join(missing)}"
        remedy = "put the unpacked MNIST files there, or set dataset.download=true to have torchvision fetch them"
        faults.append(Fault("dataset.root", problem, remedy))
    if not missing and not faults:
        faults = _unequal_counts(root)
    return faults


def _raw_folder(root: str | None) -> Path:
    assert root is not None, "mnist_faults() comes first"
    return Path(root) / "MNIST" / "raw"


def _mnist_files(root: str | None) -> list[Path]:
    return [_raw_folder(root) / name for pair in _MNIST_PAIRS for name in pair]


def _idx_shape(path: Path) -> tuple[int, ...]:
    """Shape of an IDX file of bytes: two zeros, type 8, the number of axes, then each length (big-endian)."""
    with path.open("rb") as file:
        zeros, kind, axes = struct.unpack(">HBB", file.read(4))
        if zeros != 0 or kind != 8:
            raise ValueError(f"{path} is not an IDX file of bytes")
        return struct.unpack(f">{axes}I", file.read(4 * axes))


def _is_intact_idx(path: Path) -> bool:
    try:
        shape = _idx_shape(path)
    except (ValueError, struct.error):
        return False
    axes = 3 if "idx3" in path.name else 1
    return len(shape) == axes and path.stat().st_size == 4 + 4 * axes + math.prod(shape)


def _damaged(path: Path) -> Fault:
    problem = f"holds {path}, which is cut short or not in the IDX format"
    return Fault("dataset.root", problem, "delete that file and fetch it again with dataset.download=true")


def _unequal_counts(root: str) -> list[Fault]:
    faults = []
    for images, labels in _MNIST_PAIRS:
        n_images, n_labels = (_idx_shape(_raw_folder(root) / name)[0] for name in (images, labels))
        if n_images != n_labels:
            problem = f"{images} has {n_images} images, but {labels} has {n_labels} labels"
            faults.append(Fault("dataset.root", problem, "fetch both files again from one place"))
    return faults


def _load_mnist(root: str | None, *, train: bool) -> DigitPool:
    from torchvision.datasets import MNIST

    mnist = MNIST(root, train=train, download=False)
    return DigitPool(mnist.data.numpy(), mnist.targets.numpy().astype(np.uint8))


def _sklearn_file() -> Path:
    """The file that ``load_digits`` reads."""
    spec = importlib.util.find_spec("sklearn")
    assert spec is not None and spec.submodule_search_locations, "scikit-learn is a requirement"
    return Path(spec.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"


def _load_sklearn() -> DigitPool:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    ink = np.rint(bunch.images * (255 / 16)).astype(np.uint8)  # the images count ink in 0..16
    return DigitPool(ink, bunch.target.astype(np.uint8))


def _stratified(pool: DigitPool, shares: Sequence[float], rng: np.random.Generator) -> list[DigitPool]:
    """Divides a pool so that each part has its share of every digit."""
    rows: list[list[NDArray[np.int64]]] = [[] for _ in shares]
    for digit in range(10):
        mine = rng.permutation(np.flatnonzero(pool.digits == digit))
        bounds = np.rint(np.cumsum(shares)[:-1] * len(mine)).astype(int)
        for part, chosen in zip(rows, np.split(mine, bounds), strict=True):
            part.append(chosen)
    return [pool.take(np.sort(np.concatenate(part))) for part in rows]


def _resized(pool: DigitPool, size: int) -> DigitPool:
    """Bicubic: sharper than bilinear on 8x8 digits, and unlike Lanczos without ripples in the background."""
    if pool.images.shape[1:] == (size, size):
        return pool
    tiles = [np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC)) for image in pool.images]
    return DigitPool(np.stack(tiles) if tiles else np.empty((0, size, size), np.uint8), pool.digits)
