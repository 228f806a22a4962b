"""How a sweep reaches Ray safely: a cluster that answers and lets us in, or a Ray that only this machine can reach."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bacs.errors import Fault, RequestError
from bacs.paths import folder_faults

CONNECT_SECONDS = 3.0
ANSWER_SECONDS = 10.0
_SOCKET_NAME_BYTES = 107
"""Of a Unix socket (Linux: 108 with the final zero)."""
TOKEN = Path(".ray") / "auth_token"
"""Below the home folder: what a Ray of this user asks of whoever connects."""

_SUPPORTS_CLUSTERS = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
_ADDRESS = re.compile(r"\[?(?P<host>[^\[\]/\s]+?)\]?:(?P<port>\d{1,5})")
_REMEDY = "give HOST:PORT of a running cluster (`ray start --head` prints it), or drop --address and RAY_ADDRESS"
_LOGIN = (
    "if the cluster asks for a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to the file that holds it; "
    "else look at the port, and that the cluster has this version of Ray"
)


def address_of(asked: str | None) -> str | None:
    """The cluster's address; ``None``: a Ray of our own."""
    return asked or os.environ.get("RAY_ADDRESS") or None


def check_address(asked: str | None) -> list[Fault]:
    """Ray itself would wait for minutes for a cluster that is not there, or does not answer."""
    address = address_of(asked)
    if address is None:
        return _socket_name_faults() + _home_faults()
    if address == "auto":
        return []
    found = _ADDRESS.fullmatch(address)
    if found is None or not 0 < int(found["port"]) < 2**16:
        return [Fault("sweep.address", f"is {address!r}, but must be HOST:PORT or auto", _REMEDY)]
    try:
        with socket.create_connection((found["host"], int(found["port"])), timeout=CONNECT_SECONDS) as connection:
            answers = os.environ.get("RAY_USE_TLS", "0") == "1" or _speaks_grpc(connection)
    except OSError as error:
        problem = f"is {address}, which does not answer within {CONNECT_SECONDS:.0f} s ({error.strerror or error})"
        return [Fault("sweep.address", problem, _REMEDY)]
    problem = f"is {address}, where something listens that is no Ray cluster, or hangs"
    return [] if answers else [Fault("sweep.address", problem, _REMEDY)]


def _speaks_grpc(connection: socket.socket) -> bool:
    """Whether a server answers as HTTP/2 asks it to, at once, with its settings (RFC 9113, 3.4); Ray's speaks gRPC."""
    connection.settimeout(ANSWER_SECONDS)
    try:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5))
        return connection.recv(9)[3:4] == b"\x04"
    except TimeoutError:
        return False


def _home_faults() -> list[Fault]:
    """A Ray of our own keeps a token in the home folder."""
    token = Path.home() / TOKEN
    if os.access(token, os.R_OK) if token.exists() else not folder_faults("HOME", token.parent):
        return []
    problem = f"is {Path.home()}, where Ray cannot keep its token ({TOKEN})"
    return [Fault("HOME", problem, "set HOME to a folder that you may write to")]


def _socket_name_faults() -> list[Fault]:
    """The sockets of a Ray of our own lie below its temporary folder, and the kernel takes no long names for them."""
    variable = next((name for name in ("RAY_TMPDIR", "TMPDIR") if os.environ.get(name)), None)
    if variable is None:
        return []
    folder = os.environ[variable]
    room = _SOCKET_NAME_BYTES - len("/ray/session_2026-12-31_23-59-59_999999_4194304/sockets/plasma_store")
    size = len(os.fsencode(folder.rstrip("/")))
    if size <= room:
        return []
    problem = f"is {folder}, of {size} bytes, but the names of Ray's sockets below it leave room for {room}"
    return [Fault(variable, problem, "set RAY_TMPDIR to a shorter folder on this machine's own disk, such as /tmp")]


def stay_on_loopback(asked: str | None) -> None:
    """Lets a Ray of our own listen on 127.0.0.1, in the place of every interface; call it before Ray is imported.

    It is what Ray does on systems where it supports no clusters; its daemons, agents and workers follow.
    """
    if address_of(asked) is None:
        os.environ[_SUPPORTS_CLUSTERS] = "0"


@contextmanager
def private_token() -> Iterator[None]:
    """Around the start of a Ray of our own, which lets every user of the machine read the token that it makes."""
    path = Path.home() / TOKEN
    with suppress(OSError):  # where the home folder cannot be written Ray itself says so
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    yield
    with suppress(OSError):
        path.chmod(0o600)


def keep_secrets() -> None:
    """Call it before Tune runs: it makes the AWS keys of the driver a part of the trials' runtime environment.

    Ray stores that in its control store and logs it in clear. Trials need no keys, they write to mounted folders.
    """
    from ray.tune.execution import class_cache

    names = class_cache.ENV_VARS_TO_PROPAGATE
    names.difference_update([name for name in names if name.startswith("AWS_")])


def refusal(address: str, error: Exception) -> RequestError:
    """What Ray's error on connecting to a cluster means for the user.

    Ray tells the two reasons apart only in its log: a cluster that asks for a token, and a port that is no cluster's.
    """
    reason = " ".join(str(error).split()).partition(". ")[0]
    return RequestError.of("sweep.address", f"is {address}, which does not let us in: {reason}", _LOGIN)
