"""The one Ray Tune searcher of a sweep: asks for the next trial, in whichever study it is due."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from ray.tune.search import Searcher


class TrialSource(Protocol):
    """Where trials come from; the sweep's ledger."""

    def next_config(self) -> dict[str, Any] | None:
        """The Tune configuration of the next trial; ``None``: nothing right now."""

    def exhausted(self) -> bool:
        """Whether nothing will ever follow."""


class SweepSearcher(Searcher):
    """Stateless towards Tune: what was suggested and what came of it is in the journal, not in Tune's snapshots."""

    def __init__(self, source: TrialSource) -> None:
        super().__init__()
        self._source: TrialSource | None = source

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """A configuration, ``None`` for "ask again later", or Tune's word for "no more"."""
        assert self._source is not None
        config = self._source.next_config()
        if config is None and self._source.exhausted():
            return Searcher.FINISHED
        return config

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: the callback has journalled it, and the next suggestion reads the journal."""

    def get_state(self) -> dict[str, Any]:
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Nothing to restore; a resumed sweep builds a fresh searcher."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""

    def __reduce__(self) -> tuple[Callable[[], SweepSearcher], tuple[()]]:
        return (_detached, ())  # Tune pickles its settings once; the source belongs to the living driver


def _detached() -> SweepSearcher:
    searcher = SweepSearcher.__new__(SweepSearcher)
    Searcher.__init__(searcher)
    searcher._source = None
    return searcher
