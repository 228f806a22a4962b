"""The Ray of a sweep: one of its own on this machine, or a cluster. How it is started, and how its loss shows."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from results.errors import WorkFailedError
from sweeps.cluster import address_of, private_token, refusal, stay_on_loopback
from sweeps.ray_log import NAME as RAY_LOG
from sweeps.ray_log import keep_ray_quiet, stderr_in_file
from sweeps.settings import SweepConfig

PATIENCE_SECONDS = {"raylet": 4.0, "control store": 30.0}
"""How long each may refuse to answer before it counts as gone. Ray itself waits for ever for its raylet, and aborts the
whole process after a minute without its control store (GCS), which a cluster may restart before that."""
_CONNECT_SECONDS = 1.0
_GRACE_SECONDS = 2.0
START_ATTEMPTS = 3
NODE_SECONDS = 120.0
"""How long a raylet of our own may take to tell the control store of itself."""

_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",  # the journal has them, without Ray's stack
    "RAY_gcs_server_port_wait_time_s": "120",  # these two: a busy machine takes its time
    "RAY_worker_register_timeout_seconds": "300",
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # Ray's own SIGTERM handler, in force while Ray starts, must not wait
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # signals are the guard's
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # Tune's snapshots are never read: the journal is
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


class RayNotStartedError(WorkFailedError):
    """A Ray of our own did not come up."""


def start_ray(sweep: SweepConfig, tell: Callable[[str], None]) -> None:
    """Connects this process to the cluster of the sweep, or starts a Ray of its own.

    Args:
        sweep: in whose folder Ray's log is kept.
        tell: hears what is being done.

    Raises:
        RequestError: the cluster cannot be reached, or does not let us in.
        RayNotStartedError: a Ray of our own does not start, each time it is tried.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    stay_on_loopback(sweep.launch.address)
    import ray
    from ray.exceptions import AuthenticationError

    keep_ray_quiet(sweep.folder)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # the journal holds what became of trials
    options: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
    address = address_of(sweep.launch.address)
    with stderr_in_file(sweep.folder):
        if address is None:
            with private_token(), _terminal_kept_from_children(), _patient_node():
                options |= {"include_dashboard": False, "num_cpus": len(os.sched_getaffinity(0))}
                _start_patiently(lambda: ray.init(address="local", **options), sweep.folder / RAY_LOG, tell)
            return
        try:
            tell(f"connecting to the Ray cluster {address}")
            ray.init(address=address, **options)
        except (AuthenticationError, ConnectionError, RuntimeError, ValueError) as error:
            raise refusal(address, error) from None


@contextlib.contextmanager
def _patient_node() -> Iterator[None]:
    """Gives a Ray that starts more time, and less to start.

    Ray waits 30 s for its raylet, which a machine that is very busy may not keep to, and starts a process that follows
    the logs of workers, which nobody reads here.
    """
    from ray._private import node, services

    ask, follow_logs = services.get_node, node.Node.start_log_monitor

    def get_node(*args: Any, **options: Any) -> Any:
        deadline = time.monotonic() + NODE_SECONDS
        while True:
            try:
                return ask(*args, **options)
            except RuntimeError:
                if time.monotonic() > deadline:
                    raise

    services.get_node, node.Node.start_log_monitor = get_node, lambda self: None
    try:
        yield
    finally:
        services.get_node, node.Node.start_log_monitor = ask, follow_logs


def _start_patiently(start: Callable[[], object], log: Path, tell: Callable[[str], None]) -> None:
    """Tries more than once: a machine may be too busy for the limits that Ray has."""
    import ray

    errors = []
    for attempt in range(1, START_ATTEMPTS + 1):
        tell(f"starting Ray on this machine, attempt {attempt} of {START_ATTEMPTS}")
        before = _children()
        try:
            start()
        except Exception as error:  # Ray raises a bare one
            errors.append(" ".join(str(error).split()) or type(error).__name__)
            ray.shutdown()
            for pid in _children() - before:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        else:
            return
    raise RayNotStartedError(
        f"Ray did not start on this machine in {START_ATTEMPTS} attempts, but every trial runs in it: {errors[-1]}",
        f"read {log}; look at the machine's load and memory and at the space in Ray's temporary folder (RAY_TMPDIR, "
        "else TMPDIR, else /tmp), then `resume`",
    )


def shut_down_ray(listen: Callable[[], None]) -> None:
    """Leaves Ray, and ends one of our own, which takes a second.

    Ray 2.60 begins with its core, which takes the process's handler of SIGTERM away with it: unless ``listen`` takes
    the signals again at once, the next SIGTERM kills the process before its last record is written.
    """
    import ray
    from ray._private import worker

    node = worker._global_node
    if node is not None:
        end_processes = node.kill_all_processes

        def end_processes_listening(*args: Any, **options: Any) -> None:
            listen()
            end_processes(*args, **options)

        node.kill_all_processes = end_processes_listening
    ray.shutdown()
    listen()


def end_own_ray() -> None:
    """Kills what this process has started, and what that has, without asking Ray.

    Killed together with its control store, Ray's agents would go on for a minute, trying to tell it of their raylet.
    """
    pids = {os.getpid()}
    found: list[int] = []
    while pids:
        pids = {child for pid in pids for child in _children(pid)}
        found += pids
    for pid in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _children(pid: int | str = "self") -> set[int]:
    """Processes that one has started (Linux; elsewhere they are Ray's to end)."""
    pids: set[int] = set()
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # the thread has ended
            pids.update(map(int, path.read_text(encoding="ascii").split()))
    return pids


def watch_ray() -> Callable[[], str | None]:
    """A function that tells why the Ray that this process is connected to is gone; ``None`` while it answers.

    Made by the thread that connected; may then be called from any one thread, about once a second.
    """
    import ray
    from ray._private.worker import global_worker

    if global_worker.node is None:  # a Ray client, whose server watches for itself
        return lambda: None
    host, port = ray.get_runtime_context().gcs_address.rsplit(":", 1)
    raylet: str = global_worker.node.raylet_socket_name
    answers = {
        "raylet": lambda: _answers(socket.AF_UNIX, raylet),
        "control store": lambda: _answers(_family_of(host), (host.strip("[]"), int(port))),
    }
    silent_since: dict[str, float] = {}

    def lost() -> str | None:
        for part, answer in answers.items():
            if answer():
                silent_since.pop(part, None)
            elif time.monotonic() - silent_since.setdefault(part, time.monotonic()) > PATIENCE_SECONDS[part]:
                return f"Ray is gone: its {part} does not answer any more"
        return None

    return lost


def is_node_gone(node_id: str) -> bool:
    """Whether a node of the cluster is dead (``False``: nobody knows it).

    A raylet that dies takes its workers with it, and may itself be seen a moment later than they.

    Args:
        node_id: Ray's, hexadecimal.
    """
    deadline = time.monotonic() + _GRACE_SECONDS
    while not (gone := _is_node_gone(node_id)) and time.monotonic() < deadline:
        time.sleep(_GRACE_SECONDS / 10)
    return gone


def _is_node_gone(node_id: str) -> bool:
    """Whether its death is known by now, or its raylet does not answer."""
    import ray
    from ray._private.worker import global_worker

    try:
        node = next((node for node in ray.nodes() if node["NodeID"] == node_id), None)
    except Exception:  # Ray raises many; whatever is wrong with the control store, the node has not been seen dead
        return False
    if node is None or not node["Alive"]:
        return node is not None
    if global_worker.node is None:  # behind a Ray client the nodes' addresses need not be ours to reach
        return False
    host = node["NodeManagerAddress"]
    return not _answers(_family_of(host), (host, node["NodeManagerPort"]))


def _family_of(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _answers(family: socket.AddressFamily, address: Any) -> bool:
    with socket.socket(family, socket.SOCK_STREAM) as connection:
        connection.settimeout(_CONNECT_SECONDS)
        try:
            connection.connect(address)
        except TimeoutError:
            return family == socket.AF_UNIX  # it lives, but has no time
        except OSError:
            return False
    return True


@contextlib.contextmanager
def _terminal_kept_from_children() -> Iterator[None]:
    """Processes started inside do not hear SIGHUP, so that they are there for the end of the sweep."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
