"""Settings of the digit scenes, and what can be said about them before anything is generated."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from bacs.data.array_cache import cache_faults
from bacs.data.digit_source import mnist_faults
from bacs.errors import Fault
from bacs.schema import knob, parse_all

MOST_PIXELS = 10**10
"""Of all scenes together, 3 bytes each while they are made."""


@dataclass(frozen=True, kw_only=True)
class DigitsConfig:
    """Grey scenes of two to four handwritten digits on a black canvas."""

    source: str = knob("sklearn", choices=("sklearn", "mnist"))
    """Digit images: ``sklearn`` (1797 of 8x8 pixels, part of scikit-learn) or ``mnist`` (70000 of 28x28)."""
    root: str | None = knob(None, acts_from=None, path=True)
    """MNIST only: the folder that holds ``MNIST/raw``, as torchvision lays it out."""
    download: bool = knob(False, acts_from=None)
    """MNIST only: let torchvision fetch missing files into ``root``."""
    cache: str = knob("runs/cache", acts_from=None, path=True)
    """Folder that keeps generated scenes."""
    seed: int = knob(0, ge=0, le=2**32 - 1)
    """Of the scenes and of the share of digit images that each subset draws on."""
    canvas: int = knob(60, ge=8, le=4096)
    """Height and width of a scene, in pixels."""
    digit_size: int = knob(28, ge=4, le=4096)
    """Height and width of a digit's tile, in pixels; at most ``canvas``."""
    train_scenes: int = knob(1000, ge=1, le=1_000_000)
    """Number of training scenes."""
    val_scenes: int = knob(250, ge=1, le=1_000_000)
    """Number of validation scenes."""
    test_scenes: int = knob(500, ge=1, le=1_000_000)
    """Number of test scenes."""
    min_digits: int = knob(2, ge=1, le=100)
    """Fewest digits drawn for a scene; it holds fewer where the canvas has no room left."""
    max_digits: int = knob(4, ge=1, le=100)
    """Most digits of a scene; at least ``min_digits``."""
    max_overlap_iou: float = knob(0.25, ge=0, le=1)
    """Largest intersection over union of two tiles; equals 0.2 of intersection over summed areas."""
    ink_threshold: int = knob(96, ge=0, le=254)
    """A pixel is foreground where its ink (0..255) exceeds this. On the enlarged 8x8 digits 96 keeps loops
    open and strokes whole; 0, usual for MNIST scenes, counts their wide halo and makes blobs of them."""


def check(config: DigitsConfig) -> list[Fault]:
    """Everything wrong with the settings; reads at most the headers of files and generates nothing."""
    # A configuration that was built in Python has not passed the checks of a parsed one.
    _, faults = parse_all(DigitsConfig, asdict(config), "dataset")
    if config.digit_size > config.canvas:
        faults.append(
            Fault(
                "dataset.canvas",
                f"is {config.canvas}, but must be at least dataset.digit_size ({config.digit_size})",
                f"set dataset.canvas to {config.digit_size} or more, or make the digits smaller",
            )
        )
    if config.min_digits > config.max_digits:
        faults.append(
            Fault(
                "dataset.min_digits",
                f"is {config.min_digits}, but must be at most dataset.max_digits ({config.max_digits})",
                f"set dataset.max_digits to {config.min_digits} or more, or lower dataset.min_digits",
            )
        )
    pixels = (config.train_scenes + config.val_scenes + config.test_scenes) * config.canvas**2
    if pixels > MOST_PIXELS:
        problem = f"is {config.canvas}, with so many scenes {pixels:,} pixels, of which all lie in memory"
        faults.append(
            Fault("dataset.canvas", problem, f"ask for fewer or smaller ones, at most {MOST_PIXELS:,} pixels")
        )
    if config.source == "mnist":
        faults += mnist_faults(config.root, download=config.download)
    return faults + cache_faults(Path(config.cache))
