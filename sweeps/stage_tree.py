"""The stages of planned trials as a tree in which equal beginnings are one, and how long some workers take for it."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Chain:
    """The stages of one trial, from step 0 to its last."""

    keys: tuple[str, ...]
    """Equal keys at a step stand for the same outcome."""
    done: int = 0
    """Steps that the trial has behind it, in results or checkpoints of its own."""


@dataclass(slots=True, eq=False)
class Stage:
    """A step that trials train alike."""

    key: str
    step: int
    is_stored: bool
    """Whether the stage store holds its outcome already."""
    trials: list[int] = field(default_factory=list)
    """Positions of the chains that lead through it, in order."""
    needed_by: list[int] = field(default_factory=list)
    """Of these, those that find neither it nor a later stage of theirs done or stored."""
    is_free: bool = False
    """Whether a trial can begin with it, from step 0 or from what is done or stored; else its parent comes first."""
    ends: int = 0
    """How many of the trials that need it have no step after it."""
    children: dict[str, Stage] = field(default_factory=dict)

    @property
    def is_needed(self) -> bool:
        """Whether it has to be computed."""
        return bool(self.needed_by)


Seconds = Callable[[Stage], float]


class StageTree:
    """Chains with their equal beginnings merged."""

    def __init__(self, chains: Sequence[Chain], has: Callable[[str], bool]) -> None:
        """Args:
        chains: of the trials, in the order in which they will be handed out.
        has: whether the stage store holds the outcome of a key.
        """
        self.roots: dict[str, Stage] = {}
        self.chains = chains
        self.paths: list[list[Stage]] = []
        """The stages of each chain."""
        self.starts: list[int] = []
        """The first step of each chain that has to be computed for it, its length if none has."""
        for position, chain in enumerate(chains):
            self._add(position, chain, has)

    def _add(self, position: int, chain: Chain, has: Callable[[str], bool]) -> None:
        path: list[Stage] = []
        siblings = self.roots
        for step, key in enumerate(chain.keys):
            stage = siblings.get(key)
            if stage is None:
                stage = siblings[key] = Stage(key, step, has(key))
            stage.trials.append(position)
            path.append(stage)
            siblings = stage.children
        stored = max((stage.step + 1 for stage in path if stage.is_stored), default=0)
        start = max(chain.done, stored)
        for stage in path[start:]:
            stage.needed_by.append(position)
        if path[start:]:
            path[start].is_free = True
            path[-1].ends += 1
        self.paths.append(path)
        self.starts.append(start)

    def stages(self) -> Iterator[Stage]:
        """Every stage once, parents before their children."""
        waiting = list(reversed(self.roots.values()))
        while waiting:
            stage = waiting.pop()
            yield stage
            waiting += reversed(stage.children.values())

    @property
    def naive(self) -> int:
        """Stages that the trials would compute if each computed its own."""
        return sum(len(chain.keys) - chain.done for chain in self.chains)

    @property
    def distinct(self) -> int:
        """Stages that they would compute if nothing were stored: each once."""
        return len({id(stage) for path, chain in self._pairs() for stage in path[chain.done :]})

    @property
    def needed(self) -> list[Stage]:
        """What is left to compute: distinct, and not stored."""
        return [stage for stage in self.stages() if stage.is_needed]

    def total(self, seconds: Seconds) -> float:
        """Seconds of everything left to compute."""
        return sum(map(seconds, self.needed))

    def naive_total(self, seconds: Seconds) -> float:
        """Seconds if every trial computed its own stages."""
        return sum(seconds(stage) for path, chain in self._pairs() for stage in path[chain.done :])

    def fitting(self, seconds: Seconds, limit: float) -> int:
        """How many trials, from the first on, take no more seconds than ``limit`` together."""
        spent, paid = 0.0, set()
        for position, (path, start) in enumerate(zip(self.paths, self.starts, strict=True)):
            fresh = [stage for stage in path[start:] if id(stage) not in paid]
            spent += sum(map(seconds, fresh))
            if spent > limit:
                return position
            paid |= {id(stage) for stage in fresh}
        return len(self.paths)

    def _pairs(self) -> Iterator[tuple[list[Stage], Chain]]:
        return zip(self.paths, self.chains, strict=True)


def makespan(tree: StageTree, workers: int, seconds: Seconds) -> float:
    """Seconds until every stage is computed, by list scheduling (Graham 1969).

    A worker that is free takes, of the stages that can begin, that of the trial handed out first.

    Args:
        tree: of the trials.
        workers: stages at once, at least 1.
        seconds: of each.
    """
    ready: list[tuple[int, int, int, Stage]] = []  # trial, step, tie-breaker
    running: list[tuple[float, int, Stage]] = []
    now, serial = 0.0, 0

    def offer(stage: Stage) -> None:
        nonlocal serial
        serial += 1
        heapq.heappush(ready, (stage.needed_by[0], stage.step, serial, stage))

    for stage in tree.needed:
        if stage.is_free:
            offer(stage)
    while ready or running:
        while ready and len(running) < workers:
            _, _, number, stage = heapq.heappop(ready)
            heapq.heappush(running, (now + seconds(stage), number, stage))
        now, _, stage = heapq.heappop(running)
        for child in stage.children.values():
            if child.is_needed and not child.is_free:
                offer(child)
    return now
