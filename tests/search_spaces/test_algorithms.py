"""What every algorithm owes: legal suggestions that follow from the history alone, in any process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import qmc

from bacs.randomness import derive_seed
from search_spaces.propose import ALGORITHMS, StudySettings, Told, propose
from search_spaces.space import METHOD_KEY, Dimension, Params, Space, known_spaces, load_space

ROOT = Path(__file__).parents[2]

MIXED = Space(
    "mixed",
    "bacs",
    (
        Dimension("loss.lkd", "float", low=0.001, high=1.0, log=True, grid=(0.001, 0.03, 1.0)),
        Dimension("loss.alpha", "float", low=-1.0, high=2.0, grid=(-1.0, 2.0)),
        Dimension("loss.buffer_size", "int", low=1, high=400, log=True, grid=(1, 20, 400)),
        Dimension("training.epochs", "int", low=1, high=3, grid=(1, 2, 3)),
        Dimension("loss.lkd_mode", "choice", choices=("l2", "cos")),
    ),
)
"""Every kind of knob."""


def settings(algorithm: str, space: Space = MIXED, seed: int = 0) -> StudySettings:
    objectives = 2 if algorithm == "nsga2" else 1
    return StudySettings(space, algorithm, seed, "2-2", 4, population_size=4, objectives=objectives)


def told(params: Params, study: StudySettings) -> Told:
    value = sum(float(v) for v in params.values() if isinstance(v, int | float)) / 500
    return Told(params, value, others=(float(len(json.dumps(params))),) * (study.objectives - 1))


def play(study: StudySettings, number: int, **kwargs) -> list[Told]:
    history: list[Told] = []
    while len(history) < number:
        params = propose(study, history, **kwargs)
        assert params is not None
        history.append(told(params, study))
    return history


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_suggestions_are_legal_and_never_repeated(algorithm):
    for space, number in ((MIXED, 12), (load_space("bacs"), 6)):
        tried = [t.params for t in play(settings(algorithm, space), number)]
        for i, params in enumerate(tried):
            assert params.keys() == {d.key for d in space.dimensions}
            assert space.contains(params)
            assert all(isinstance(params[d.key], int) for d in space.dimensions if d.kind == "int")
            assert params not in tried[:i]


@pytest.mark.parametrize("name", [name for name in known_spaces() if not load_space(name).points])
def test_quasi_random_points_lie_in_every_shipped_space(name):
    space = load_space(name)
    tried = [t.params for t in play(settings("quasi_random", space), 32)]
    for params in tried:
        assert params.keys() == {d.key for d in space.dimensions_of(params)}
        assert space.contains(params)
    if space.methods:
        counts = [sum(params[METHOD_KEY] == method for params in tried) for method in space.methods]
        assert max(counts) - min(counts) <= 2, "as even as 32 points over the methods can be"


@pytest.mark.parametrize("algorithm", ["nsga2", "gp", "quasi_random"])
def test_methods_with_equal_trials_are_searched_each_by_itself(tmp_path, algorithm):
    path = tmp_path / "equal.yaml"
    path.write_text("methods: [er, der, mib]\nequal_trials: true\n")
    space = load_space(str(path))
    tried = [t.params for t in play(settings(algorithm, space), 15)]
    assert [params[METHOD_KEY] for params in tried] == ["er", "der", "mib"] * 5
    assert all(space.contains(params) for params in tried)


TELL = """
import json, sys
from search_spaces.propose import propose
from tests.search_spaces.test_algorithms import histories, settings
print(json.dumps({a: propose(settings(a), histories()[a]) for a in json.loads(sys.argv[1])}))
"""


def histories() -> dict[str, list[Told]]:
    """Of every algorithm eleven results, one of which is open, one failed, and one failed by itself."""
    found = {}
    for algorithm in ALGORITHMS:
        study = settings(algorithm)
        results = [told(t.params, study) for t in play(settings("random"), 11)]
        results[3] = Told(results[3].params, None, worst=True)
        results[7] = Told(results[7].params, None, failed=True)
        results[10] = Told(results[10].params, None)
        found[algorithm] = results
    return found


def test_another_process_suggests_the_same():
    here = {algorithm: propose(settings(algorithm), histories()[algorithm]) for algorithm in ALGORITHMS}
    command = [sys.executable, "-c", TELL, json.dumps(ALGORITHMS)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "7"}
    there = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True, timeout=120)
    assert json.loads(there.stdout.splitlines()[-1]) == here
    assert len({json.dumps(params) for params in here.values()}) == len(ALGORITHMS)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_was_asked_before_leaves_no_trace(algorithm):
    study, history = settings(algorithm), play(settings(algorithm), 8)
    for number in (7, 3):
        assert propose(study, history[:number]) == history[number].params
    assert (propose(settings(algorithm, seed=1), []) == history[0].params) == (algorithm == "grid")


@pytest.mark.parametrize("algorithm", ["gp", "nsga2"])
def test_results_matter(algorithm):
    study = settings(algorithm)
    history = [told(t.params, study) for t in play(settings("random"), 12)]
    changed = [replace(t, value=-(t.value or 0.0)) for t in history]
    assert propose(study, history) != propose(study, changed)


def test_quasi_random_suggestion_i_is_point_i_whatever_the_results():
    space = replace(MIXED, dimensions=MIXED.dimensions[1:2])
    tried = [t.params["loss.alpha"] for t in play(settings("quasi_random", space), 64)]
    assert tried == [t.params["loss.alpha"] for t in play(settings("quasi_random", space), 64)]
    # A scrambled Sobol sequence has one of its first 64 points in each 64th of the range.
    assert sorted(int((value + 1.0) / 3.0 * 64) for value in tried) == list(range(64))
    blind = [Told({"loss.alpha": value}, None, failed=True) for value in tried]
    assert propose(settings("quasi_random", space), blind[:40]) == {"loss.alpha": tried[40]}
    default = {"loss.alpha": 0.0}
    history = [Told(default, 0.5), *blind]
    assert propose(settings("quasi_random", space), history[:1], [default]) == {"loss.alpha": tried[0]}
    assert propose(settings("quasi_random", space), history[:10], [default]) == {"loss.alpha": tried[9]}


def test_quasi_random_points_are_those_of_the_sequence():
    space = replace(MIXED, dimensions=(MIXED.dimensions[1], MIXED.dimensions[4]))
    tried = [t.params for t in play(settings("quasi_random", space), 32)]
    points = qmc.Sobol(2, scramble=True, rng=derive_seed(0, "2-2")).random(32)
    assert [params["loss.alpha"] for params in tried] == pytest.approx(3.0 * points[:, 0] - 1.0)
    assert [params["loss.lkd_mode"] for params in tried] == [("l2", "cos")[int(2 * place)] for place in points[:, 1]]


def test_nsga2_generations_follow_from_results_not_from_what_is_open():
    """Children inherit most knobs from results of earlier generations; those of the first are random."""
    study = settings("nsga2")
    history = play(study, 12)
    for history_with in (history, [*history, Told(MIXED.grid()[0], None)]):
        child = propose(study, history_with)
        assert child is not None
        parents = [t.params for t in history]
        inherited = [key for key, value in child.items() if any(parent[key] == value for parent in parents)]
        assert len(inherited) >= 3
    first = propose(study, history[:3])
    assert first is not None
    assert not any(first["loss.alpha"] == t.params["loss.alpha"] for t in history[:3]), "random before a generation"


def test_nsga2_keeps_what_is_cheap_or_good():
    """With every result equal in score, the front is what costs least, and children come from there."""
    study = settings("nsga2")
    space = MIXED
    pool = [t.params for t in play(settings("random"), 40)]
    history = [Told(params, 0.5, others=(float(params["loss.buffer_size"]),)) for params in pool]
    cheapest = sorted(params["loss.buffer_size"] for params in pool)[:4]
    inherited = 0
    for seed in range(20):
        child = propose(replace(study, seed=seed), history)
        assert child is not None
        assert space.contains(child)
        inherited += child["loss.buffer_size"] in cheapest
    assert inherited >= 10  # four knobs in five are inherited, by chance one in a hundred


def test_nsga2_stands_long_histories():
    rng = np.random.default_rng(0)
    space = replace(MIXED, dimensions=MIXED.dimensions[:2])
    history = [
        Told({"loss.lkd": 0.001 + 0.9 * float(a), "loss.alpha": float(b)}, float(a), others=(float(b),))
        for a, b in rng.random((1200, 2))
    ]
    assert propose(replace(settings("nsga2", space), population_size=2), history) is not None


def test_failed_configurations_are_the_worst_in_every_objective():
    study, history = settings("nsga2"), play(settings("nsga2"), 8)
    last = history[-1].params
    value = min(t.value for t in history[:-1] if t.value is not None)
    cost = max(t.others[0] for t in history[:-1])
    failed = [*history[:-1], Told(last, None, worst=True)]
    assert propose(study, failed) == propose(study, [*history[:-1], Told(last, value, others=(cost,))])
    assert propose(study, [Told(t.params, None, worst=True) for t in history]) is not None


@pytest.mark.parametrize("algorithm", ["tpe", "nsga2", "gp"])
def test_warm_results_are_seen_and_not_suggested_again(algorithm):
    study = settings(algorithm)
    warm, history = play(settings("random"), 12), play(study, 3)
    warm = [told(t.params, study) for t in warm]
    assert propose(study, history, warm=warm) != propose(study, history)
    turned = [replace(t, value=-(t.value or 0.0)) for t in warm]
    assert propose(study, history, warm=warm) != propose(study, history, warm=turned)
    tried = [t.params for t in play(study, 6, first=[warm[0].params, MIXED.grid()[5]], warm=warm)]
    assert tried[0] == MIXED.grid()[5], "the first default is known already"
    assert not [params for params in tried if params in [t.params for t in warm]]
    tiny = Space("six", "bacs", (MIXED.dimensions[3], MIXED.dimensions[4]))
    known = [told(params, study) for params in tiny.grid()]
    assert propose(settings(algorithm, tiny), [], warm=known) is None
