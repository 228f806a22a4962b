"""Keys of the original that have no counterpart here, and what its users should write instead."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from bacs.errors import Fault

_FROM_DATA = "leave it out; it follows from the dataset"
_FROM_PRETRAINED = "leave it out; the original read it nowhere. network.pretrained_backbone asks for ImageNet weights"

RETIRED: dict[str, dict[str, str]] = {
    "training": {
        "learner": "leave it out; training.new_head_init or training.new_token_init say how new classes start",
        "val_on_train": "leave it out; validation images are always held out from training (dataset.val_share)",
        "progress_bar_refresh_rate": "leave it out; progress is shown by itself",
    },
    "dataset": {
        "num_classes": "leave it out; the dataset knows its classes",
        "ignore_index": "leave it out; it is 255",
        "domain_shift": "choose dataset=cityscapes_domain",
        "username": "set the environment variable CITYSCAPES_USERNAME for `python -m sweeps data prepare cityscapes`",
        "password": "set the environment variable CITYSCAPES_PASSWORD for `python -m sweeps data prepare cityscapes`",
    },
    "network": {
        "num_classes": _FROM_DATA,
        "crop_size": _FROM_DATA,
        "pretrained": _FROM_PRETRAINED,
        "pretrained_base": _FROM_PRETRAINED,
        "progress": "leave it out; the original read it nowhere",
        "aux": "leave it out; the original read it nowhere",
        "transformer": "write its keys directly: network.hidden_dim, dim_feedforward, nhead, num_decoder_layers",
    },
    "loss": {
        "name": "leave it out; the choice of loss=... is its name",
        "seen_threshold": "set loss.prototype_margin to ln(t / (1 - t)) for the threshold t",
        "lkd_alpha": "leave it out; the original read it nowhere",
        "replay_minibatch_size": "set loss.replay_batch_size",
        "use_cosine_dist": "set loss.logit_distance=cos",
        "same_task": "leave it out; one memory holds the images of all steps",
        "update_buffer_every": "leave it out; the memory is filled once, at the end of each step",
    },
}


def retired_faults(group: str, values: Mapping[str, Any], schema: type) -> tuple[dict[str, Any], list[Fault]]:
    """(values without the keys that ``schema`` does not have and the original had, a fault for each of these)."""
    known = {field.name for field in dataclasses.fields(schema)}
    remedies = {key: text for key, text in RETIRED.get(group, {}).items() if key not in known}
    problem = "is a key of the original that has no counterpart here"
    faults = [Fault(f"{group}.{key}", problem, text) for key, text in remedies.items() if key in values]
    return {key: value for key, value in values.items() if key not in remedies}, faults
