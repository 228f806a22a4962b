from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from scipy.stats import kendalltau

from results.state import SweepState
from results.stopping_audit import (
    audit_table,
    is_on,
    kendall,
    render_audit,
    sentences,
    stopping_regret,
    weighted_taus,
    write_audit,
)


def sweep_with(scribe, trials, split="2-2"):
    """Trials of three steps: (values after the steps, final, step of the objection or None, audited)."""
    stopping = {"algorithm": "halving", "metric": "val/miou_all"}
    scribe.journal.append("created", sweep="audited", uid="u", config={"stopping": stopping})
    for number, (values, final, step, audited) in enumerate(trials):
        key = scribe.suggest(number, split=split)
        scribe.start(key)
        for done, value in enumerate(values, 1):
            stop = {"step": done, "epoch": 0, "reason": "poor", "audited": audited} if done == step else None
            more = {"stop": stop} if stop else {}
            points = [["val/miou_all", done - 1, value, scribe.now]]
            scribe.journal.append("reported", trial=key, step=done, epoch=done, points=points, **more)
        if step and not audited:
            scribe.journal.append("stopped", trial=key, reason="poor")
        else:
            scribe.journal.append("finished", trial=key, final={"final/val_miou": final}, seconds=1.0)
    return SweepState.load(scribe.path)


GOOD = [([0.9 - n / 100, 0.8 - n / 100, 0.7 - n / 100], 0.7 - n / 100, None, False) for n in range(12)]


def test_a_ranking_that_holds_is_safe(scribe):
    poor = ([0.5, 0.4, 0.3], 0.3, 1, True)
    state = sweep_with(scribe, [*GOOD, poor, ([0.5], None, 1, False)])
    assert is_on(state)
    first, second = audit_table(state)
    assert (first["finished"], first["stopped"], first["audited"]) == (13, 1, 1)
    assert first["tau"] == pytest.approx(1.0)
    assert (first["regret"], first["verdict"]) == (0.0, "safe")
    assert (second["stopped"], second["audited"], second["verdict"]) == (0, 0, "")
    assert sentences([first, second]) == ["2-2, seed 0: stopping after step 1 was safe"]
    assert "tau" in write_audit(state, scribe.path.parent).read_text().splitlines()[0]


def test_a_winner_that_would_have_been_stopped_is_told(scribe):
    late = ([0.5, 0.9, 0.95], 0.95, 1, True)
    state = sweep_with(scribe, [*GOOD, late])
    (row, _) = audit_table(state)
    assert row["regret"] == pytest.approx(0.25)
    assert row["regret_low"] <= row["regret"] <= row["regret_high"] + 1e-9
    assert row["verdict"] == "not safe"
    assert "after step 1 was not safe: regret 25.0" in sentences([row])[0]
    with (console := Console(width=140)).capture() as shown:
        console.print(render_audit(state))
    assert "not safe" in shown.get()


def test_without_audited_trials_nothing_is_claimed(scribe):
    state = sweep_with(scribe, [*GOOD, ([0.5], None, 1, False)])
    row = audit_table(state)[0]
    assert row["regret"] is None
    assert row["verdict"] == "too little to tell"


def test_equal_values_have_no_ranking(scribe):
    state = sweep_with(scribe, [([0.8, v, v], v, None, False) for v in (0.1, 0.2, 0.3)])
    first, second = audit_table(state)
    assert first["tau"] is None
    assert second["tau"] == pytest.approx(1.0)
    assert sentences([first, second]) == ["2-2, seed 0: no trial was stopped"]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=12), st.randoms())
def test_tau_of_resampled_trials_is_that_of_repeated_trials(pairs, random):
    first, second = (np.array(column, dtype=float) for column in zip(*pairs, strict=True))
    drawn = [[random.randrange(len(pairs)) for _ in pairs] for _ in range(20)]
    weights = np.array([np.bincount(draw, minlength=len(pairs)) for draw in drawn], dtype=float)
    wanted = [kendalltau(first[draw], second[draw]).statistic for draw in drawn]
    np.testing.assert_allclose(weighted_taus(first, second, weights), wanted, atol=1e-9)
    estimate = kendall(first, second)
    if estimate is not None:
        assert estimate.low <= estimate.high
        assert estimate.value == pytest.approx(kendalltau(first, second).statistic)


def test_regret_is_the_loss_of_the_best():
    finals = np.array([0.5, 0.6, 0.9])
    assert stopping_regret(finals, np.array([True, True, False])).value == pytest.approx(0.3)
    assert stopping_regret(finals, np.array([True, False, True])).value == 0.0
