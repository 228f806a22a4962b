"""Local ranks: ``training.n_gpus`` processes of this machine that train one model together.

The calling process is rank 0. The others are children of it that run the same configuration and die with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from bacs.checkpoints import CheckpointFolder
from bacs.config import RunConfig
from bacs.distributed import wait_for_all
from bacs.errors import RequestError
from bacs.fingerprint import run_code
from bacs.lineage import run_identity
from bacs.patience import StorageRefusedError
from bacs.run import ContinualRun, DivergedError

TIMEOUT = timedelta(minutes=30)
"""How long a rank waits for the others; rank 0 alone fills the replay memory meanwhile."""


class RankError(RuntimeError):
    """Another rank raised; the message names the rank and tells its error."""


class RankDiedError(RuntimeError):
    """Another rank ended without a Python error; it was killed."""


_PACKAGES = Path(__file__).parent.parent
_PR_SET_PDEATHSIG = 1
_STOP_SECONDS = 5.0
_LAST_WORD_SECONDS = 2.0
"""How long the kernel may take to show that a rank whose connection broke has ended."""


@contextlib.contextmanager
def local_ranks(config: RunConfig, checkpoints: Path | None) -> Iterator[None]:
    """Inside, this process is rank 0 of ``training.n_gpus``; with one it does nothing.

    Args:
        config: of the run that every rank builds and drives.
        checkpoints: the folder that all ranks restore from; rank 0 alone may write to it.

    Raises:
        RequestError: if this machine has fewer GPUs.
        RankError, RankDiedError: if another rank failed first, in the place of the broken connection that it left.
    """
    world = config.training.n_gpus
    if world == 1:
        yield
        return
    backend = _backend(config)
    with tempfile.TemporaryDirectory(prefix="bacs-ranks-") as scratch:
        meeting = f"file://{scratch}/meeting"
        task = {
            "config": config.resolved,
            "checkpoints": None if checkpoints is None else str(checkpoints),
            "backend": backend,
            "world": world,
            "meeting": meeting,
            "parent": os.getpid(),
            "code": run_code(config).modules,
        }
        (Path(scratch) / "task.json").write_text(json.dumps(task), encoding="utf-8")
        for library in ("GLOO", "NCCL"):  # the ranks talk on one machine: no other shall reach their sockets
            os.environ.setdefault(f"{library}_SOCKET_IFNAME", "lo")
        children = [_start(Path(scratch) / "task.json", rank) for rank in range(1, world)]
        try:
            dist.init_process_group(backend, meeting, timeout=TIMEOUT, rank=0, world_size=world)
            yield
        except RuntimeError as error:
            own = DivergedError | torch.OutOfMemoryError | StorageRefusedError
            if not isinstance(error, own):
                _raise_for_other_ranks(children, Path(scratch), error)
            raise
        finally:
            _stop(children)
            if dist.is_initialized():
                dist.destroy_process_group()


def follow(task_file: Path, rank: int) -> int:
    """What a rank other than 0 does: the same run, without showing or saving anything. Returns its exit code."""
    task: dict[str, Any] = json.loads(task_file.read_text(encoding="utf-8"))
    die_with(task["parent"])
    config = RunConfig.from_dict(task["config"])
    dist.init_process_group(task["backend"], task["meeting"], timeout=TIMEOUT, rank=rank, world_size=task["world"])
    try:
        if run_code(config).modules != task["code"]:
            raise RuntimeError("the code was edited while the ranks started; start again")
        run = ContinualRun(config)
        if task["checkpoints"]:
            wait_for_all()  # rank 0 may take over shared steps
            run.restore(CheckpointFolder(Path(task["checkpoints"]), run_identity(config)).latest())
        for _ in run.events():
            pass
    except DivergedError:  # rank 0 reports it
        return 1
    except Exception as error:  # rank 0 will see no more than a broken connection
        _last_word(task_file.parent, rank).write_text(f"{type(error).__name__}: {error}", encoding="utf-8")
        raise
    finally:
        dist.destroy_process_group()
    return 0


def _backend(config: RunConfig) -> str:
    wanted, device = config.training.n_gpus, config.training.device
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return "gloo"
    if torch.cuda.device_count() < wanted:
        problem = f"is {wanted}, but {torch.cuda.device_count()} GPUs are visible"
        raise RequestError.of("training.n_gpus", problem, "ask for fewer, or set training.device=cpu")
    return "cpu:gloo,cuda:nccl"


def _start(task_file: Path, rank: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "bacs.rank", str(task_file), str(rank)]
    place = {"PYTHONPATH": os.pathsep.join(filter(None, [str(_PACKAGES), *sys.path]))}  # a Ray worker stands elsewhere
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=os.environ | place)


def _last_word(scratch: Path, rank: int) -> Path:
    """Where a rank leaves the error that ended it."""
    return scratch / f"error-{rank}"


def _raise_for_other_ranks(children: list[subprocess.Popen[bytes]], scratch: Path, error: Exception) -> None:
    """Raises in the name of the first rank that has ended; returns if none has, for then the error is rank 0's own."""
    deadline = time.monotonic() + _LAST_WORD_SECONDS
    while time.monotonic() < deadline:
        for rank, child in enumerate(children, start=1):
            if child.poll():
                path = _last_word(scratch, rank)
                if path.exists():
                    raise RankError(f"rank {rank}: {path.read_text(encoding='utf-8')}") from error
                raise RankDiedError(f"rank {rank} died (exit code {child.returncode})") from error
        time.sleep(0.05)


def _stop(children: list[subprocess.Popen[bytes]]) -> None:
    """They end by themselves after the last event; in any other case they must not outlive rank 0."""
    for child in children:
        try:
            child.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def die_with(parent: int) -> None:
    """Lets the kernel kill this process when its parent ends, however it ends (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before that
        os.kill(os.getpid(), signal.SIGKILL)
