"""Everything cheap is checked before anything expensive starts, and all faults are told together."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bacs.components import parse_component
from bacs.errors import Fault, RequestError
from results.errors import ResultsError
from results.reachability import NoAnswer
from results.tracking import Tracker
from search_spaces.space import Space
from sweeps.cluster import check_address
from sweeps.settings import SweepConfig, default_tracking_uri
from sweeps.trials import workers_per_trial


def check_request(values: Mapping[str, Any], space: Space | None = None) -> SweepConfig:
    """The checked sweep behind a composed dictionary.

    Args:
        values: the dictionary.
        space: that of the journal, for a sweep that exists.

    Raises:
        RequestError: with the faults of the configuration and of every service it needs.
    """
    faults: list[Fault] = []
    sweep: SweepConfig | None = None
    try:
        sweep = SweepConfig.from_dict(values, space)
    except RequestError as error:
        faults += error.faults
    launch = values.get("sweep") or {}
    storage = Path(str(launch.get("storage")))
    storage_faults = _check_storage(storage)
    faults += storage_faults
    uri = launch.get("tracking_uri")
    if uri or not storage_faults:
        optional = launch.get("tracking_optional") is True
        faults += check_tracking(str(uri or default_tracking_uri(storage)), optional=optional)
    if sweep is not None:
        faults += _check_files(sweep) + _check_resources(sweep) + check_address(sweep.launch.address)
    if faults or sweep is None:
        raise RequestError(list(dict.fromkeys(faults)))
    return sweep


def check_tracking(uri: str, *, optional: bool = False) -> list[Fault]:
    """Whether results can be tracked there.

    Args:
        uri: the tracking URI.
        optional: a server that does not answer now is no fault.
    """
    try:
        Tracker.check(uri)
    except NoAnswer as error:
        remedy = f"{error.hint}; or start without it, and it gets everything later: --tracking-optional"
        return [] if optional else [Fault("sweep.tracking_uri", error.message, remedy)]
    except ResultsError as error:
        return [Fault("sweep.tracking_uri", error.message, error.hint)]
    return []


def _check_storage(storage: Path) -> list[Fault]:
    """Tries to write where the sweep would; leaves nothing behind. The folder itself may be absent."""
    remedy = "give a folder that you may write to with --storage"
    try:
        existing = next(path for path in (storage, *storage.parents) if path.exists())
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(b"0")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return [Fault("sweep.storage", f"is {storage}, which cannot be written: {error.strerror}", remedy)]
    return []


def _check_files(sweep: SweepConfig) -> list[Fault]:
    """The lists of a dataset in files lead to no place outside it; opens no image."""
    dataset, faults = parse_component("dataset", sweep.base["dataset"])
    if dataset is None or not hasattr(dataset.factory, "layout"):
        return faults
    try:
        dataset.factory.layout(dataset.settings)
    except RequestError as error:
        return error.faults
    return []


def _check_ranks(sweep: SweepConfig) -> list[Fault]:
    """Several GPUs of a trial share every batch."""
    gpus, batch = sweep.resources.gpus_per_trial, sweep.base["training"]["batch_size"]
    if gpus > 1 and gpus != int(gpus):
        problem = f"is {gpus:g}, but more than one GPU must be a whole number of them"
        return [Fault("resources.gpus_per_trial", problem, f"give {int(gpus)} or {int(gpus) + 1}")]
    if batch % workers_per_trial(sweep):
        problem = f"is {batch}, which the {gpus:g} GPUs of a trial cannot share evenly"
        return [Fault("training.batch_size", problem, f"give a multiple of {gpus:g}")]
    return []


def _check_resources(sweep: SweepConfig) -> list[Fault]:
    """On a cluster only Ray knows what there is; here the machine does."""
    faults = _check_ranks(sweep)
    if sweep.launch.address:
        return faults
    wanted, cores = sweep.resources.cpus_per_trial, len(os.sched_getaffinity(0))
    if wanted > cores:
        problem = f"is {wanted}, but this machine has {cores} cores: no trial would ever start"
        faults.append(Fault("resources.cpus_per_trial", problem, f"give at most {cores}"))
    if sweep.resources.gpus_per_trial > 0:
        import torch

        gpus = torch.cuda.device_count()
        if sweep.resources.gpus_per_trial > gpus:
            problem = f"is {sweep.resources.gpus_per_trial:g}, but this machine has {gpus} GPUs"
            faults.append(Fault("resources.gpus_per_trial", problem, f"give at most {gpus}"))
    return faults
