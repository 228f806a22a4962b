"""The code of a sweep: all modules that act in any of its trials, and whether they are still those of its journal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bacs.config import RunConfig
from bacs.errors import RequestError
from bacs.fingerprint import acting_code, fingerprint, libraries
from bacs.origin import changes_since, commit
from results.state import SweepState
from search_spaces.space import METHOD_KEY, Params
from sweeps.ledger import planned_total
from sweeps.settings import SweepConfig, configured
from sweeps.trials import CROSS_ENTROPY

ALLOW_OTHER_CODE = "--allow-other-code"


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
    changes = changes_since(state.code or None)
    if changes:
        problem = f"is {state.sweep}, which other code or libraries than those of now have begun: {', '.join(changes)}"
        remedy = (
            "start a sweep of its own: `run PRESET --name OTHER`; or go on all the same with "
            f"`resume {state.sweep} {ALLOW_OTHER_CODE}`, and every later result is marked as mixed"
        )
        raise RequestError.of("NAME", problem, remedy)


def _runs(sweep: SweepConfig) -> Iterator[RunConfig]:
    """Configurations whose classes are those of all trials: of each method, extreme value and listed point."""
    base, own = sweep.base, sweep.launch.config_path
    yield RunConfig.from_dict({**base, METHOD_KEY: dict(CROSS_ENTROPY), "training": _plain(base["training"])})
    starts: list[Params] = [{METHOD_KEY: method} for method in sweep.space.methods] or [{}]
    for start in [*starts, *sweep.space.points]:
        yield RunConfig.from_dict(configured(base, start, own))
    for dimension in sweep.space.dimensions:
        method = {} if dimension.when is None else {METHOD_KEY: dimension.when}
        for value in dict.fromkeys(dimension.extremes()):
            yield RunConfig.from_dict(configured(base, method | {dimension.key: value}, own))


def _plain(training: dict[str, Any]) -> dict[str, Any]:
    """Without keys of the method."""
    return {key: value for key, value in training.items() if key != "overrides_from_step"}
