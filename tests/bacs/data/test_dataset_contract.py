"""What every dataset that ships promises, each on small scenes or a small tree in its true format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bacs.compose import CONF_DIR, compose
from bacs.contracts.datasets import DatasetContract
from tests.bacs.data import trees

NAMES = sorted(path.stem for path in (CONF_DIR / "dataset").glob("*.yaml"))
DIGITS = {"canvas": 32, "digit_size": 14, "train_scenes": 30, "val_scenes": 8, "test_scenes": 12}


class Shipped(DatasetContract):
    """With the settings of its YAML; ``root`` is a small tree."""

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def tree(cls, tmp_path_factory: pytest.TempPathFactory) -> Path | None:
        if cls.name == "digits":
            return None
        kind = cls.name.removesuffix("_domain")
        root = getattr(trees, f"make_{kind}")(tmp_path_factory.mktemp("tree") / kind)
        cls.settings = cls.settings | {"root": str(root), "crop_size": 48}
        return root


def contract_of(name: str) -> type[DatasetContract]:
    settings: dict[str, Any] = dict(compose("config", [f"dataset={name}"])["dataset"])
    members = {"name": name, "target": settings.pop("_target_")}
    return type(f"Test_{name}", (Shipped,), members | {"settings": settings | (DIGITS if name == "digits" else {})})


globals().update({f"Test_{name}": contract_of(name) for name in NAMES})
