"""The rules of early stopping against the same rules written down naively."""

from __future__ import annotations

import math
import statistics
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces.stopping import (
    MEDIAN_PEERS,
    Brackets,
    Course,
    Rung,
    StoppingSettings,
    epoch_rung,
    expected_reach,
    is_audited,
    step_rung,
    step_rungs,
)

BRACKETS = (("2-2", 1), ("2-2", 2), ("5-5", 1))
VALUES = st.one_of(st.sampled_from([0.1, 0.2, 0.3, math.nan]), st.floats(0, 1))
ARRIVALS = st.lists(st.tuples(st.sampled_from(BRACKETS), st.sampled_from([Rung(1), Rung(1, 2), Rung(3)]), VALUES))


def halving(factor: float) -> StoppingSettings:
    return StoppingSettings(algorithm="halving", reduction_factor=factor)


def arrive(brackets: Brackets, number: int, bracket, rung: Rung, value: float) -> str:
    brackets.add(bracket, str(number), rung, value)
    return brackets.objection(bracket, str(number), rung, value)


def number_of(value: float) -> float:
    return -math.inf if math.isnan(value) else value


@settings(deadline=None)
@given(ARRIVALS, st.sampled_from([1.5, 2, 3, 4]))
def test_halving_keeps_the_best_share_of_what_is_known(arrivals, factor):
    brackets = Brackets(halving(factor))
    for number, (bracket, rung, value) in enumerate(arrivals):
        objection = arrive(brackets, number, bracket, rung, value)
        known = [number_of(v) for b, r, v in arrivals[: number + 1] if (b, r) == (bracket, rung)]
        best = sorted(known, reverse=True)[: int(len(known) / factor)]
        is_kept = len(known) < factor or number_of(value) >= best[-1]
        assert is_kept == (objection == "")
        if number_of(value) == max(known):
            assert not objection, "the best so far goes on"


@settings(deadline=None)
@given(ARRIVALS, st.sampled_from(["halving", "median"]), st.randoms(use_true_random=False))
def test_other_splits_seeds_and_rungs_change_no_decision(arrivals, algorithm, random):
    """Any interleaving that keeps the order inside every rung of a bracket decides the same."""
    queues: dict = {}
    for arrival in enumerate(arrivals):
        queues.setdefault(arrival[1][:2], []).append(arrival)
    shuffled = []
    while queues:
        key = random.choice(sorted(queues))
        shuffled.append(queues[key].pop(0))
        if not queues[key]:
            del queues[key]
    decided = []
    for order in (list(enumerate(arrivals)), shuffled):
        brackets = Brackets(StoppingSettings(algorithm=algorithm))
        objections = {}
        for number, (bracket, rung, value) in order:
            objections[number] = arrive(brackets, number, bracket, rung, value)
            brackets.finish(bracket, str(number))
        decided.append(objections)
    assert decided[0] == decided[1]


@settings(deadline=None)
@given(st.lists(st.tuples(st.lists(VALUES, min_size=3, max_size=3), st.booleans()), max_size=12))
def test_median_compares_running_averages_with_finished_trials(trials):
    brackets = Brackets(StoppingSettings(algorithm="median"))
    finished: list[list[float]] = []
    for number, (course, finishes) in enumerate(trials):
        for steps in (1, 2, 3):
            objection = arrive(brackets, number, BRACKETS[0], Rung(steps), course[steps - 1])
            others = [average(other, steps) for other in finished]
            if len(others) < MEDIAN_PEERS:
                assert not objection
                continue
            median = statistics.median(others)
            mine = average(course, steps)
            assert bool(objection) == (mine < median)
            if all(mine >= other for other in others):
                assert not objection
        if finishes:
            finished.append(course)
            brackets.finish(BRACKETS[0], str(number))
        else:
            brackets.forget(str(number))


def average(course: list[float], steps: int) -> float:
    values = course[:steps]
    return -math.inf if any(map(math.isnan, values)) else math.fsum(values) / steps


def test_the_reason_is_a_sentence():
    brackets = Brackets(halving(3))
    for number, value in enumerate((0.4, 0.5, 0.6, 0.7, 0.45, 0.55)):
        arrive(brackets, number, BRACKETS[0], Rung(2), value)
    reason = arrive(brackets, 7, BRACKETS[0], Rung(2), 0.31)
    assert reason == "val/miou_all 0.31 after step 2 is not among the best 1/3 of 7"
    brackets = Brackets(StoppingSettings(algorithm="median"))
    for number, value in enumerate((0.4, 0.5, 0.6)):
        arrive(brackets, number, BRACKETS[0], Rung(1), value)
        brackets.finish(BRACKETS[0], str(number))
    reason = arrive(brackets, 7, BRACKETS[0], Rung(1), 0.31)
    assert reason == "mean val/miou_all 0.31 after step 1 is below 0.5, the median of 3 finished trials"


def test_rungs_are_continual_steps_a_factor_apart_and_never_the_last():
    assert step_rungs(halving(3), 12) == [1, 3, 9]
    assert step_rungs(halving(2), 5) == [1, 2, 4]
    assert step_rungs(halving(1.5), 6) == [1, 2, 3, 5]
    assert step_rungs(halving(3), 3) == [1]
    assert step_rungs(halving(3), 1) == []
    late = StoppingSettings(algorithm="halving", grace_steps=2)
    assert step_rungs(late, 10) == [2, 6]
    assert step_rungs(StoppingSettings(algorithm="median", grace_steps=2), 5) == [2, 3, 4]
    assert step_rungs(StoppingSettings(), 5) == []
    assert step_rung(late, 6, 10) == Rung(6)
    assert step_rung(late, 3, 10) is None


def test_rungs_inside_steps():
    course = Course(epochs=4, next_epochs=6)
    assert [course.place(done) for done in (1, 4, 5, 10, 13)] == [(0, 1), (1, 0), (1, 1), (2, 0), (2, 3)]
    inside = StoppingSettings(algorithm="halving", epoch_rungs=2)
    places = [course.place(done) for done in range(1, 17)]
    assert [place for place in places if epoch_rung(inside, place)] == [(1, 2), (1, 4), (2, 2), (2, 4)]
    early = StoppingSettings(algorithm="halving", epoch_rungs=2, grace_steps=0)
    assert next(place for place in places if epoch_rung(early, place)) == (0, 2)
    assert str(Rung(1, 2)) == "in step 2 after 2 epochs"


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_the_audited_share_is_known_in_advance(share):
    keys = [f"{number:012x}" for number in range(2000)]
    audited = [key for key in keys if is_audited(share, key)]
    assert audited == [key for key in keys if is_audited(share, key)]
    assert abs(len(audited) / len(keys) - share) < 0.04
    assert all(is_audited(min(1.0, share + 0.1), key) for key in audited), "a larger share keeps the smaller one's"


@pytest.mark.parametrize(("algorithm", "audit"), [("halving", 0.0), ("halving", 0.4), ("median", 0.0), ("none", 0.1)])
def test_the_expected_reach_is_the_mean_of_random_courses(algorithm, audit):
    wanted = StoppingSettings(algorithm=algorithm, reduction_factor=2, audit_share=audit)
    steps, n, rounds, random = 5, 12, 400, Random(0)
    begun = [0.0] * steps
    for _ in range(rounds):
        brackets = Brackets(wanted)
        for trial in range(n):
            name, audited = str(trial), False
            for step in range(steps):
                begun[step] += 1 / rounds
                rung = step_rung(wanted, step + 1, steps)
                if rung is None or audited:
                    continue
                value = random.random()
                brackets.add(("2-2", 1), name, rung, value)
                if brackets.objection(("2-2", 1), name, rung, value):
                    brackets.forget(name)
                    audited = random.random() < audit
                    if not audited:
                        break
            else:
                brackets.finish(("2-2", 1), name)
    expected = expected_reach(wanted, steps, n)
    assert expected[0] == n
    assert expected == pytest.approx(begun, rel=0.12 if algorithm == "halving" else 0.3)
