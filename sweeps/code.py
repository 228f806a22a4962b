"""The code of a sweep: all modules that act in any of its trials, and whether they are still those of its journal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bacs.config import RunConfig
from bacs.fingerprint import acting_code, fingerprint, libraries
from bacs.origin import ALLOW_OTHER_CODE, commit, refuse_changes
from results.state import SweepState
from search_spaces.space import METHOD_KEY, Params
from sweeps.ledger import planned_total
from sweeps.settings import SweepConfig, configured
from sweeps.trials import CROSS_ENTROPY


def sweep_code(sweep: SweepConfig) -> dict[str, Any]:
    """What the journal keeps: ``fingerprint``, ``commit``, ``dirty``, ``code`` and ``libraries``."""
    modules: dict[str, str] = {}
    versions: dict[str, str] = {}
    for run in _runs(sweep):
        code = acting_code(run, 1)
        modules |= code.modules
        versions |= libraries(run, code)
    head, dirty = commit()
    modules, versions = dict(sorted(modules.items())), dict(sorted(versions.items()))
    told = {"fingerprint": fingerprint(modules, versions), "commit": head, "dirty": dirty}
    return told | {"code": modules, "libraries": versions}


def is_anything_left(state: SweepState, sweep: SweepConfig, *, retry_failed: bool = False) -> bool:
    """Whether a driver would compute anything. Args: retry_failed: it takes trials up that failed for good."""
    trials = state.trials.values()
    over = [trial for trial in trials if trial.is_over and not (retry_failed and trial.status == "failed")]
    return len(over) < max(len(trials), planned_total(sweep, state))


def refuse_other_code(state: SweepState, sweep: SweepConfig, *, retry_failed: bool = False) -> None:
    """For whoever goes on with a sweep of which something was computed, and something is left.

    Raises:
        RequestError: its code or libraries have changed; names the files.
    """
    begun = any(trial.attempts for trial in state.trials.values())
    if not begun or not is_anything_left(state, sweep, retry_failed=retry_failed):
        return
    new_name = "start a sweep of its own: `run PRESET --name OTHER`"
    switch = f"`resume {state.sweep} {ALLOW_OTHER_CODE}`"
    refuse_changes(f"sweep {state.sweep}", state.code or None, new_name, switch)


def _runs(sweep: SweepConfig) -> Iterator[RunConfig]:
    """Configurations whose classes are those of all trials: of each method, extreme value and listed point."""
    base, own = sweep.base, sweep.launch.config_path
    yield RunConfig.from_dict({**base, METHOD_KEY: dict(CROSS_ENTROPY), "training": _plain(base["training"])})
    starts: list[Params] = [{METHOD_KEY: method} for method in sweep.space.methods] or [{}]
    for params in [*starts, *sweep.space.extremes()]:
        yield RunConfig.from_dict(configured(base, params, own))


def _plain(training: dict[str, Any]) -> dict[str, Any]:
    """Without keys of the method."""
    return {key: value for key, value in training.items() if key != "overrides_from_step"}
