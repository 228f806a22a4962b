"""What Ray Tune calls: every event goes to the journal before anything else looks at it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from ray import tune
from ray.exceptions import RayActorError
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
        lost = _lost_its_node(trial)
        if lost:
            trial.run_metadata.num_failures -= 1  # Tune itself leaves out only what its autoscaler drained
        self._failed(trial, will_retry=True, lost_node=lost)

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        self._failed(trial, will_retry=False, lost_node=_lost_its_node(trial))

    def _failed(self, trial: TuneTrial, *, will_retry: bool, lost_node: bool) -> None:
        if self._ledger is not None:
            self._ledger.book_failure(trial.config["trial"], will_retry=will_retry, lost_node=lost_node)

    def __reduce__(self) -> tuple[Callable[..., JournalCallback], tuple[None]]:
        return (JournalCallback, (None,))  # Tune pickles its settings once; the ledger belongs to the living driver


def _lost_its_node(trial: TuneTrial) -> bool:
    """Whether the machine went away under a trial: pre-empted, drained, crashed."""
    error = trial.get_pickled_error()
    return isinstance(error, RayActorError) and (error.preempted or "its node has died" in str(error))


class Draining(tune.Stopper):
    """Stops all trials at their next report, or after ten seconds, once the event is set."""

    def __init__(self, event: threading.Event | None) -> None:
        self._event = event

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._event is not None and self._event.is_set()

    def __reduce__(self) -> tuple[Callable[..., Draining], tuple[None]]:
        return (Draining, (None,))
