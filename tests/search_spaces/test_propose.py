from __future__ import annotations

import pytest

from bacs.errors import RequestError
from search_spaces.propose import ALGORITHMS, StudySettings, Told, propose
from search_spaces.space import Dimension, Space, known_spaces, load_space


def settings(algorithm: str, space: Space | None = None, seed: int = 0, split: str = "2-2") -> StudySettings:
    return StudySettings(space or load_space("bacs"), algorithm, seed, split, startup_trials=4)


def quality(params: dict) -> float:
    return -abs(params["loss.prototype_margin"] - 1.0) - abs(params["loss.buffer_size"] - 400) / 400


def play(algorithm: str, n: int, **kwargs) -> list[Told]:
    history: list[Told] = []
    for _ in range(n):
        params = propose(settings(algorithm, **kwargs), history)
        assert params is not None
        history.append(Told(params, quality(params)))
    return history


@pytest.mark.parametrize("name", [name for name in known_spaces() if not load_space(name).points])
@pytest.mark.parametrize("algorithm", ["tpe", "random", "grid"])
def test_suggestions_lie_in_the_space(name, algorithm):
    space = load_space(name)
    history: list[Told] = []
    for number in range(8):
        params = propose(settings(algorithm, space), history)
        assert params is not None
        assert params.keys() == {d.key for d in space.dimensions_of(params)}
        assert space.contains(params)
        assert params not in [told.params for told in history]
        history.append(Told(params, 0.1 * number))


@pytest.mark.parametrize("algorithm", ["tpe", "random"])
def test_the_same_history_gives_the_same_suggestion(algorithm):
    history = play(algorithm, 8)
    assert [told.params for told in history] == [told.params for told in play(algorithm, 8)]
    assert [told.params for told in history] != [told.params for told in play(algorithm, 8, seed=1)]
    assert history[0].params != play(algorithm, 1, split="5-5")[0].params


def test_tpe_looks_at_results_and_random_does_not():
    best = {algorithm: max(told.value for told in play(algorithm, 30)[15:]) for algorithm in ("tpe", "random")}
    assert best["tpe"] > best["random"]
    history = play("tpe", 8)
    changed = [Told(told.params, -told.value) for told in history]
    assert propose(settings("tpe"), history) != propose(settings("tpe"), changed)


def test_running_and_failed_trials_are_part_of_the_history():
    history = play("tpe", 8)
    running = [*history[:-1], Told(history[-1].params, None)]
    failed = [*history[:-1], Told(history[-1].params, None, failed=True)]
    for told in (running, failed):
        assert propose(settings("tpe"), told) is not None


def test_what_failed_by_itself_counts_as_the_worst_value_seen():
    history = play("tpe", 8)
    last = history[-1].params
    worst = min(told.value for told in history[:-1])
    assert propose(settings("tpe"), [*history[:-1], Told(last, None, worst=True)]) == propose(
        settings("tpe"), [*history[:-1], Told(last, worst)]
    )
    alone = [Told(told.params, None, worst=True) for told in history]
    assert propose(settings("tpe"), alone) == propose(settings("tpe"), [Told(told.params, 0.0) for told in history])
    silent = [Told(told.params, None, failed=True) for told in history]
    assert propose(settings("tpe"), alone) != propose(settings("tpe"), silent)


def test_what_was_stopped_is_pruned_and_worse_than_what_was_not():
    history = play("tpe", 8)
    best = max(range(8), key=lambda number: history[number].value)

    def with_best(value: float | None = None, **fate) -> list[Told]:
        return [*history[:best], Told(history[best].params, value, **fate), *history[best + 1 :]]

    stopped = with_best(pruned={1: 0.9, 2: 0.4})
    assert not stopped[best].is_open
    assert propose(settings("tpe"), stopped) != propose(settings("tpe"), history)
    assert propose(settings("tpe"), stopped) == propose(settings("tpe"), with_best(-100.0))
    assert propose(settings("tpe"), with_best(pruned={})) is not None, "stopped inside its first step"


def test_the_default_comes_first_and_may_lie_outside_the_space():
    default = {"loss.buffer_size": 300, "loss.prototype_margin": 0.0, "loss.lkd": 0.05}
    assert propose(settings("tpe"), [], [default]) == default
    outside = default | {"loss.lkd": 0.0}
    assert propose(settings("tpe"), [], [outside]) == outside
    assert propose(settings("tpe"), [Told(outside, 0.5)]) == propose(settings("tpe"), [Told(outside, 0.9)])
    assert propose(settings("grid"), [], [default]) == default


def test_grid_is_complete_and_without_repetition():
    space = load_space("bacs")
    history: list[Told] = []
    while (params := propose(settings("grid", space), history)) is not None:
        history.append(Told(params, None))
    assert len(history) == 27 == len({tuple(told.params.values()) for told in history})


MODE = Dimension("loss.lkd_mode", "choice", choices=("ref", "l2", "cos"))
METHODS = (
    Dimension("loss", "choice", choices=("mib", "bacs")),
    Dimension("loss.lkd_mode", "choice", choices=("ref", "l2"), when="bacs"),
    Dimension("loss.buffer_size", "int", low=1, high=5, when="bacs"),
    Dimension("loss.kd_weight", "choice", choices=(1.0, 10.0), when="mib"),
)
FINITE = {
    "choices": (Space("s", "bacs", (MODE, Dimension("loss.prototypes", "choice", choices=("step", "class")))), 6),
    "numbers": (Space("s", "bacs", (MODE, Dimension("loss.buffer_size", "int", low=1, high=4, log=True))), 12),
    "methods": (Space("s", None, METHODS), 12),
    "equal trials": (Space("s", None, METHODS, equal_trials=True), 12),
}


@pytest.mark.parametrize(
    ("algorithm", "kind", "lag"),
    [(name, "choices", lag) for name in ALGORITHMS if name != "grid" for lag in (0, 3)]
    + [(name, kind, 3) for name in ("tpe", "quasi_random") for kind in ("numbers", "methods", "equal trials")],
)
def test_a_finite_space_is_tried_to_its_end_and_no_further(algorithm, kind, lag):
    """Whatever the sampler thinks of it: results tell it nothing, or that it knows the best already."""
    space, size = FINITE[kind]
    history: list[Told] = []
    while len(history) <= size:
        visible = max(0, len(history) - lag)
        told = history[:visible] + [Told(open_.params, None) for open_ in history[visible:]]
        params = propose(settings(algorithm, space), told)
        if params is None:
            break
        history.append(Told(params, 0.5 if lag else float(not history)))
    assert len(history) == size == len({str(sorted(told.params.items())) for told in history})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("dimensions: {}", "has no dimensions"),
        ("dimensions: {loss.lkd: {kind: double}}", "without a known kind"),
        ("dimensions: {loss.lkd: {kind: float, low: 2, high: 1}}", "low 2 >= high 1"),
        ("dimensions: {loss.lkd: {kind: float, low: 0, high: 1, log: true}}", "logarithmic from 0"),
        ("dimensions: {loss.lkd: {kind: int, low: 0.5, high: 1}}", "not all of kind int"),
        ("dimensions: {loss.lkd: {kind: choice, choices: [1]}}", "fewer than two choices"),
        ("dimensions: {loss.lkd: {kind: float, low: 0, high: 1, hihg: 2}}", "unknown setting 'hihg'"),
        ("dimensions: [", "cannot be read"),
    ],
)
def test_faulty_space_files_say_what_is_wrong(tmp_path, text, words):
    path = tmp_path / "space.yaml"
    path.write_text(text)
    with pytest.raises(RequestError, match=words):
        load_space(str(path))
