"""Everything cheap is checked before anything expensive starts, and all faults are told together."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bacs.components import parse_component
from bacs.errors import Fault, RequestError
from bacs.interpolation import hidden_faults
from bacs.paths import folder_faults, made_folders_faults
from results.errors import ResultsError
from results.reachability import NoAnswer
from results.tracking import Tracker
from search_spaces.space import Space
from sweeps.cluster import check_address
from sweeps.settings import SweepConfig, tracking_uri_of
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
    storage_faults = folder_faults("sweep.storage", storage, "give a folder that you may write to with --storage")
    faults += storage_faults
    known = {fault.where for fault in faults}
    faults += [fault for fault in made_folders_faults(values) if fault.where not in known]
    if launch.get("tracking_uri") or not storage_faults:
        faults += _check_uri(launch, storage, optional=launch.get("tracking_optional") is True)
    if sweep is not None:
        faults += _check_files(sweep) + _check_resources(sweep) + check_address(sweep.launch.address)
    if faults or sweep is None:
        raise RequestError(hidden_faults(list(dict.fromkeys(faults))))
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


def _check_uri(launch: Mapping[str, Any], storage: Path, *, optional: bool) -> list[Fault]:
    given = launch.get("tracking_uri")
    if given is not None and not isinstance(given, str):  # told by the check of types
        return []
    try:
        return hidden_faults(check_tracking(tracking_uri_of(given, storage), optional=optional))
    except RequestError as error:
        return error.faults


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
