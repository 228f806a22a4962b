"""A Ray of our own is reachable from this machine alone, and secrets of the environment stay where they are."""

from __future__ import annotations

import contextlib
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import sweeps.cluster
from bacs.errors import RequestError
from sweeps.cluster import check_address, private_token, refusal
from tests.sweeps.conftest import TINY_SWEEP, CommandLine

SECRETS = (
    "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN",
    "CITYSCAPES_PASSWORD", "POSTGRES_PASSWORD",
)  # fmt: skip
MARK = "hunter2hunter2"


def test_a_cluster_must_answer(monkeypatch):
    monkeypatch.setattr(sweeps.cluster, "ANSWER_SECONDS", 0.2)
    settings = b"\0\0\0\x04\0\0\0\0\0"
    for answer, faults in ((settings, 0), (b"HTTP/1.1 400 Bad Request\r\n\r\n", 1), (b"", 1)):
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            thread = threading.Thread(target=_answer, args=(server, answer))
            thread.start()
            found = check_address(f"127.0.0.1:{port}")
            thread.join()
        assert len(found) == faults
        assert all("no Ray cluster, or hangs" in fault.problem for fault in found)
    (fault,) = check_address(f"127.0.0.1:{port}")
    assert "does not answer within 3 s" in fault.problem
    assert "ray start --head" in fault.remedy
    assert check_address("auto") == []


def _answer(server: socket.socket, answer: bytes) -> None:
    """One connection: an answer to its first words and, where there is none, silence until it is closed."""
    connection, _ = server.accept()
    with connection, contextlib.suppress(ConnectionResetError):
        connection.recv(64)
        connection.sendall(answer)
        connection.recv(64)


def test_a_home_that_cannot_keep_the_token_is_refused(monkeypatch, tmp_path):
    for name in ("RAY_TMPDIR", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "new"))
    assert check_address(None) == []
    monkeypatch.setenv("HOME", "/proc/nowhere")
    (fault,) = check_address(None)
    assert (fault.where, "/proc/nowhere" in fault.problem, "set HOME" in fault.remedy) == ("HOME", True, True)


@pytest.mark.parametrize("variable", ["RAY_TMPDIR", "TMPDIR"])
def test_a_temporary_folder_that_leaves_no_room_for_sockets_is_refused(variable, monkeypatch):
    for name in ("RAY_TMPDIR", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, "/scratch/" + "x" * 26)
    assert check_address(None) == []
    monkeypatch.setenv(variable, "/scratch/" + "x" * 40)
    (fault,) = check_address(None)
    assert (fault.where, "49 bytes" in fault.problem, "/tmp" in fault.remedy) == (variable, True, True)
    assert check_address("auto") == []


@pytest.mark.parametrize(
    "address", ["nonsense", "ray://", "ray://host:10001", "host:0", "host:65536", "host:x", "a b:1"]
)
def test_addresses_have_one_form(address, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", address)
    (fault,) = check_address(None)
    assert address in fault.problem
    assert "must be HOST:PORT or auto" in fault.problem


def test_a_cluster_that_asks_for_a_token_is_told_with_the_remedy():
    error = refusal("host:6379", ConnectionError("Failed to connect to Ray cluster at host:6379"))
    assert isinstance(error, RequestError)
    assert "host:6379, which does not let us in: Failed to connect" in str(error)
    assert "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH" in str(error)


def test_the_token_is_closed_to_other_users(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    token = tmp_path / ".ray" / "auth_token"
    with private_token():
        token.write_text("as Ray writes it")
        token.chmod(0o644)
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert stat.S_IMODE(token.parent.stat().st_mode) == 0o700


SIGNALLED = """
import os, signal, sys
from ray._private.node import Node
import ray
from sweeps.guard import Guard
from sweeps.ray_session import shut_down_ray

ended = Node.kill_all_processes
def signalled(*args, **options):
    os.kill(os.getpid(), signal.SIGTERM)
    ended(*args, **options)
Node.kill_all_processes = signalled

with Guard(lambda *_: None, lambda: None, lambda: None) as guard:
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    guard.has_work = True
    guard.listen()
    shut_down_ray(guard.listen)
    os.kill(os.getpid(), signal.SIGTERM)
    print("heard:", guard.draining.wait(10))
"""


@pytest.mark.slow
def test_signals_are_heard_while_ray_is_shut_down(sweeps: CommandLine):
    done = subprocess.run(
        [sys.executable, "-c", SIGNALLED],
        env=sweeps.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert (done.returncode, done.stdout) == (0, "heard: True\n"), done.stderr


@pytest.mark.slow
def test_secrets_stay_in_the_environment_and_no_port_is_open_to_others(sweeps: CommandLine, tmp_path):
    sweeps.environment |= dict.fromkeys(SECRETS, MARK)
    process = sweeps.start("run", "digits", "--name", "private", *TINY_SWEEP, "search.splits=[5-5]", "search.trials=1")
    listening: set[tuple[str, str]] = set()
    deadline = time.monotonic() + 900
    while process.poll() is None and time.monotonic() < deadline:
        listening |= {place for pid in sweeps.processes() for place in _listening(pid)}
        time.sleep(0.3)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert any(name.startswith("raylet") for name, _ in listening), "its ports were never seen"
    assert any(name.startswith("gcs_server") for name, _ in listening)
    assert {address for _, address in listening} <= {"127.0.0.1", "::1"}, listening
    token = tmp_path / ".ray" / "auth_token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert MARK not in output
    folders = (tmp_path, Path(sweeps.environment["RAY_TMPDIR"]))
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 20
    assert [path for path in files if MARK.encode() in path.read_bytes()] == []


def _listening(pid: int) -> set[tuple[str, str]]:
    """(process name, address) of every TCP socket that a process listens on."""
    try:
        name = Path(f"/proc/{pid}/comm").read_text().strip()
        links = [str(handle.readlink()) for handle in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:  # it has just ended
        return set()
    addresses = _listening_sockets()
    return {(name, addresses[link[8:-1]]) for link in links if link.startswith("socket:[") and link[8:-1] in addresses}


def _listening_sockets() -> dict[str, str]:
    """Address by inode."""
    found = {}
    for path in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        for line in path.read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                found[fields[9]] = _readable(fields[1].split(":")[0])
    return found


def _readable(address: str) -> str:
    """Of the kernel's table: words of the machine's byte order in hexadecimal."""
    words = b"".join(struct.pack("=I", int(address[i : i + 8], 16)) for i in range(0, len(address), 8))
    if len(words) == 4:
        return socket.inet_ntop(socket.AF_INET, words)
    return socket.inet_ntop(socket.AF_INET6, words).removeprefix("::ffff:")
