"""What a continual step costs: the time that equal steps took before, else what similar ones lead to expect."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from sweeps.workloads import Work


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one step."""

    seconds: float
    """On the wall."""
    cpu_seconds: float
    """Of the processor, in all threads of one process; other work on the machine does not lengthen it."""


def median_cost(costs: Sequence[Cost]) -> Cost:
    """Of steps of equal work, at least one."""
    return Cost(statistics.median(c.seconds for c in costs), statistics.median(c.cpu_seconds for c in costs))


@dataclass(frozen=True, slots=True)
class Sample:
    """A step that was run."""

    work: Work
    cost: Cost


class CostModel:
    """Learns from steps that were run."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        self._equal: dict[Work, list[Cost]] = defaultdict(list)
        self._similar: dict[str, list[Sample]] = defaultdict(list)
        self._laws: dict[str, tuple[_Law, _Law]] = {}
        self._asked: dict[Work, Cost | None] = {}
        for sample in samples:
            self._equal[sample.work].append(sample.cost)
            self._similar[sample.work.kind].append(sample)

    @property
    def count(self) -> int:
        """Of the steps that it has learned from."""
        return sum(map(len, self._equal.values()))

    def cost(self, work: Work) -> Cost | None:
        """The median of equal steps; else a linear law in the numbers of images, fitted to the steps of the same kind.

        ``None``: unknown, because nothing of the kind was run, or nothing that did what this step does (no step that
        replays, say).
        """
        if work not in self._asked:
            self._asked[work] = self._cost(work)
        return self._asked[work]

    def _cost(self, work: Work) -> Cost | None:
        equal = self._equal.get(work)
        if equal:
            return median_cost(equal)
        samples = self._similar.get(work.kind, [])
        never = [
            amount > 0 and not any(sample.work.amounts[i] for sample in samples)
            for i, amount in enumerate(work.amounts)
        ]
        if not samples or any(never):
            return None
        if work.kind not in self._laws:
            self._laws[work.kind] = (
                _Law(samples, [sample.cost.seconds for sample in samples]),
                _Law(samples, [sample.cost.cpu_seconds for sample in samples]),
            )
        seconds, cpu_seconds = self._laws[work.kind]
        return Cost(seconds(work), cpu_seconds(work))


class _Law:
    """Seconds = a sum over the kinds of images of number x seconds an image, none of them negative.

    Fitted to the smallest squares of the relative errors, so that short steps count as much as long ones.
    """

    def __init__(self, samples: list[Sample], seconds: list[float]) -> None:
        from scipy.optimize import nnls  # half a second, which commands that forecast nothing need not wait

        taken = np.maximum(np.array(seconds), 1e-9)
        amounts = np.array([sample.work.amounts for sample in samples])
        self._rates, _ = nnls(amounts / taken[:, None], np.ones(len(taken)))

    def __call__(self, work: Work) -> float:
        return float(np.dot(self._rates, work.amounts))
