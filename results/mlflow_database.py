"""SQLite tracking databases: a new one, all of it or nothing, and one that was moved with its storage folder."""

from __future__ import annotations

import contextlib
import sqlite3
import urllib.parse
from pathlib import Path

from results.writer_lock import WriterLock

_TURN_SECONDS = 60.0


def make_database(path: Path) -> None:
    """Makes the database at ``path`` where there is none (2-4 s).

    MLflow makes its tables one by one: killed meanwhile, it leaves a file that it refuses ever after. So they are made
    in a draft, which then takes the name.

    Raises:
        ResultsError: another process has been making it for a minute.
        Exception: whatever MLflow raises.
    """
    if _is_made(path):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = WriterLock.wait(path.with_name(f"{path.name}.lock"), _TURN_SECONDS)
    try:
        if not _is_made(path):
            _make(path, path.with_name(f".{path.name}.tmp"))
    finally:
        lock.release()


def move_artifacts(path: Path, experiment_id: str, root: Path) -> None:
    """Lets an experiment, and its runs, keep its artifacts below ``root``: MLflow records absolute places.

    So it is where the storage folder that holds both was moved or copied, or where the folder of before is gone.

    Args:
        path: the database.
        experiment_id: of a sweep.
        root: folder of its artifacts.
    """
    new = root.resolve().as_uri()
    with contextlib.closing(sqlite3.connect(path, timeout=30.0)) as database, database:
        query = "SELECT artifact_location FROM experiments WHERE experiment_id = ?"
        (old,) = database.execute(query, (experiment_id,)).fetchone() or (new,)
        before = Path(urllib.parse.unquote(urllib.parse.urlsplit(old).path))
        moved_along = root.resolve().parents[1] in path.resolve().parents
        if old == new or not old.startswith("file:") or (before.is_dir() and not moved_along):
            return
        database.execute("UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?", (new, experiment_id))
        database.execute(
            "UPDATE runs SET artifact_uri = ? || substr(artifact_uri, ?) "
            "WHERE experiment_id = ? AND substr(artifact_uri, 1, ?) = ?",
            (new, len(old) + 1, experiment_id, len(old) + 1, f"{old}/"),
        )


def sqlite_uri(path: Path) -> str:
    """The address of a SQLite file, whatever its name.

    Only what SQLAlchemy would not read as it stands is escaped: MLflow also makes the folder that an address names, and
    takes escapes for letters.
    """
    return "sqlite:///" + str(path).replace("%", "%25").replace("?", "%3F")


def make_no_folders() -> None:
    """Keeps MLflow from making folders with escapes in their names; :func:`make_database` makes the right one."""
    from mlflow.store.db import utils

    if hasattr(utils, "_make_parent_dirs_if_sqlite"):
        utils._make_parent_dirs_if_sqlite = lambda uri: None


def _is_made(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def _make(path: Path, draft: Path) -> None:
    from mlflow import MlflowClient

    make_no_folders()
    for left in (draft, draft.with_name(f"{draft.name}-journal")):  # by a process that was killed
        left.unlink(missing_ok=True)
    MlflowClient(tracking_uri=sqlite_uri(draft)).search_experiments(max_results=1)
    draft.replace(path)
