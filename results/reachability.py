"""Can this tracking URI be used? A quick answer before anything expensive starts; imports no MLflow."""

from __future__ import annotations

import http.client
import os
import re
import ssl
import urllib.error
import urllib.request

from results.errors import ResultsError
from results.mlflow_store import is_sqlite, sqlite_path

_TIMEOUT_SECONDS = 3.0
_ASKS_FOR_LOGIN = (401, 403)
_STORES = re.compile(r"(postgresql|mysql|mssql)(\+\w+)?://|databricks$|databricks(-uc)?://")
"""What MLflow can write to beside SQLite and its own server."""


def check_tracking(uri: str) -> None:
    """Pass, or say why not. A database other than SQLite and ``databricks`` are taken on trust.

    Raises:
        ResultsError: the server does not answer within 3 s, the folder is not writable, or MLflow has no
            such store.
    """
    if is_sqlite(uri):
        _check_sqlite(uri)
    elif uri.startswith(("http://", "https://")):
        _check_server(uri)
    elif ("://" not in uri and uri != "databricks") or uri.startswith("file:"):
        raise ResultsError(
            f"tracking URI {uri!r}: MLflow 3 does not write plain folders any more",
            "use sqlite:////absolute/path/mlflow.db or the http address of a server",
        )
    elif not _STORES.match(uri):
        raise ResultsError(
            f"tracking URI {uri!r}: MLflow knows no such store",
            "use sqlite:////absolute/path/mlflow.db, the http address of a server, or postgresql://, mysql://, mssql://",
        )


def _check_sqlite(uri: str) -> None:
    path = sqlite_path(uri).absolute()
    if path.is_dir():
        raise ResultsError(f"tracking URI {uri!r} names a folder", f"name a file in it: {uri}/mlflow.db")
    existing = path if path.exists() else next(p for p in path.parents if p.exists())
    # SQLite keeps its rollback journal beside the database, so the folder must be writable as well.
    for needed in (existing, path.parent if path.exists() else existing):
        if not os.access(needed, os.W_OK):
            raise ResultsError(
                f"tracking URI {uri!r}: {needed} is not writable", "choose another place or change its mode"
            )
    if not existing.is_dir() and existing != path:
        raise ResultsError(f"tracking URI {uri!r}: {existing} is not a folder", "choose another place")


def _check_server(uri: str) -> None:
    address = uri.rstrip("/") + "/health"
    insecure = os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("true", "1")
    context = ssl._create_unverified_context() if insecure else None  # noqa: S323 - the user asked for it
    try:
        with urllib.request.urlopen(address, timeout=_TIMEOUT_SECONDS, context=context):  # noqa: S310 - http only
            return
    except urllib.error.HTTPError as error:
        if error.code in _ASKS_FOR_LOGIN:  # alive; whether the login is right shows with the first run
            return
        problem = f"answers {error.code} to GET /health"
    except (OSError, ValueError, http.client.HTTPException) as error:
        problem = f"does not answer within {_TIMEOUT_SECONDS:.0f} s ({getattr(error, 'reason', error)})"
    raise ResultsError(
        f"the tracking server {uri} {problem}",
        "start it with `mlflow server`, correct the address, or track into a file: sqlite:////path/mlflow.db",
    )
