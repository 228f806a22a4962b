"""The tree of stages against brute force, its makespan against a simulation second by second."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps.stage_tree import Chain, Stage, StageTree, makespan


@st.composite
def chains(draw) -> list[Chain]:
    """A key names all choices so far, as a stage key does."""
    found = []
    for _ in range(draw(st.integers(1, 6))):
        choices = draw(st.lists(st.integers(0, 2), min_size=1, max_size=4))
        keys = tuple("".join(map(str, choices[: step + 1])) for step in range(len(choices)))
        found.append(Chain(keys, draw(st.integers(0, len(keys)))))
    return found


def keys_of(chains: list[Chain]) -> list[str]:
    return sorted({key for chain in chains for key in chain.keys})


def first_missing(chain: Chain, stored: set[str]) -> int:
    return max([chain.done, *(step + 1 for step, key in enumerate(chain.keys) if key in stored)])


@given(chains(), st.data())
def test_counts_agree_with_brute_force(chains, data):
    stored = data.draw(st.sets(st.sampled_from(keys_of(chains))))
    tree = StageTree(chains, stored.__contains__)
    wanted = {key for chain in chains for key in chain.keys[first_missing(chain, stored) :]}
    assert sorted(stage.key for stage in tree.needed) == sorted(wanted)
    assert sorted(stage.key for stage in tree.stages()) == keys_of(chains)
    assert tree.naive == sum(len(chain.keys) - chain.done for chain in chains)
    assert tree.distinct == len({key for chain in chains for key in chain.keys[chain.done :]})
    for stage in tree.stages():
        assert stage.trials == [i for i, chain in enumerate(chains) if stage.key in chain.keys]


@given(chains(), st.data())
def test_what_fits_is_the_longest_affordable_beginning(chains, data):
    stored = data.draw(st.sets(st.sampled_from(keys_of(chains))))
    tree = StageTree(chains, stored.__contains__)
    limit = data.draw(st.integers(0, 12))
    prices = [
        sum(1 + len(key) for key in {k for chain in chains[:n] for k in chain.keys[first_missing(chain, stored) :]})
        for n in range(len(chains) + 1)
    ]
    assert tree.fitting(lambda stage: 1 + len(stage.key), limit) == max(n for n, p in enumerate(prices) if p <= limit)


def simulated(tree: StageTree, stored: set[str], workers: int, seconds: dict[str, int]) -> int:
    """Second by second: whoever is free takes the stage of the first trial."""
    left = {stage.key: seconds[stage.key] for stage in tree.needed}
    places = [(chain.keys, first_missing(chain, stored)) for chain in tree.chains]
    free = {keys[start] for keys, start in places if start < len(keys)}
    parents = {keys[step]: keys[step - 1] for keys, start in places for step in range(start + 1, len(keys))}
    order = {stage.key: (stage.needed_by[0], stage.step) for stage in tree.needed}
    running: set[str] = set()
    now = 0
    while left:
        ready = [key for key in left if key not in running and (key in free or parents[key] not in left)]
        running |= set(sorted(ready, key=lambda key: order[key])[: workers - len(running)])
        now += 1
        for key in list(running):
            left[key] -= 1
            if left[key] == 0:
                del left[key]
                running.remove(key)
    return now


@given(chains(), st.integers(1, 4), st.data())
def test_makespan_agrees_with_a_simulation(chains, workers, data):
    keys = keys_of(chains)
    stored = data.draw(st.sets(st.sampled_from(keys), max_size=2))
    seconds = dict(
        zip(keys, data.draw(st.lists(st.integers(1, 5), min_size=len(keys), max_size=len(keys))), strict=True)
    )
    tree = StageTree(chains, stored.__contains__)
    found = makespan(tree, workers, lambda stage: seconds[stage.key])
    assert found == simulated(tree, stored, workers, seconds)
    assert makespan(tree, 1, lambda stage: seconds[stage.key]) == tree.total(lambda stage: seconds[stage.key])
    longest = max(sum(seconds[k] for k in chain.keys[first_missing(chain, stored) :]) for chain in chains)
    assert makespan(tree, 99, lambda stage: seconds[stage.key]) <= longest, "less where a checkpoint makes a beginning"


def test_one_step_0_for_all_saves_what_it_should():
    """64 trials, step 0 takes 80 % of the time: 2.7 to 4.8 times less work, and the waiting for it shows."""
    chains = [Chain(("base", *(f"{trial}-{step}" for step in range(1, 6)))) for trial in range(64)]
    tree = StageTree(chains, lambda key: False)

    def seconds(stage: Stage) -> float:
        return 80.0 if stage.step == 0 else 4.0

    assert (tree.naive, tree.distinct) == (384, 321)
    assert tree.naive_total(seconds) / tree.total(seconds) == pytest.approx(6400 / 1360)
    assert makespan(tree, 64, seconds) == 100
    assert makespan(tree, 8, seconds) == 80 + 8 * 20
    assert StageTree(chains, lambda key: key == "base").total(seconds) == 1280
