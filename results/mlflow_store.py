"""The few MLflow calls the projection needs, each safe to repeat. MLflow is imported on first use."""

from __future__ import annotations

import logging
import os
import urllib.parse
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from results.errors import ResultsError
from results.projection import Point

_POINTS_A_CALL = 1000
_HTTP_TIMEOUT_SECONDS = 10

_REFUSALS = {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE", "BAD_REQUEST"}


@dataclass(kw_only=True, slots=True)
class RemoteRun:
    """A run as MLflow is known to hold it."""

    run_id: str
    status: str
    end_time: int | None
    """Unix milliseconds."""
    tags: dict[str, str]


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
    # These two announce every new database. Levels set by hand also hold where MLflow was imported before.
    for name in ("mlflow.store.db.utils", "alembic.runtime.migration"):
        logging.getLogger(name).setLevel(logging.WARNING)


def is_refusal(error: Exception) -> bool:
    """Whether the server answered and refused this very request (others may still pass)."""
    return getattr(error, "error_code", None) in _REFUSALS


class RunStore:
    """One experiment of one tracking server or database."""

    def __init__(self, uri: str, experiment: str, artifact_root: Path) -> None:
        """Connect; a missing SQLite database (2-4 s) and a missing experiment are created.

        Args:
            uri: the tracking URI.
            experiment: the experiment's name.
            artifact_root: where artifacts go when the experiment is created in a SQLite database. A server
                has its own place.
        """
        from mlflow import MlflowClient

        if is_sqlite(uri):
            sqlite_path(uri).parent.mkdir(parents=True, exist_ok=True)
        self._client = MlflowClient(tracking_uri=uri)
        root = artifact_root.resolve().as_uri() if is_sqlite(uri) else None
        self._experiment_id = self._get_or_create_experiment(experiment, root)

    def get_or_create_run(
        self, identity: Mapping[str, str], tags: Mapping[str, str], name: str, start_ms: int
    ) -> RemoteRun:
        """The oldest run that carries all tags of ``identity``; created when there is none."""
        condition = " and ".join(f"tags.`{key}` = '{value}'" for key, value in identity.items())
        found = self._client.search_runs(
            [self._experiment_id], condition, max_results=1, order_by=["attributes.start_time ASC"]
        )
        run = (
            found[0]
            if found
            else self._client.create_run(self._experiment_id, start_time=start_ms, tags=dict(tags), run_name=name)
        )
        return RemoteRun(
            run_id=run.info.run_id,
            status=run.info.status,
            end_time=run.info.end_time,
            tags=dict(run.data.tags),
        )

    def log_points(self, run_id: str, points: Iterable[Point]) -> int:
        """Ship points; one that MLflow has (same name, value, time, x) is not doubled. Returns: how many."""
        from mlflow.entities import Metric

        source = iter(points)
        shipped = 0
        while chunk := [Metric(*point) for point in islice(source, _POINTS_A_CALL)]:
            self._client.log_batch(run_id, metrics=chunk)
            shipped += len(chunk)
        return shipped

    def log_params(self, run_id: str, params: Mapping[str, str]) -> None:
        """MLflow lets no value change; the same value again is fine. Values end at 6000 characters."""
        from mlflow.entities import Param

        self._client.log_batch(run_id, params=[Param(name, value[:6000]) for name, value in params.items()])

    def log_config(self, run_id: str, config: dict[str, Any]) -> None:
        """The whole resolved configuration as the artifact ``config.yaml``."""
        self._client.log_dict(run_id, config, "config.yaml")

    def update_tags(self, run: RemoteRun, tags: Mapping[str, str], stale: Iterable[str]) -> None:
        """Set the tags that differ, remove those of ``stale`` that are not among them."""
        from mlflow.entities import RunTag

        changed = [RunTag(name, value) for name, value in tags.items() if run.tags.get(name) != value]
        if changed:
            self._client.log_batch(run.run_id, tags=changed)
        run.tags |= tags
        for name in stale:
            if name in run.tags and name not in tags:
                self._client.delete_tag(run.run_id, name)
                del run.tags[name]

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

    def _get_or_create_experiment(self, name: str, artifact_root: str | None) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is None:
            return str(self._client.create_experiment(name, artifact_location=artifact_root))
        if found.lifecycle_stage != "active":
            raise ResultsError(
                f"the MLflow experiment {name!r} was deleted",
                f"bring it back with `mlflow experiments restore -x {found.experiment_id}`",
            )
        return str(found.experiment_id)


def is_sqlite(uri: str) -> bool:
    """Whether a tracking URI means a SQLite file."""
    return uri.startswith("sqlite:")


def sqlite_path(uri: str) -> Path:
    """The file of ``sqlite:///relative`` or ``sqlite:////absolute``."""
    return Path(urllib.parse.urlsplit(uri).path.removeprefix("/"))
