"""Can this tracking URI be used? A quick answer before anything expensive starts; imports no MLflow."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import re
import sqlite3
import ssl
import tempfile
import urllib.error
import urllib.parse
import urllib.request

from results.errors import ResultsError
from results.mlflow_store import is_database, is_sqlite, sqlite_path

_TIMEOUT_SECONDS = 3.0
_ASKS_FOR_LOGIN = (401, 403)
_PASSWORD_IN_QUERY = re.compile(
    r"([?&](?:password|passwd|pwd|token|access_token|api_key)=)(?!\*\*\*)[^&#]+", re.IGNORECASE
)
_STORES = re.compile(r"(postgresql|mysql|mssql)(\+\w+)?://|databricks$|databricks(-uc)?://")
"""What MLflow can write to beside SQLite and its own server."""
_FORMS = "use sqlite:////absolute/path/mlflow.db, the http address of a server, or postgresql://, mysql://, mssql://"
_DRIVERS = {"postgresql": "psycopg2-binary", "mysql": "pymysql (mysql+pymysql://)", "mssql": "pymssql"}
_TABLES = {"experiments", "runs"}
"""Some of MLflow's."""


class NoAnswer(ResultsError):
    """The tracking server may be right, but it does not answer now."""


def check_tracking(uri: str) -> None:
    """Reads something there, or says why it cannot. ``databricks`` is taken on trust.

    Raises:
        NoAnswer: the server or database does not answer well within 3 s.
        ResultsError: the URI holds a login or lacks one, its file is no database of MLflow's or cannot be written, or
            MLflow has no such store.
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
        raise ResultsError(f"tracking URI {uri!r}: MLflow knows no such store", _FORMS)
    elif is_database(uri):
        _check_database(uri)


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
    """The URI with ``***`` in the place of every password and of the fragment; the user of a server may be a token."""
    scheme, mark, rest = uri.partition("://")
    if not mark or is_sqlite(uri):
        return uri
    place = _login_and_host(rest)
    login, at, host = place.rpartition("@")
    user, colon, _ = login.partition(":")
    if at and (colon or is_server(uri)):
        rest = f"{user}:***@{host}{rest[len(place) :]}" if colon else f"***@{host}{rest[len(place) :]}"
    return scheme + mark + re.sub("#.+", "#***", _PASSWORD_IN_QUERY.sub(r"\1***", rest), flags=re.DOTALL)


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
    path = sqlite_path(uri)
    if str(path) in (".", ":memory:"):
        raise ResultsError(
            f"tracking URI {uri!r} names no file, so nothing would be left of it", "use sqlite:////path/mlflow.db"
        )
    path = path.absolute()
    try:
        if path.is_dir():
            raise ResultsError(f"tracking URI {uri!r} names a folder", f"name a file in it: {uri}/mlflow.db")
        existing = path if path.exists() else next(p for p in path.parents if p.exists())
    except OSError as error:
        raise ResultsError(f"tracking URI {uri!r}: {error.strerror}", "choose another place") from None
    if not existing.is_dir() and not existing.is_file():
        raise ResultsError(f"tracking URI {uri!r}: {existing} is not a regular file or folder", "choose another place")
    if not existing.is_dir() and existing != path:
        raise ResultsError(f"tracking URI {uri!r}: {existing} is not a folder", "choose another place")
    # SQLite keeps its rollback journal beside the database, so the folder must be writable as well.
    folder = path.parent if path.exists() else existing
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
        if path.exists():
            path.open("r+b").close()
    except OSError as error:
        problem = f"tracking URI {uri!r}: {existing} is not writable ({error.strerror})"
        raise ResultsError(problem, "choose another place or change its mode") from None
    if path.exists() and path.stat().st_size:  # MLflow fills an empty file
        _check_tables(uri, f"file:{urllib.parse.quote(str(path))}?mode=ro")


def _check_tables(uri: str, place: str) -> None:
    """Reads the names of all tables."""
    try:
        with contextlib.closing(sqlite3.connect(place, uri=True, timeout=_TIMEOUT_SECONDS)) as database:
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.OperationalError as error:
        raise NoAnswer(
            f"the tracking database {uri} cannot be read: {error}", "try again, or choose another place"
        ) from None
    except sqlite3.DatabaseError as error:
        raise ResultsError(
            f"tracking URI {uri!r} names a file that is no SQLite database: {error}",
            "name another file; if this was one of MLflow, restore it, or move it: `sync` fills a new one",
        ) from None
    _refuse_foreign(uri, tables)


def _refuse_foreign(uri: str, tables: set[str]) -> None:
    if tables and not tables >= _TABLES:
        raise ResultsError(
            f"tracking URI {uri!r} names a database of another program, with tables such as {sorted(tables)[0]}",
            "give MLflow a database of its own",
        )


def _check_database(uri: str) -> None:
    """Connects, and reads the names of all tables."""
    import sqlalchemy

    try:
        engine = sqlalchemy.create_engine(uri, connect_args={"connect_timeout": round(_TIMEOUT_SECONDS)})
        with engine.connect() as connection:
            tables = set(sqlalchemy.inspect(connection).get_table_names())
        engine.dispose()
    except ModuleNotFoundError as error:
        kind = uri.partition("+")[0].partition(":")[0]
        raise ResultsError(
            f"tracking URI {uri!r} needs the Python package {error.name}, which is not installed",
            f"install a driver of {kind}, such as {_DRIVERS.get(kind, error.name)}, on every machine that runs sweeps",
        ) from None
    except sqlalchemy.exc.ArgumentError as error:
        raise ResultsError(f"tracking URI {uri!r} cannot be read: {error}", _FORMS) from None
    except sqlalchemy.exc.SQLAlchemyError as error:
        reason = " ".join(str(getattr(error, "orig", None) or error).split())
        raise NoAnswer(
            f"the tracking database {uri} cannot be read: {reason}",
            "start it, correct the address, or track into a file: sqlite:////path/mlflow.db",
        ) from None
    _refuse_foreign(uri, tables)


def _check_server(uri: str) -> None:
    """Asks for one experiment, as a user who has logged in."""
    address = uri.rstrip("/") + "/api/2.0/mlflow/experiments/search?max_results=1"
    insecure = os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("true", "1")
    context = ssl._create_unverified_context() if insecure else None  # noqa: S323 - the user asked for it
    try:
        request = urllib.request.Request(address, headers=_login())  # noqa: S310 - http only
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS, context=context) as answer:  # noqa: S310
            json.loads(answer.read() or b"{}")
            return
    except urllib.error.HTTPError as error:
        if error.code in _ASKS_FOR_LOGIN:
            raise ResultsError(
                f"the tracking server {uri} asks for a login, or for another one ({error.code})",
                "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
            ) from None
        problem = f"answers {error.code} when it is asked for its experiments"
    except (json.JSONDecodeError, UnicodeDecodeError):
        problem = "is no MLflow server: it does not answer in JSON"
    except (OSError, ValueError, http.client.HTTPException) as error:
        problem = f"does not answer within {_TIMEOUT_SECONDS:.0f} s ({getattr(error, 'reason', error)})"
    raise NoAnswer(
        f"the tracking server {uri} {problem}",
        "start it with `mlflow server`, correct the address, or track into a file: sqlite:////path/mlflow.db",
    )


def _login() -> dict[str, str]:
    """As MLflow itself sends it."""
    name, secret = (os.environ.get(f"MLFLOW_TRACKING_{part}") for part in ("USERNAME", "PASSWORD"))
    if name and secret:
        return {"Authorization": "Basic " + base64.b64encode(f"{name}:{secret}".encode()).decode()}
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    return {"Authorization": f"Bearer {token}"} if token else {}
