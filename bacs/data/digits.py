"""Digit scenes: a segmentation dataset that is generated in seconds and needs no network."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from bacs.data.array_cache import Arrays, load_or_make
from bacs.data.base import SceneSet
from bacs.data.digit_config import DigitsConfig, check
from bacs.data.digit_scenes import make_scenes
from bacs.data.digit_source import SUBSETS, download_mnist, load_pools, source_checksum
from bacs.data.scenario import presence_of
from bacs.errors import RequestError
from bacs.schema import acts_from
from bacs.source import digest_of


class Digits:
    """Scenes of handwritten digits, generated once per setting and kept on disk.

    Class id = digit + 1. The three subsets draw on disjoint digit images.
    """

    Config = DigitsConfig
    class_names = tuple("0123456789")
    domains: tuple[str, ...] = ()
    evaluation = "crop_val"  # scenes have one size and are never cropped
    channels = 1
    mean = (0.0,)  # ink stays in 0..1 with an exactly black background
    std = (1.0,)
    check = staticmethod(check)
    """Everything wrong with the settings, before anything is generated."""

    @staticmethod
    def classes(config: DigitsConfig) -> tuple[str, ...]:
        """The foreground classes, without opening anything."""
        return Digits.class_names

    def __init__(self, config: DigitsConfig) -> None:
        """Maps the scenes into memory, and generates them where the cache has none.

        Raises:
            RequestError: with every fault of the settings.
        """
        faults = check(config)
        if faults:
            raise RequestError(faults)
        if config.source == "mnist" and config.download:
            assert config.root is not None, "check() asks for it"
            download_mnist(config.root)
        self.manifest = _manifest(config)
        names = [f"{subset}_{kind}" for subset in SUBSETS for kind in ("images", "labels", "presence")]
        self.window = (config.canvas, config.canvas)
        folder = Path(config.cache) / f"digits-{self.manifest}"
        arrays = load_or_make(folder, names, lambda: _generate(config))
        self.train, self.val, self.test = (_scene_set(arrays, subset) for subset in SUBSETS)


def _manifest(config: DigitsConfig) -> str:
    """Hash of the generator, of the settings that change a result, and of the digit files."""
    fields = {name: getattr(config, name) for name, step in acts_from(DigitsConfig).items() if step is not None}
    facts = {
        "generator": digest_of("bacs.data.digit_scenes", "bacs.data.digit_source"),
        "settings": fields,
        "digits": source_checksum(config.source, config.root),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def _generate(config: DigitsConfig) -> Arrays:
    pools = load_pools(config.source, config.root, digit_size=config.digit_size, seed=config.seed)
    counts = {"train": config.train_scenes, "val": config.val_scenes, "test": config.test_scenes}
    arrays: Arrays = {}
    for subset, pool in pools.items():
        images, labels = make_scenes(pool, config, subset, counts[subset])
        arrays[f"{subset}_images"] = images
        arrays[f"{subset}_labels"] = labels
        arrays[f"{subset}_presence"] = presence_of(labels, len(Digits.class_names))
    return arrays


def _scene_set(arrays: Arrays, subset: str) -> SceneSet:
    return SceneSet(
        images=arrays[f"{subset}_images"],
        labels=arrays[f"{subset}_labels"],
        presence=arrays[f"{subset}_presence"],
    )
