"""The few MLflow calls the projection needs, each safe to repeat. MLflow is imported on first use."""

from __future__ import annotations

import logging
import os
import re
import urllib.parse
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from results.errors import ResultsError
from results.mlflow_database import make_database, make_no_folders, move_artifacts
from results.projection import Point

_ENTITIES_A_CALL = {"metrics": 1000, "params": 100, "tags": 100}  # what a server takes at most
_RUNS_A_PAGE = 1000
_HTTP_TIMEOUT_SECONDS = 10

_NOT_ABOUT_THE_REQUEST = (401, 429)  # a wrong login and a busy server refuse whatever comes
_MOST_REFUSED = 20
"""In one call of `RunStore.log_points` and its like; beyond that it is the run, not the points."""


@dataclass(kw_only=True, slots=True)
class RemoteRun:
    """A run as MLflow is known to hold it."""

    run_id: str
    status: str
    end_time: int | None
    """Unix milliseconds."""
    tags: dict[str, str]
    metrics: int = 0
    """How many metrics it held when it was found."""


def prepare_environment() -> None:
    """Make MLflow quiet and quick to give up; what the user has set himself stays.

    Retries are the tracker's business: with MLflow's own, one call to a dead server blocks for minutes.
    """
    wanted = {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(_HTTP_TIMEOUT_SECONDS),
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_LOGGING_LEVEL": "WARNING",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "GIT_PYTHON_REFRESH": "quiet",  # a missing git program would be announced at import
    }
    for name, value in wanted.items():
        os.environ.setdefault(name, value)
    # Levels set by hand also hold where MLflow was imported before. The first prints every locked database with its
    # traceback, the second announces every new one; what fails is raised besides.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    logging.getLogger("alembic.runtime.migration").setLevel(logging.WARNING)


def is_refusal(error: Exception) -> bool:
    """Whether the server answered and refused this very request (others may still pass)."""
    if getattr(error, "error_code", None) == "INVALID_STATE":
        return True
    status = getattr(error, "get_http_status_code", lambda: 0)()
    return 400 <= status < 500 and status not in _NOT_ABOUT_THE_REQUEST


class RunStore:
    """One experiment of one tracking server or database."""

    def __init__(self, uri: str, experiment: str, artifact_root: Path) -> None:
        """Connect; a missing SQLite database and a missing experiment are created.

        Args:
            uri: the tracking URI.
            experiment: the experiment's name.
            artifact_root: where the artifacts of an experiment in a database go. A server has its own place.
        """
        from mlflow import MlflowClient

        if is_sqlite(uri):
            make_database(sqlite_path(uri).absolute())
            make_no_folders()
        self._client = MlflowClient(tracking_uri=uri)
        # Left to itself MLflow would put those of a database below the folder that the command was started in.
        root = artifact_root.resolve().as_uri() if is_database(uri) else None
        self._experiment_id = self._get_or_create_experiment(experiment, root)
        if is_sqlite(uri):
            move_artifacts(sqlite_path(uri).absolute(), self._experiment_id, artifact_root)

    def find_runs(self, tags: Mapping[str, str]) -> list[RemoteRun]:
        """All runs that carry these tags; deleted ones are not among them."""
        condition = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
        found: list[RemoteRun] = []
        token: str | None = None
        while True:
            page = self._client.search_runs(
                [self._experiment_id], condition, max_results=_RUNS_A_PAGE, page_token=token
            )
            found += map(_remote, page)
            token = page.token
            if not token:
                return found

    def create_run(self, tags: Mapping[str, str], name: str, start_ms: int) -> RemoteRun:
        """A new run. A server that does not answer may have made it nevertheless, or make it later."""
        return _remote(
            self._client.create_run(self._experiment_id, start_time=start_ms, tags=dict(tags), run_name=name)
        )

    def delete_run(self, run: RemoteRun) -> None:
        """Out of sight; `mlflow runs restore` brings it back."""
        self._client.delete_run(run.run_id)

    def log_points(self, run: RemoteRun, points: Iterable[Point]) -> list[str]:
        """Ship points; one that MLflow has (same name, value, time, x) is not doubled. Returns: what was refused."""
        from mlflow.entities import Metric

        return self._log(run, "metrics", [Metric(*point) for point in points])

    def log_params(self, run: RemoteRun, params: Mapping[str, str]) -> list[str]:
        """MLflow lets no value change; the same value again is fine. Values end at 6000 characters.

        Returns: what was refused.
        """
        from mlflow.entities import Param

        return self._log(run, "params", [Param(name, value[:6000]) for name, value in params.items()])

    def log_config(self, run: RemoteRun, config: dict[str, Any]) -> None:
        """The whole resolved configuration as the artifact ``config.yaml``."""
        self._client.log_dict(run.run_id, config, "config.yaml")

    def update_tags(self, run: RemoteRun, tags: Mapping[str, str], stale: Iterable[str]) -> list[str]:
        """Set the tags that differ, remove those of ``stale`` that are not among them. Returns: what was refused."""
        from mlflow.entities import RunTag

        changed = [RunTag(name, value) for name, value in tags.items() if run.tags.get(name) != value]
        refused = self._log(run, "tags", changed)
        run.tags |= tags
        for name in stale:
            if name in run.tags and name not in tags:
                self._client.delete_tag(run.run_id, name)
                del run.tags[name]
        return refused

    def check_writable(self, run: RemoteRun) -> None:
        """Writes a tag that is there already; raises what MLflow raises."""
        from mlflow.entities import RunTag

        name, value = next(iter(run.tags.items()))
        self._client.log_batch(run.run_id, tags=[RunTag(name, value)])

    def set_status(self, run: RemoteRun, status: str, end_ms: int | None) -> None:
        """Reopen or terminate a run, if it is not so already."""
        if run.status == status and end_ms in (None, run.end_time):
            return
        if end_ms is None:
            self._client.update_run(run.run_id, status=status)
        else:
            self._client.set_terminated(run.run_id, status, end_time=end_ms)
            run.end_time = end_ms
        run.status = status

    def _log(self, run: RemoteRun, kind: str, entities: list[Any]) -> list[str]:
        """Log metrics, params or tags in as few calls as are allowed."""
        size = _ENTITIES_A_CALL[kind]
        refused: list[str] = []
        for start in range(0, len(entities), size):
            self._log_chunk(run, kind, entities[start : start + size], refused)
        return refused

    def _log_chunk(self, run: RemoteRun, kind: str, chunk: list[Any], refused: list[str]) -> None:
        """One bad entity makes MLflow refuse the whole call: cut it in two until the bad one stands alone."""
        try:
            self._client.log_batch(run.run_id, **{kind: chunk})
        except Exception as error:
            if not is_refusal(error) or len(refused) >= _MOST_REFUSED:
                raise
            self.check_writable(run)
            if len(chunk) == 1:
                place = f" at {chunk[0].step}" if kind == "metrics" else ""
                refused.append(f"{kind[:-1]} {chunk[0].key}{place}: {error}")
                return
            for half in (chunk[: len(chunk) // 2], chunk[len(chunk) // 2 :]):
                self._log_chunk(run, kind, half, refused)

    def _get_or_create_experiment(self, name: str, artifact_root: str | None) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self._client.create_experiment(name, artifact_location=artifact_root))
            except Exception:
                found = self._client.get_experiment_by_name(name)  # another sweep of this name was quicker
                if found is None:
                    raise
        if found.lifecycle_stage != "active":
            raise ResultsError(
                f"the MLflow experiment {name!r} was deleted",
                f"bring it back with `mlflow experiments restore -x {found.experiment_id}`",
            )
        return str(found.experiment_id)


def _remote(run: Any) -> RemoteRun:
    return RemoteRun(
        run_id=run.info.run_id,
        status=run.info.status,
        end_time=run.info.end_time,
        tags=dict(run.data.tags),
        metrics=len(run.data.metrics),
    )


def is_sqlite(uri: str) -> bool:
    """Whether a tracking URI means a SQLite file."""
    return uri.startswith("sqlite:")


def is_database(uri: str) -> bool:
    """Whether MLflow writes to a database itself."""
    return bool(re.match(r"(sqlite|postgresql|mysql|mssql)(\+\w+)?:", uri))


def sqlite_path(uri: str) -> Path:
    """The file of ``sqlite:///relative`` or ``sqlite:////absolute``, whose URI may escape characters."""
    return Path(urllib.parse.unquote(uri.partition(":///")[2].partition("?")[0]))
