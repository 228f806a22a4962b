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
from typing import Any

from bacs.errors import RequestError
from sweeps.settings import SweepConfig

PATIENCE_SECONDS = {"raylet": 4.0, "control store": 30.0}
"""How long each may refuse to answer before it counts as gone. Ray itself waits for ever for its raylet, and aborts the
whole process after a minute without its control store (GCS), which a cluster may restart before that."""
_CONNECT_SECONDS = 1.0

_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # Ray's own SIGTERM handler, in force while Ray starts, must not wait
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # signals are the guard's
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # Tune's snapshots are never read: the journal is
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


def start_ray(sweep: SweepConfig) -> None:
    """Connects this process to the cluster of the sweep, or starts a Ray of its own.

    Raises:
        RequestError: the cluster cannot be reached.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    import ray

    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # the journal holds what became of trials
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    address = sweep.launch.address or os.environ.get("RAY_ADDRESS")
    if not address:
        with _terminal_kept_from_children():
            ray.init(address="local", include_dashboard=False, num_cpus=len(os.sched_getaffinity(0)), **options)
        return
    try:
        ray.init(address=address, **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise RequestError.of(
            "sweep.address", f"{address}: {error}", "start the cluster, or drop --address and RAY_ADDRESS"
        ) from None


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
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    answers = {
        "raylet": lambda: _answers(socket.AF_UNIX, raylet),
        "control store": lambda: _answers(family, (host.strip("[]"), int(port))),
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
