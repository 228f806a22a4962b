"""Which trials would compute the same steps: the beginnings that their chains of stages have in common."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from bacs.config import RunConfig, n_steps
from bacs.fingerprint import acting_code
from bacs.lineage import acting_fields
from results.state import TrialState


class Prefixes:
    """Of the trials of one sweep. A prefix stands for a stage key, which only a run that has opened its data knows."""

    def __init__(self, at_home: Callable[[dict[str, Any]], dict[str, Any]] = dict) -> None:
        """Args: at_home: makes of a trial's configuration one that can be checked here."""
        self._at_home = at_home
        self._known: dict[str, list[str]] = {}

    def of(self, trial: TrialState) -> list[str]:
        """One a step: equal for two trials where they compute the same up to that step."""
        if trial.key not in self._known:
            self._known[trial.key] = _prefixes(RunConfig.from_dict(self._at_home(trial.config)))
        return self._known[trial.key]

    def done(self, trials: Mapping[str, TrialState], fingerprint: str) -> set[str]:
        """What some trial has finished, and therefore shared.

        Args:
            trials: of the sweep.
            fingerprint: of its code now; what was computed under another one is of no use to others.
        """
        codes = [fingerprint] if fingerprint else []
        sharing = [trial for trial in trials.values() if trial.step and trial.codes == codes]
        return {prefix for trial in sharing for prefix in self.of(trial)[: trial.step]}

    def left_of(self, trial: TrialState, done: set[str]) -> list[str]:
        """The steps that the trial would have to compute itself."""
        return [prefix for prefix in self.of(trial)[trial.step :] if prefix not in done]


def _prefixes(config: RunConfig) -> list[str]:
    dataset = config.resolved["dataset"]
    return [
        _digest([dataset, config.training.n_gpus, acting_fields(config, step), acting_code(config, step).modules])
        for step in range(n_steps(config.dataset, config.training))
    ]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
