"""Every key of every schema with values that make no sense: legal, or refused in three parts; never a traceback."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from bacs.compat import CompatConfig
from bacs.compose import compose, group_options
from bacs.config import RunConfig
from bacs.errors import RequestError
from bacs.training_config import TrainingConfig
from sweeps.settings import SECTIONS, SweepConfig, compose_preset, nested

ODD: list[Any] = [
    None,
    -1,
    10**30,
    float("nan"),
    "",
    "\x1b[31mred\n",
    "A" * 5000,
    "/dev/null",
    "~nosuchuser/x",
    [[]],
    {"x": 1},
    {5: [None]},
]


OPTIMIZER = ["lr", "momentum", "weight_decay", "foreach", "maximize", "betas"]


def keys_of_run() -> Iterator[tuple[dict[str, Any], str]]:
    """(configuration, dotted key) of every key of every class that needs no files."""
    seen: set[str] = set()
    choices = [("loss", name) for name in group_options("loss")]
    choices += [("scheduler", name) for name in group_options("scheduler")]
    choices += [("optimizer", name) for name in group_options("optimizer")]
    choices += [("network", name) for name in group_options("network")]
    for group, choice in choices:
        base = compose("config", [f"{group}={choice}"])
        config = RunConfig.from_dict(base)
        for part in ("dataset", "network", "optimizer", "scheduler", "loss"):
            component = getattr(config, part)
            schema = getattr(component.factory, "Config", None)
            names = [field.name for field in dataclasses.fields(schema)] if schema else OPTIMIZER
            for key in ("_target_", *names):
                if (identity := f"{component.target} {key}") not in seen:
                    seen.add(identity)
                    yield base, f"{part}.{key}"
    for group, schema in (("training", TrainingConfig), ("compat", CompatConfig)):
        yield from ((base, f"{group}.{field.name}") for field in dataclasses.fields(schema))
    yield from ((base, group) for group in ("dataset", "network", "loss", "training", "plugins", "nosuchgroup"))


def outcome(parse: Any, values: dict[str, Any]) -> str:
    try:
        parse(values)
    except RequestError as error:
        for fault in error.faults:
            assert all(part.strip() for part in (fault.where, fault.problem, fault.remedy)), fault
        return "refused"
    return "legal"


def test_every_key_of_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found: Counter[str] = Counter()
    for base, key in keys_of_run():
        for value in ODD:
            try:
                found[outcome(RunConfig.from_dict, nested(base, {key: value}))] += 1
            except Exception as error:
                pytest.fail(f"{key}={repr(value)[:80]}: {type(error).__name__}: {error!s:.200}")
    assert found["refused"] > 2 * found["legal"]
    assert found.total() > 2000
    assert list(tmp_path.iterdir()) == [], "nothing was written"


def test_every_key_of_a_sweep(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = compose_preset("digits", ["search.splits=[5-5]"], {"storage": str(tmp_path / "runs")})
    found: Counter[str] = Counter()
    keys = [f"{section}.{field.name}" for section, schema in SECTIONS.items() for field in dataclasses.fields(schema)]
    for key in [*keys, *SECTIONS, "search.nosuchkey"]:
        for value in ODD[::2]:  # each is a check of every split and extreme
            try:
                found[outcome(SweepConfig.from_dict, nested(base, {key: value}))] += 1
            except Exception as error:
                pytest.fail(f"{key}={repr(value)[:80]}: {type(error).__name__}: {error!s:.200}")
    assert found["refused"] > 2 * found["legal"]
    assert list(tmp_path.iterdir()) == [], "nothing was written"
