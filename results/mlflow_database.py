"""A new SQLite tracking database: all of it, or nothing."""

from __future__ import annotations

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


def _is_made(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def _make(path: Path, draft: Path) -> None:
    from mlflow import MlflowClient

    for left in (draft, draft.with_name(f"{draft.name}-journal")):  # by a process that was killed
        left.unlink(missing_ok=True)
    MlflowClient(tracking_uri=f"sqlite:///{draft}").search_experiments(max_results=1)
    draft.replace(path)
