"""Ray Tune's callback: every event goes to the journal before anything else looks at it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray import tune
from ray.tune.experiment import Trial as TuneTrial

from sweeps.ledger import Ledger


class JournalCallback(tune.Callback):
    """Books reports, retries and failures."""

    def __init__(self, ledger: Ledger | None) -> None:
        self._ledger = ledger

    def on_trial_result(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: dict[str, Any], **info: Any
    ) -> None:
        if self._ledger is not None and "kind" in result:
            self._ledger.book_report(trial.config["trial"], result)

    def on_trial_recover(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        self._failed(trial, will_retry=True)

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        self._failed(trial, will_retry=False)

    def _failed(self, trial: TuneTrial, *, will_retry: bool) -> None:
        if self._ledger is not None:
            self._ledger.book_failure(trial.config["trial"], will_retry=will_retry)

    def __reduce__(self) -> tuple[Callable[..., JournalCallback], tuple[None]]:
        return (JournalCallback, (None,))  # Tune pickles its settings once; the ledger belongs to the living driver
