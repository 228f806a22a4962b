"""What every method that ships promises: a new one is a file, a YAML, a space, and a pass through these tests."""

from __future__ import annotations

import re

import pytest

from bacs.compose import CONF_DIR, compose
from bacs.contracts.methods import MethodContract
from search_spaces.space import known_spaces, load_space

METHODS = sorted(path.stem for path in (CONF_DIR / "loss").glob("*.yaml"))
WITHOUT_KNOBS = {"crossentropy", "bacs_ref"}
"""Methods without a space of their own: one has no keys, the other is BACS with other numbers."""

DECIDING = {"plop", "pseudo_label", "sdr"}
"""Methods whose teacher labels pixels: from step 1 on a rounding error in step 0 makes some of them fall otherwise."""

EXACT = {"ilt": {"encoder_weight": 1.0, "kd_weight": 1.0}}
"""At the published weights a loss of about 70 makes rounding errors large."""


def contract_of(method: str) -> type[MethodContract]:
    settings = dict(compose("config", [f"loss={method}"])["loss"])
    members = {
        "target": settings.pop("_target_"),
        "settings": settings,
        "exact": EXACT.get(method, {}),
        "rank_tolerance": 1e-2 if method in DECIDING else 1e-3,
    }
    return type(f"Test_{method}", (MethodContract,), members)


globals().update({f"Test_{method}": contract_of(method) for method in METHODS})


@pytest.mark.parametrize("method", METHODS)
def test_the_head_of_its_file_says_how_to_run_it(method):
    lines = (CONF_DIR / "loss" / f"{method}.yaml").read_text().splitlines()
    head = [line for line in lines if line.startswith("#")]
    assert lines[: len(head)] == head
    assert any(re.search(rf"python -m bacs loss={method}\b", line) for line in head)


@pytest.mark.parametrize("method", [method for method in METHODS if method not in WITHOUT_KNOBS])
def test_a_method_has_a_space_of_its_own_and_a_place_among_all(method):
    assert method in known_spaces()
    space = load_space(method)
    assert space.loss == method
    assert 2 <= len(space.dimensions) <= 4
    assert method in load_space("methods").methods
