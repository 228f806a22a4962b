"""What early stopping cost: the audited trials, which it objected to and which went on all the same.

Everything is compared inside one split and seed, among the finished trials: those nobody objected to and the audited.
The others are gone, so a regret is a lower bound, the closer the larger the audited share.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from results.rows import Row, write_csv
from results.state import SELECTION_METRIC, SweepState, TrialState

TOLERATED_REGRET = 0.01
"""mIoU in 0..1: a configuration that is so much worse than the best still counts as found."""
FEWEST = 3
"""Finished trials from which on there is a ranking to compare."""
RESAMPLES = 1000
MOST_RESAMPLED = 1000
"""Trials that intervals are made from; of more a random choice, which makes them wider."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number and its 95 % bootstrap interval over the trials."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"

    @property
    def percent(self) -> str:
        return f"{100 * self.value:.1f} [{100 * self.low:.1f}, {100 * self.high:.1f}]"


def is_on(state: SweepState) -> bool:
    """Whether the sweep stops trials early."""
    return (state.config.get("stopping") or {}).get("algorithm", "none") != "none"


def audit_table(state: SweepState) -> list[Row]:
    """One row a split, seed and step but the last.

    ``stopped`` and ``audited`` count the trials that stopping objected to at this step or inside it. ``tau``: Kendall's
    tau-b of the ranking after the step with the final one; None where all are equal. ``regret``: the best final mIoU
    minus that of the best trial that nobody had objected to by then, in 0..1; None where nobody was audited.
    ``verdict``: ``safe``, ``not safe``, ``too little to tell``, or empty where nobody was objected to.
    """
    brackets = dict.fromkeys((t.split, t.seed) for t in state.trials.values() if t.role == "trial")
    return [row for split, seed in brackets for row in _bracket_rows(state, split, seed)]


def sentences(rows: Sequence[Row]) -> list[str]:
    """For every split and seed, after which steps stopping was safe and after which it was not."""
    texts = []
    for split, seed in dict.fromkeys((row["split"], row["seed"]) for row in rows):
        judged = [row for row in rows if (row["split"], row["seed"]) == (split, seed) and row["verdict"]]
        parts = [part for verdict in ("not safe", "safe", "too little to tell") if (part := _part(judged, verdict))]
        texts.append(f"{split}, seed {seed}: {'; '.join(parts) if parts else 'no trial was stopped'}")
    return texts


def render_audit(state: SweepState) -> RenderableType:
    """The table and its sentences."""
    rows = audit_table(state)
    title = Text(f"early stopping in {state.sweep}: is the ranking after a step the final one?")
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("split", "seed", "step", "finished", "stopped", "audited"):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("Kendall's tau", "regret in % mIoU", "verdict"):
        table.add_column(heading, no_wrap=True)
    for row in rows:
        names = ("split", "seed", "step", "finished", "stopped", "audited")
        cells = [str(row[name]) for name in names]
        cells += [_shown(row, "tau"), _shown(row, "regret"), row["verdict"] or "-"]
        table.add_row(*map(Text, cells))
    return Group(table, Text("\n".join(sentences(rows))))


def write_audit(state: SweepState, folder: Path) -> Path:
    """Writes ``stopping.csv``, the rows of :func:`audit_table`, into a folder that is there."""
    return write_csv(folder / "stopping.csv", audit_table(state))


def _bracket_rows(state: SweepState, split: str, seed: int) -> list[Row]:
    metric = state.config["stopping"]["metric"]
    trials = [t for t in state.trials.values() if (t.role, t.split, t.seed) == ("trial", split, seed)]
    finished = [t for t in trials if t.status == "finished" and math.isfinite(t.final.get(SELECTION_METRIC, math.nan))]
    last = max((x for trial in finished for name, x in trial.points if name == metric), default=0)
    return [_step_row(split, seed, step, trials, finished, metric) for step in range(1, last + 1)]


def _step_row(
    split: str, seed: int, step: int, trials: list[TrialState], finished: list[TrialState], metric: str
) -> Row:
    at_step = [t for t in trials if t.stop is not None and _step_of(t) == step]
    audited = [t for t in at_step if t.stop is not None and t.stop.audited]
    seen = [t for t in finished if math.isfinite(t.points.get((metric, step - 1), (math.nan, 0.0))[0])]
    values = np.array([t.points[metric, step - 1][0] for t in seen])
    tau = kendall(values, _finals(seen)) if len(seen) >= FEWEST else None
    kept = np.array([t.stop is None or _step_of(t) > step for t in finished], dtype=bool)
    told = any(t.status == "finished" for t in audited)
    regret = stopping_regret(_finals(finished), kept) if told and kept.any() else None
    return {
        "split": split,
        "seed": seed,
        "step": step,
        "finished": len(finished),
        "stopped": len(at_step) - len(audited),
        "audited": len(audited),
        **_columns("tau", tau),
        **_columns("regret", regret),
        "verdict": _verdict(tau, regret) if at_step else "",
    }


def _step_of(trial: TrialState) -> int:
    """The step (1-based) at or in which a trial was objected to."""
    assert trial.stop is not None
    return trial.stop.step + (trial.stop.epoch > 0)


def _finals(trials: list[TrialState]) -> Floats:
    return np.array([trial.final[SELECTION_METRIC] for trial in trials])


def kendall(first: Floats, second: Floats) -> Estimate | None:
    """Kendall's tau-b of two scores of the same trials; ``None`` where one of them is the same for all."""
    from scipy.stats import kendalltau

    tau = float(kendalltau(first, second).statistic)
    if math.isnan(tau):
        return None
    chosen = _chosen(len(first))
    taus = weighted_taus(first[chosen], second[chosen], _resampled(len(chosen)))
    return _with_interval(tau, taus[np.isfinite(taus)])


def weighted_taus(first: Floats, second: Floats, weights: Floats) -> Floats:
    """Tau-b of every resample, given as how often each trial is in it: (resamples, trials) -> (resamples,).

    NaN where all trials of a resample are equal.
    """
    signs = [np.sign(np.subtract.outer(scores, scores)) for scores in (first, second)]
    untied = _pairs(weights, np.abs(signs[0])) * _pairs(weights, np.abs(signs[1]))
    agreeing = _pairs(weights, signs[0] * signs[1])
    return np.divide(agreeing, np.sqrt(untied), out=np.full(len(weights), np.nan), where=untied > 0)


def stopping_regret(finals: Floats, kept: NDArray[np.bool_]) -> Estimate:
    """The best of all minus the best of those that stopping keeps, at least one. (An interval of a maximum is rough.)

    Resamples without a kept trial are left out.
    """
    chosen = _chosen(len(finals))
    drawn = np.where(_resampled(len(chosen)) > 0, finals[chosen], -np.inf)
    best_kept = np.where(kept[chosen], drawn, -np.inf).max(axis=1)
    possible = np.isfinite(best_kept)
    value = float(finals.max() - finals[kept].max())
    return _with_interval(value, drawn.max(axis=1)[possible] - best_kept[possible])


def _pairs(weights: Floats, relation: Floats) -> Floats:
    """For every resample, the sum of a relation over all its pairs."""
    return np.asarray(((weights @ relation) * weights).sum(axis=1))


def _chosen(n: int) -> NDArray[np.int64]:
    return np.arange(n) if n <= MOST_RESAMPLED else np.random.default_rng(0).choice(n, MOST_RESAMPLED, replace=False)


def _resampled(n: int) -> Floats:
    """(RESAMPLES, n): how often each trial is in each resample; the same for the same n."""
    return np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(float)


def _with_interval(value: float, resampled: Floats) -> Estimate:
    low, high = np.percentile(resampled, [2.5, 97.5]) if len(resampled) else (math.nan, math.nan)
    return Estimate(value, float(low), float(high))


def _verdict(tau: Estimate | None, regret: Estimate | None) -> str:
    if regret is not None and regret.value > TOLERATED_REGRET:
        return "not safe"
    if tau is not None and tau.high <= 0:
        return "not safe"
    if regret is None or tau is None or not tau.low > 0:
        return "too little to tell"
    return "safe"


def _columns(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    values = (None, None, None) if estimate is None else (estimate.value, estimate.low, estimate.high)
    return dict(zip((name, f"{name}_low", f"{name}_high"), values, strict=True))


def _shown(row: Row, name: str) -> str:
    value: Any = row[name]
    if value is None:
        return "-"
    estimate = Estimate(value, row[f"{name}_low"], row[f"{name}_high"])
    return estimate.percent if name == "regret" else str(estimate)


def _part(rows: list[Row], verdict: str) -> str:
    steps = [row for row in rows if row["verdict"] == verdict]
    if not steps:
        return ""
    names = ", ".join(str(row["step"]) for row in steps)
    text = f"stopping after step{'s' if len(steps) > 1 else ''} {names}"
    if verdict == "too little to tell":
        return f"{text}: {verdict} (more trials, or a larger stopping.audit_share)"
    if verdict == "safe":
        return f"{text} was safe"
    worst = max(steps, key=lambda row: row["regret"] or 0.0)
    return f"{text} was not safe: regret {_shown(worst, 'regret')} % mIoU, tau {_shown(worst, 'tau')}"
