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
_PASSWORD_IN_QUERY = re.compile(
    r"([?&](?:password|passwd|pwd|token|access_token|api_key)=)(?!\*\*\*)[^&#]+", re.IGNORECASE
)
_STORES = re.compile(r"(postgresql|mysql|mssql)(\+\w+)?://|databricks$|databricks(-uc)?://")
"""What MLflow can write to beside SQLite and its own server."""


class NoAnswer(ResultsError):
    """The tracking server may be right, but it does not answer now."""


def check_tracking(uri: str) -> None:
    """Pass, or say why not. A database other than SQLite and ``databricks`` are taken on trust.

    Raises:
        NoAnswer: the server does not answer well within 3 s.
        ResultsError: the URI holds a login, the folder is not writable, or MLflow has no such store.
    """
    refuse_login(uri)
    if is_sqlite(uri):
        _check_sqlite(uri)
    elif is_server(uri):
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


def refuse_login(uri: str) -> None:
    """A tracking URI is recorded, shown and handed on; a login must not travel with it.

    Raises:
        ResultsError: there is one; the message shows ``***`` in its place.
    """
    shown = without_password(uri)
    if shown == uri:
        return
    remedy = "take it out and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD in the environment"
    if not is_server(uri):
        remedy = "take it out and keep it where the database's driver finds it (PostgreSQL: PGPASSWORD or ~/.pgpass)"
    raise ResultsError(f"tracking URI {shown!r} holds a login, which would be recorded in clear", remedy)


def without_password(uri: str) -> str:
    """The URI with ``***`` in the place of every password; the user of a server may itself be a token."""
    scheme, mark, rest = uri.partition("://")
    if not mark or is_sqlite(uri):
        return uri
    place = _login_and_host(rest)
    login, at, host = place.rpartition("@")
    user, colon, _ = login.partition(":")
    if at and (colon or is_server(uri)):
        rest = f"{user}:***@{host}{rest[len(place) :]}" if colon else f"***@{host}{rest[len(place) :]}"
    return scheme + mark + _PASSWORD_IN_QUERY.sub(r"\1***", rest)


def _login_and_host(rest: str) -> str:
    """The part of a URI before its path; more where a password holds a slash that should have been escaped."""
    place = re.split("[/?#]", rest, maxsplit=1)[0]
    port = place.rpartition(":")[2]
    is_whole = "@" in place or ":" not in place or port.isdigit() or place.endswith("]")
    return place if is_whole else rest


def is_server(uri: str) -> bool:
    """Whether a tracking URI means a tracking server."""
    return uri.startswith(("http://", "https://"))


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
    raise NoAnswer(
        f"the tracking server {uri} {problem}",
        "start it with `mlflow server`, correct the address, or track into a file: sqlite:////path/mlflow.db",
    )
