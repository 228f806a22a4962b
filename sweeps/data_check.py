"""Whether the images of a sweep, once they are open, can be trained on and chosen by; before anything is started."""

from __future__ import annotations

import json
from collections.abc import Iterable

from bacs.config import RunConfig
from bacs.data import SegmentationData
from bacs.errors import Fault, RequestError
from bacs.fit import fit_faults, smallest_batch
from bacs.stream import Stream
from sweeps.past_runs import Loads
from sweeps.stage_keys import planned_numerics

_GROUPS = ("dataset", "network", "compat")
_KEYS = ("split", "mode", "shuffle_classes", "seed", "sweep", "batch_size", "micro_batches", "n_gpus")
"""Of ``training``: those that decide how many images a step has, and how many of them are taken at once."""


def check_data(runs: Iterable[RunConfig], loads: Loads) -> list[str]:
    """What the user should know about the images before the sweep begins.

    Raises:
        RequestError: no image is held out to choose by, or a network cannot take the images.
    """
    faults: list[Fault] = []
    notes: list[str] = []
    seen: set[str] = set()
    for run in runs:
        parts = [*(run.resolved[group] for group in _GROUPS), *(run.resolved["training"][key] for key in _KEYS)]
        if (name := json.dumps(parts, sort_keys=True)) in seen:
            continue
        seen.add(name)
        data = loads.of(run).data
        stream = Stream(run, data, planned_numerics(run))
        faults += held_out_faults(run, data) + fit_faults(run, data, smallest_batch(run.training, stream.counts()))
        notes += [*stream.notes, *getattr(data, "notes", [])]
    if faults:
        raise RequestError(list(dict.fromkeys(faults)))
    return list(dict.fromkeys(notes))


def held_out_faults(run: RunConfig, data: SegmentationData) -> list[Fault]:
    """Where no image is held out, or none shows a class, nothing can be chosen."""
    shown = data.val.presence if data.domains else data.val.presence[:, 1:]
    if shown.any():
        return []
    held = f"{len(data.val)} of {len(data.val) + len(data.train)} training images"
    settings = run.resolved["dataset"]
    if "val_share" not in settings:
        problem = f"holds out {held}, none with a class; but a sweep chooses by such images"
        return [Fault("dataset", problem, "give validation images that show the classes")]
    share, seed = settings["val_share"], settings.get("val_seed")
    problem = f"is {share}, which holds out {held}, none with a class; but a sweep chooses by such images"
    remedy = f"give a larger share, such as {min(0.5, 2 * share):g}, or another dataset.val_seed than {seed}"
    return [Fault("dataset.val_share", problem, remedy)]
