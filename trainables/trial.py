"""The Ray Tune function trainable: one configuration on one split with one seed, through all its steps."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import tempfile
import traceback
from pathlib import Path
from typing import Any

from ray import tune

from bacs.checkpoints import CheckpointFolder
from bacs.config import RunConfig
from bacs.events import EpochEnded, Picture, Point, RunEnded, StepEnded
from bacs.launch import die_with, local_ranks
from bacs.lineage import run_identity, stage_key
from bacs.outputs import Outputs
from bacs.run import ContinualRun
from trainables.folder import TrialFolder


def train_trial(config: dict[str, Any]) -> None:
    """Runs the trial whose folder ``config["folder"]`` names, from wherever its checkpoints stand.

    Every report carries ``kind`` (started, epoch, step, final, note), ``step`` (1-based count of finished continual
    steps), ``epoch`` (finished epochs of the run) and ``points``. The first report of an attempt repeats the history
    kept in its checkpoint, so nothing that happened while no driver listened is missing.
    """
    die_with(os.getppid())  # a worker that outlives its raylet would go on, unheard, beside the next attempt
    folder = TrialFolder(Path(config["folder"]))
    with folder.claim():
        try:
            _train(folder)
        except Exception as error:
            folder.write_error(f"{type(error).__name__}: {error}", traceback.format_exc())
            raise


def _train(folder: TrialFolder) -> None:
    config = RunConfig.from_dict(folder.read_config())
    with local_ranks(config, folder.checkpoints):
        _drive(ContinualRun(config), folder)


def _drive(run: ContinualRun, folder: TrialFolder) -> None:
    def notice(text: str) -> None:
        _report("note", run.steps_done, run.epochs_done, [], notes=[text])

    checkpoints = CheckpointFolder(folder.checkpoints, run_identity(run.config), notice)
    outputs = Outputs(folder.results, folder.pictures, notice)
    run.restore(checkpoints.latest())
    first_stage = stage_key(run.config, 0, run.data.manifest, run.numerics)
    place: dict[str, Any] = {"host": socket.gethostname(), "pid": os.getpid(), "stage.0": first_stage}
    place["notes"] = [*run.notes, *checkpoints.notes]
    _report("started", run.steps_done, run.epochs_done, run.points, **place)
    for event in run.events():
        if isinstance(event, EpochEnded):
            checkpoints.save(run.snapshot())
            _report("epoch", event.step, event.epochs_done, event.points)
        elif isinstance(event, Picture):
            outputs.draw(event)
        elif isinstance(event, StepEnded):
            checkpoints.save(run.snapshot())
            outputs.write(run.history())
            _report("step", event.step + 1, run.epochs_done, event.points, pointer=folder)
        elif isinstance(event, RunEnded):
            outputs.write(run.history())  # again, in case the last attempt ended before it could
            _report("final", run.steps_done, run.epochs_done, [], final=event.final)


def _report(
    kind: str, step: int, epoch: int, points: list[Point], *, pointer: TrialFolder | None = None, **more: Any
) -> None:
    metrics = {"kind": kind, "step": step, "epoch": epoch, "points": [list(point) for point in points], **more}
    if pointer is not None:
        with contextlib.suppress(OSError), tempfile.TemporaryDirectory() as scratch:
            # Tune copies its checkpoints, so it gets a pointer to ours, which are committed atomically. Nothing
            # depends on it: where it cannot be stored, the report goes without.
            (Path(scratch) / "pointer.json").write_text(json.dumps({"folder": str(pointer.path)}), encoding="utf-8")
            tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(scratch))
            return
    tune.report(metrics)
