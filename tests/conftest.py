"""Small real configurations: the real method on the real digits, with few, small scenes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bacs.compose import compose
from bacs.config import RunConfig
from bacs.data import Digits
from tests.bacs.data.trees import make_ade20k, make_cityscapes, make_voc
from tests.small_disk import SmallDisk, why_no_small_disk

SMALL = [
    "dataset.canvas=32",
    "dataset.digit_size=14",
    "dataset.train_scenes=60",
    "dataset.val_scenes=20",
    "dataset.test_scenes=24",
    "network.width=4",
    "training.batch_size=6",
    "training.epochs=2",
    "loss.buffer_size=20",
]
"""Overrides that make a run of a few seconds; drop the last for losses without memory."""

TINY = [*SMALL, "training.iterations_per_epoch=3", "training.threads=1", "training.device=cpu"]

MakeConfig = Callable[..., RunConfig]


@pytest.fixture(scope="session")
def digits_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("digits-cache")


@pytest.fixture(scope="session")
def tiny_values(digits_cache: Path) -> Callable[..., dict[str, Any]]:
    """Composes a tiny run; arguments are further overrides."""

    def make(*overrides: str) -> dict[str, Any]:
        base = [text for text in TINY if "loss=crossentropy" not in overrides or not text.startswith("loss.")]
        return compose("config", [*base, f"dataset.cache={digits_cache}", *overrides])

    return make


@pytest.fixture(scope="session")
def tiny_config(tiny_values: Callable[..., dict[str, Any]]) -> MakeConfig:
    return lambda *overrides: RunConfig.from_dict(tiny_values(*overrides))


@pytest.fixture(scope="session")
def tiny_digits(tiny_config: MakeConfig) -> Digits:
    return Digits(tiny_config().dataset.settings)


@pytest.fixture(scope="session")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small tree of every dataset in files, in its true format."""
    base = tmp_path_factory.mktemp("trees")
    return {
        "voc": make_voc(base / "voc", side=40),
        "cityscapes": make_cityscapes(base / "cityscapes"),
        "ade20k": make_ade20k(base / "ade20k", train=150, side=40),
    }


@pytest.fixture
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[SmallDisk]:
    """Of two megabytes, or of what an indirect parameter says."""
    if reason := why_no_small_disk(tmp_path / "mount"):
        pytest.skip(reason)
    disk = SmallDisk(tmp_path / "disk", getattr(request, "param", 2))
    try:
        yield disk
    finally:
        disk.remove()
