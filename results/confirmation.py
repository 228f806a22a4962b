"""What a confirmation came to: per split the winner of a sweep against everyone else, on fresh seeds.

Its configurations were chosen by validation images, in another sweep and with other seeds, so here the test images may
speak: the comparisons are those of ``final/miou``.
"""

from __future__ import annotations

import math
import statistics
from typing import Any

from results.state import REFERENCE_ROLES, SELECTION_METRIC, SweepState, TrialState
from results.statistics import Comparison, compare

TEST_METRIC = "final/miou"

Contestants = dict[str, list[TrialState]]
"""Name -> its finished trials, one a seed."""


def contestants(state: SweepState, split: str) -> Contestants:
    """The configurations of a split under their names, the sweep's winner first, then the references."""
    found: Contestants = {}
    for number, name in enumerate(state.points.get(split, {})):
        found[name] = [trial for trial in state.finished(split) if trial.number == number]
    found |= {role: state.finished(split, role) for role in REFERENCE_ROLES}
    return {name: trials for name, trials in found.items() if trials}


def contestants_table(state: SweepState) -> list[dict[str, Any]]:
    """One row a split and configuration: means over its seeds and standard deviation (n - 1), mIoU in 0..1."""
    return [
        {
            "split": split,
            "configuration": name,
            "seeds": len(trials),
            "val_miou": _mean(trials, SELECTION_METRIC),
            "miou": _mean(trials, TEST_METRIC),
            "miou_sd": _deviation(trials),
        }
        for split in state.splits()
        for name, trials in contestants(state, split).items()
    ]


def comparisons_table(state: SweepState) -> list[dict[str, Any]]:
    """One row a comparison: the winner (``a``) against each other contestant (``b``) of its split, over shared seeds.

    Scores, ``difference`` (a - b) and its interval ``low`` to ``high`` are test mIoU in 0..1, ``p_holm`` is corrected
    for the comparisons of the split. ``verdict`` as `results.statistics.Comparison.verdict`, ``sentence`` for people.
    """
    return [row for split in state.splits() for row in _split_rows(state, split)]


def _split_rows(state: SweepState, split: str) -> list[dict[str, Any]]:
    scores = {name: _scores(trials) for name, trials in contestants(state, split).items()}
    first, *others = scores or {"": {}}
    if first not in state.points.get(split, {}):
        return []  # references alone
    shared = {name: sorted(scores[first].keys() & scores[name].keys()) for name in others}
    shared = {name: seeds for name, seeds in shared.items() if seeds}
    found = compare([[scores[first][seed] - scores[name][seed] for seed in seeds] for name, seeds in shared.items()])
    return [
        {
            "split": split,
            "a": first,
            "b": name,
            "pairs": comparison.pairs,
            "a_miou": statistics.fmean(scores[first][seed] for seed in seeds),
            "b_miou": statistics.fmean(scores[name][seed] for seed in seeds),
            "difference": comparison.difference,
            "low": comparison.interval[0] if comparison.interval else None,
            "high": comparison.interval[1] if comparison.interval else None,
            "p": comparison.p,
            "p_holm": comparison.p_holm,
            "family": comparison.family,
            "verdict": comparison.verdict,
            "sentence": sentence(first, name, comparison),
        }
        for (name, seeds), comparison in zip(shared.items(), found, strict=True)
    ]


def sentence(a: str, b: str, comparison: Comparison) -> str:
    """``A beats B by 2.1 mIoU [1.2, 3.0] (p = 0.01, Holm)``, in points of 100; the better one is named first."""
    sign = 1
    if comparison.difference < 0 and comparison.verdict != "tie":
        a, b, sign = b, a, -1
    by = f"{100 * sign * comparison.difference:.1f} mIoU"
    if comparison.interval is not None:
        low, high = sorted(100 * sign * end for end in comparison.interval)
        by += f" [{low:.1f}, {high:.1f}]"
    p = f"p = {comparison.p_holm:.2g}, Holm"
    pairs = f"{comparison.pairs} pair{'s' if comparison.pairs > 1 else ''}"
    if comparison.verdict in ("win", "loss"):
        return f"{a} beats {b} by {by} ({p})"
    if comparison.verdict == "tie":
        return f"tie: {a} and {b} differ by {by} ({p})"
    return (
        f"undecided: {a} leads {b} by {by}, but {pairs} cannot give a p below {comparison.smallest_p_holm:.2g} (Holm)"
    )


def _scores(trials: list[TrialState]) -> dict[int, float]:
    """Test mIoU by seed, which stands for its class order too."""
    values = {trial.seed: trial.final.get(TEST_METRIC, math.nan) for trial in trials}
    return {seed: value for seed, value in values.items() if math.isfinite(value)}


def _mean(trials: list[TrialState], metric: str) -> float | None:
    values = [trial.final.get(metric, math.nan) for trial in trials]
    finite = [value for value in values if math.isfinite(value)]
    return statistics.fmean(finite) if finite else None


def _deviation(trials: list[TrialState]) -> float | None:
    values = list(_scores(trials).values())
    return statistics.stdev(values) if len(values) > 1 else None
