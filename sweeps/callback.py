"""What Ray Tune calls: every event goes to the journal before anything else looks at it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray import tune
from ray.air.execution._internal import RayActorManager
from ray.exceptions import RayActorError, RayTaskError
from ray.tune.experiment import Trial as TuneTrial

from sweeps.ledger import Ledger
from sweeps.ray_session import is_node_gone
from sweeps.retries import tells_of_python


class Stopping(tune.Stopper):
    """Books every report, and has Tune end the trials that are stopped by it, at once.

    Tune asks its stoppers about a report before it tells its callbacks of it, so the books are kept here.
    """

    def __init__(self, ledger: Ledger | None) -> None:
        self._ledger = ledger

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        if self._ledger is None or "kind" not in result or result.get("done"):  # done: the last report once more
            return False
        key = result["config"]["trial"]
        self._ledger.book_report(key, result)
        return self._ledger.is_stopped(key)

    def stop_all(self) -> bool:
        return False

    def __reduce__(self) -> tuple[Callable[..., Stopping], tuple[None]]:
        return (Stopping, (None,))


class JournalCallback(tune.Callback):
    """Books failures; :class:`Stopping` books reports.

    Tune itself restarts pre-empted trials only; the ledger hands out all others anew.
    """

    def __init__(self, ledger: Ledger | None) -> None:
        self._ledger = ledger
        self._nodes: dict[str, str] = {}  # Ray's id of the one that each trial was last started on

    def on_trial_result(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: dict[str, Any], **info: Any
    ) -> None:
        if "node" in result:
            self._nodes[trial.trial_id] = result["node"]

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        if self._ledger is not None:
            self._ledger.drop(trial.config["trial"])

    def on_trial_recover(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        self._failed(trial, will_retry=True)

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        self._failed(trial, will_retry=False)

    def _failed(self, trial: TuneTrial, *, will_retry: bool) -> None:
        if self._ledger is not None:
            text = _last_error(trial)
            # Of a node that has just crashed Ray only tells that the actor is dead or out of reach.
            lost = will_retry or (not tells_of_python(text) and is_node_gone(self._nodes.get(trial.trial_id, "")))
            self._ledger.book_failure(trial.config["trial"], will_retry=will_retry, lost_node=lost, ray_text=text)

    def __reduce__(self) -> tuple[Callable[..., JournalCallback], tuple[None]]:
        return (JournalCallback, (None,))  # Tune pickles its settings once; the ledger belongs to the living driver


def _last_error(trial: TuneTrial) -> str:
    """Ray's text on the newest failure; Tune appends them to one file, each under a line of its own."""
    try:
        text = Path(trial.error_file).read_text(encoding="utf-8", errors="replace")
    except (OSError, TypeError):
        return ""
    return text.rpartition("Failure # ")[2].partition("\n")[2].strip()


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


def let_trials_die() -> None:
    """Has Tune take every way in which Ray tells that a worker is gone for the end of its trial.

    Ray 2.60 knows two: the actor's death, and an error in it. When Ray's memory monitor kills a worker, or a node goes
    at a bad moment, neither comes, and the "unexpected exception" ends the whole sweep.
    """
    handle = RayActorManager._actor_task_failed
    if getattr(handle, "takes_all_errors", False):
        return

    def handle_all(self: RayActorManager, tracked_actor_task: Any, exception: Exception) -> None:
        if not isinstance(exception, RayActorError | RayTaskError):
            exception = RayActorError(error_msg=f"{type(exception).__name__}: {exception}")
        handle(self, tracked_actor_task, exception)

    handle_all.takes_all_errors = True  # type: ignore[attr-defined]
    RayActorManager._actor_task_failed = handle_all
