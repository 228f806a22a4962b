"""Whether a network takes the images and batches of a run, found out in a moment and before anything is trained.

The network is built without memory for its numbers (PyTorch's device ``meta``), and one forward pass tells shapes that
do not fit: more levels than an image can be halved, statistics of a single value. A class of the user's that fails in
this way is tried on the device of the run, where that is here.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterable

import torch

from bacs.building import build_method, build_model
from bacs.components import Component
from bacs.config import RunConfig
from bacs.data import SegmentationData
from bacs.errors import Fault, RequestError
from bacs.training_config import TrainingConfig


def smallest_batch(training: TrainingConfig, images: Iterable[int]) -> int:
    """Images of the smallest piece that ever goes through the network. Args: images: of each continual step."""
    sizes = []
    for count in images:
        own = max(1, min(training.batch_size, count) // training.n_gpus)
        sizes.append(own // min(training.micro_batches, own))
    return min(sizes)


def fit_faults(config: RunConfig, data: SegmentationData, batch: int) -> list[Fault]:
    """What the network makes of the smallest batch in training, and of the smallest image in evaluation.

    Args:
        config: of the run.
        data: its dataset, open.
        batch: images of the smallest batch.
    """
    cases = [(data.window, batch, True)]
    if data.evaluation == "full":  # an image smaller than the window is scored as it is
        least = getattr(data, "smallest", data.window)
        cases.append(((min(least[0], data.window[0]), min(least[1], data.window[1])), 1, False))
    for size, count, training in cases:
        if error := _error(config, data, size, count, training):
            height, width = size
            images = "an image" if count == 1 else f"{count} images"
            what = f"trained on {images} a batch" if training else "measured on an image"
            problem = f"is {config.network.target}, which cannot be {what} of {height}x{width} pixels: {error}"
            keys = [key for key in ("crop_size", "canvas") if key in _settings(config.dataset)]
            larger = f"larger images (dataset.{keys[0]})" if keys and training else "larger images"
            return [Fault("network", problem, f"give {larger}, or a network of fewer levels")]
    return []


def _error(config: RunConfig, data: SegmentationData, size: tuple[int, int], batch: int, training: bool) -> str:
    """Why a forward pass fails; empty where it does not, or where that cannot be told here."""
    shape = (batch, data.channels, *size)
    reason = _failure(config, data, shape, training, "meta")
    if not reason or config.network.target.startswith("bacs."):
        return reason
    if config.training.device == "cpu":
        return _failure(config, data, shape, training, "cpu")
    return _failure(config, data, shape, training, "cuda") if torch.cuda.is_available() else ""


def _failure(config: RunConfig, data: SegmentationData, shape: tuple[int, ...], training: bool, device: str) -> str:
    """The first line of the error on a device. The generators of random numbers stay where they are."""
    with torch.random.fork_rng([torch.cuda.current_device()] if device == "cuda" else []), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            _forward(config, data, shape, training, device)
        except RequestError:
            raise
        except Exception as error:  # each backend of PyTorch has errors of its own, and so have users' classes
            return (str(error).strip() or type(error).__name__).splitlines()[0]
    return ""


@torch.no_grad()
def _forward(config: RunConfig, data: SegmentationData, shape: tuple[int, ...], training: bool, device: str) -> None:
    with torch.device(device):
        method = build_method(config.loss, config.training, config.compat)
        model = build_model(_fresh(config.network), method, data.channels, config.compat)
        model.grow(max(1, len(data.class_names)), "random")
        model.train(training)
        output = model(torch.zeros(shape))
    if output.logits.shape[-2:] != shape[-2:]:
        found = "x".join(map(str, output.logits.shape[-2:]))
        raise ValueError(f"its logits have {found} pixels")


def _fresh(network: Component) -> Component:
    """Without weights from a file."""
    settings = network.settings
    if isinstance(settings, dict) or not hasattr(settings, "pretrained_backbone"):
        return network
    return dataclasses.replace(network, settings=dataclasses.replace(settings, pretrained_backbone=False))


def _settings(part: Component) -> dict[str, object]:
    return part.settings if isinstance(part.settings, dict) else vars(part.settings)
