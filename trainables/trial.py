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

import ray
from ray import tune

from bacs.checkpoints import CheckpointFolder
from bacs.config import RunConfig
from bacs.events import EpochEnded, Point, RunEnded, StepEnded
from bacs.interpolation import hidden
from bacs.launch import die_with, local_ranks
from bacs.lineage import run_identity, stage_key
from bacs.origin import Origin, changes_since
from bacs.outputs import Outputs
from bacs.plugins import allow
from bacs.run import ContinualRun
from bacs.stages import begin
from trainables.causes import OtherCodeError
from trainables.failures import cause_of
from trainables.folder import TrialFolder


def train_trial(config: dict[str, Any]) -> None:
    """Runs the trial whose folder ``config["folder"]`` names, from wherever its checkpoints stand.

    ``config["pieces"]`` cuts every batch, and what is evaluated at a time, into so many pieces more than the
    configuration asks for: the way out after the trial ran out of memory. ``config["plugins"]`` are the packages that
    the user has named; ``config["allow_other_code"]`` lets a trial go on from what other code has computed.

    Every report carries ``kind`` (started, epoch, step, final, note), ``step`` (1-based count of finished continual
    steps), ``epoch`` (finished epochs of the run) and ``points``. The first report of an attempt repeats the history
    kept in its checkpoint, so nothing that happened while no driver listened is missing.
    """
    allow(config.get("plugins", ()))
    die_with(os.getppid())  # a worker that outlives its raylet would go on, unheard, beside the next attempt
    folder = TrialFolder(Path(config["folder"]))
    with folder.claim():
        folder.take_error()  # of an attempt whose end no driver saw
        try:
            _train(folder, config, ray.get_runtime_context().get_node_id())
        except Exception as error:
            _leave_word(folder, error)
            raise


def _leave_word(folder: TrialFolder, error: Exception) -> None:
    """For the driver, who would see a text of Ray's only, or nothing at all if this process was about to be killed."""
    texts = f"{type(error).__name__}: {error}", traceback.format_exc()
    told = cause_of(error), *map(hidden, texts)  # a journal keeps them
    traceback.clear_frames(error.__traceback__)  # memory may be what is missing
    folder.write_error(*told)


def _train(folder: TrialFolder, options: dict[str, Any], node: str) -> None:
    values, pieces = folder.read_config(), options.get("pieces", 1)
    training = values["training"]
    training["micro_batches"] = training.get("micro_batches", 1) * pieces
    training["eval_batch_size"] = max(1, training["eval_batch_size"] // pieces)
    config = RunConfig.from_dict(values)
    origin = Origin.of(config)
    _refuse_other_code(config, folder, allowed=options.get("allow_other_code", False))
    with local_ranks(config, folder.checkpoints):
        _drive(ContinualRun(config), origin, folder, pieces, node)


def _refuse_other_code(config: RunConfig, folder: TrialFolder, *, allowed: bool) -> None:
    """Code that was edited after the sweep began, or that is another one on this machine, mixes no results unseen.

    Raises:
        OtherCodeError: the driver, or the trial's last checkpoint, had other code or libraries.
    """
    expected = folder.read_code()
    if expected is not None and (changes := changes_since(expected)):
        raise OtherCodeError(", ".join(changes))
    meta = CheckpointFolder(folder.checkpoints, run_identity(config)).latest_meta()
    if meta is not None and not allowed and (changes := changes_since(meta.get("origin"))):
        raise OtherCodeError(", ".join(changes))


def _drive(run: ContinualRun, origin: Origin, folder: TrialFolder, pieces: int = 1, node: str = "") -> None:
    def notice(text: str) -> None:
        _report("note", run.steps_done, run.epochs_done, [], notes=[text])

    checkpoints = CheckpointFolder(folder.checkpoints, run_identity(run.config), notice, origin.state)
    outputs = Outputs(folder.results, folder.pictures, notice, origin)
    shared = begin(run, checkpoints, origin, notice)
    first_stage = stage_key(run.config, 0, run.data.manifest, run.numerics)
    place: dict[str, Any] = {"host": socket.gethostname(), "pid": os.getpid(), "node": node, "stage.0": first_stage}
    place["reused_steps"] = shared.taken if shared is not None else 0
    place["notes"] = [*run.notes, *checkpoints.notes, *_note_on(pieces, run.config)]
    place["pieces"] = pieces
    place["origin"] = {name: value for name, value in origin.state().items() if name != "code"}
    _report("started", run.steps_done, run.epochs_done, run.points, **place)
    for event in run.events():
        if isinstance(event, EpochEnded | StepEnded):
            checkpoints.save(run.snapshot())
        outputs.after(event, run)
        if isinstance(event, EpochEnded):
            _report("epoch", event.step, event.epochs_done, event.points)
        elif isinstance(event, StepEnded):
            if shared is not None:
                shared.give(event.step)
            _report("step", event.step + 1, run.epochs_done, event.points, pointer=folder)
        elif isinstance(event, RunEnded):
            _report("final", run.steps_done, run.epochs_done, [], final=event.final)


def _note_on(pieces: int, config: RunConfig) -> list[str]:
    if pieces == 1:
        return []
    training = config.training
    return [
        f"goes on in less memory: every batch of {training.batch_size} images in {training.micro_batches} pieces "
        f"(training.micro_batches), {training.eval_batch_size} images at a time in evaluation; same images, "
        "optimisation steps and schedule"
    ]


def _report(
    kind: str, step: int, epoch: int, points: list[Point], *, pointer: TrialFolder | None = None, **more: Any
) -> None:
    if "notes" in more:
        more["notes"] = [hidden(note) for note in more["notes"]]
    metrics = {"kind": kind, "step": step, "epoch": epoch, "points": [list(point) for point in points], **more}
    if pointer is not None:
        with contextlib.suppress(OSError), tempfile.TemporaryDirectory() as scratch:
            # Tune copies its checkpoints, so it gets a pointer to ours, which are committed atomically. Nothing
            # depends on it: where it cannot be stored, the report goes without.
            (Path(scratch) / "pointer.json").write_text(json.dumps({"folder": str(pointer.path)}), encoding="utf-8")
            tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(scratch))
            return
    tune.report(metrics)
