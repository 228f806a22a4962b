from __future__ import annotations

import numpy as np
import pytest

from sweeps.costs import Cost, CostModel, Sample
from sweeps.workloads import FEATURES, Work

RATES = np.array([0.010, 0.015, 0.008, 0.002, 0.003])
"""Seconds an image, by `FEATURES`."""


def sample(amounts: tuple[float, ...], kind: str = "bacs", factor: float = 1.0, place: str = "") -> Sample:
    seconds = factor * float(np.dot(RATES, amounts))
    return Sample(Work(kind, place or str(amounts), amounts), Cost(seconds, seconds / 2))


def amounts(rng: np.random.Generator, step: int) -> tuple[float, ...]:
    trained, replayed, evaluated, shown = (float(n) for n in rng.integers(50, 5000, 4))
    return (trained, 0.0, 0.0, evaluated, shown) if step == 0 else (0.0, trained, replayed, evaluated, shown)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_a_linear_law_is_recovered(rng):
    model = CostModel(sample(amounts(rng, step)) for _ in range(4) for step in range(3))
    for step in (0, 1, 2):
        asked = amounts(rng, step)
        cost = model.cost(Work("bacs", "elsewhere", asked))
        assert cost is not None
        assert cost.seconds == pytest.approx(float(np.dot(RATES, asked)), rel=1e-6)
        assert cost.cpu_seconds == pytest.approx(cost.seconds / 2, rel=1e-6)


def test_noise_of_a_tenth_moves_an_estimate_by_less(rng):
    noisy = [sample(amounts(rng, step), factor=rng.normal(1, 0.1)) for _ in range(20) for step in range(3)]
    model = CostModel(noisy)
    asked = [amounts(rng, step) for step in (0, 1, 1, 2)]
    found = sum(model.cost(Work("bacs", "elsewhere", each)).seconds for each in asked)
    assert found == pytest.approx(sum(float(np.dot(RATES, each)) for each in asked), rel=0.1)


def test_equal_work_costs_the_median_of_what_it_took(rng):
    work = amounts(rng, 1)
    model = CostModel(sample(work, factor=factor, place="here") for factor in (1.0, 1.1, 9.0))
    seconds = model.cost(Work("bacs", "here", work)).seconds
    assert seconds == pytest.approx(1.1 * float(np.dot(RATES, work)))


def test_it_says_when_it_does_not_know(rng):
    assert CostModel([]).cost(Work("bacs", "", amounts(rng, 0))) is None
    model = CostModel(sample(amounts(rng, 0)) for _ in range(5))
    assert model.cost(Work("bacs", "elsewhere", amounts(rng, 0))) is not None
    assert model.cost(Work("mib", "elsewhere", amounts(rng, 0))) is None, "another method"
    assert model.cost(Work("bacs", "elsewhere", amounts(rng, 1))) is None, "no step with a teacher was ever run"
    without_replay = (0.0, 100.0, 0.0, 50.0, 50.0)
    model = CostModel([sample(without_replay), sample((0.0, 200.0, 0.0, 50.0, 60.0))])
    assert model.cost(Work("bacs", "elsewhere", without_replay)) is not None
    assert model.cost(Work("bacs", "elsewhere", (0.0, 100.0, 100.0, 50.0, 50.0))) is None, "nor one that replays"
    assert len(FEATURES) == len(RATES)
