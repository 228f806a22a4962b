"""ImageNet weights for the backbone: explicit name maps, and a report of what fitted.

Two kinds of file are understood: torchvision's ResNet-50/101, and the checkpoints trained with in-place ABN (a
dictionary with the weights under ``state_dict``, each name with the prefix ``module.``).
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bacs.errors import RequestError
from bacs.networks.resnet import ResNet

REQUIRED_SHARE = 0.99
"""Share of the tensors of backbone and file that must find their counterpart."""

EPS = 1e-5
"""What in-place ABN adds to the magnitude of a weight."""


@dataclass(frozen=True, slots=True)
class LoadReport:
    """Which tensors of a backbone came from a file; all names are the backbone's."""

    source: str
    """The file, or the name of the official weights."""
    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    """In the backbone, not in the file."""
    unexpected: tuple[str, ...]
    """In the file, not in the backbone; a classifier does not count."""
    mismatched: tuple[str, ...]
    """In both, with different shapes."""

    @property
    def share(self) -> float:
        """Loaded tensors among all that the backbone or the file has."""
        return len(self.loaded) / max(1, sum(map(len, (self.loaded, self.missing, self.unexpected, self.mismatched))))

    def summary(self) -> str:
        rest = {"missing": self.missing, "unexpected": self.unexpected, "with another shape": self.mismatched}
        told = [f"{len(names)} {word} ({', '.join(names[:2])} ...)" for word, names in rest.items() if names]
        return ", ".join([f"{self.source}: {len(self.loaded)} tensors loaded", *told])


def load_weights(backbone: ResNet, path: Path) -> LoadReport:
    """Fills the backbone from a file.

    Raises:
        RequestError: where the file cannot be read, or belongs to another network.
    """
    where = "network.backbone_weights_path"
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        problem = f"is {str(path)!r}, which cannot be read: {(str(error) or repr(error)).splitlines()[0]}"
        raise RequestError.of(where, problem, "give a file of tensors written by torch.save") from None
    return load_state(backbone, content, str(path))


def load_official(backbone: ResNet, depth: int) -> LoadReport:
    """Fills the backbone with torchvision's weights, downloaded once into PyTorch's cache.

    Their first version (V1), the one that the original could load.

    Raises:
        RequestError: where the download fails.
    """
    from torchvision.models import get_model_weights

    weights = get_model_weights(f"resnet{depth}")["IMAGENET1K_V1"]
    try:
        state = weights.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:
        remedy = "set network.backbone_weights_path to a file with these weights"
        raise RequestError.of("network.pretrained_backbone", f"cannot download {weights}: {error}", remedy) from None
    return load_state(backbone, state, str(weights))


def load_state(backbone: ResNet, content: Any, source: str) -> LoadReport:
    """Fills the backbone from the content of a file.

    Batch counters are left alone: only a cumulative average, which is never used here, depends on them.

    Raises:
        RequestError: where less than :data:`REQUIRED_SHARE` of the tensors find their counterpart.
    """
    state, in_place = _in_our_names(content)
    own = {name: tensor.shape for name, tensor in backbone.state_dict().items() if _counts(name)}
    fitting = {name: tensor for name, tensor in state.items() if own.get(name) == tensor.shape}
    report = LoadReport(
        source,
        loaded=tuple(fitting),
        missing=tuple(name for name in own if name not in state),
        unexpected=tuple(name for name in state if name not in own),
        mismatched=tuple(name for name in state if name in own and name not in fitting),
    )
    if report.share < REQUIRED_SHARE:
        problem = f"does not fit the backbone: {report.summary()}"
        raise RequestError.of("network.backbone_weights_path", problem, "give the weights of a network of this depth")
    if in_place and not backbone.norm.uses_magnitude:
        fitting = from_magnitudes(fitting)
    if not in_place and backbone.norm.uses_magnitude:
        fitting = to_magnitudes(fitting)
    backbone.load_state_dict(fitting, strict=False)
    backbone.pretrained = report
    return report


def _in_our_names(content: Any) -> tuple[dict[str, Tensor], bool]:
    """The tensors of a file under the backbone's names, and whether in-place ABN trained them."""
    content = content.get("state_dict", content) if isinstance(content, Mapping) else {}
    tensors = {str(key): tensor for key, tensor in content.items() if isinstance(tensor, Tensor)}
    in_place = any(key.removeprefix("module.").startswith("mod1.") for key in tensors)
    rename = rename_in_place_abn if in_place else rename_torchvision
    renamed = {rename(key): tensor for key, tensor in tensors.items()}
    return {name: tensor for name, tensor in renamed.items() if name is not None and _counts(name)}, in_place


def rename_torchvision(key: str) -> str | None:
    """``layer3.0.conv2.weight`` -> ``mod4.block1.convs.conv2.weight``; ``None`` for the classifier."""
    if key.startswith("fc."):
        return None
    inside = re.fullmatch(r"layer(\d)\.(\d+)\.(.+)", key)
    if inside is None:
        return f"mod1.{key}"
    stage, block, rest = int(inside[1]) + 1, int(inside[2]) + 1, inside[3]
    if rest.startswith("downsample."):
        rest = rest.replace("downsample.0", "proj_conv").replace("downsample.1", "proj_bn")
    else:
        rest = f"convs.{rest}"
    return f"mod{stage}.block{block}.{rest}"


def rename_in_place_abn(key: str) -> str | None:
    """``module.mod2.block1.proj_bn.bias`` -> without its prefix; ``None`` for the classifier."""
    name = key.removeprefix("module.")
    return None if name.startswith("classifier.") else name


def from_magnitudes(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Norm weights of in-place ABN as those of ordinary batch norm: |weight| + eps."""
    return {name: tensor.abs() + EPS if _is_norm_weight(name) else tensor for name, tensor in state.items()}


def to_magnitudes(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Norm weights of ordinary batch norm as those of in-place ABN, with the same results.

    A magnitude cannot express a negative weight, so its sign moves into the convolution in front: negating a channel of
    the convolution and of the running mean negates the normalised value.
    """
    converted = dict(state)
    for name in filter(_is_norm_weight, state):
        converted[name] = (state[name].abs() - EPS).clamp_min(0)
        negative = state[name] < 0
        for turned in (name.replace("bn", "conv"), name.replace("weight", "running_mean")):
            if turned in state:
                converted[turned] = state[turned].clone()
                converted[turned][negative] *= -1
    return converted


def _counts(name: str) -> bool:
    return not name.endswith("num_batches_tracked")


def _is_norm_weight(name: str) -> bool:
    return re.search(r"bn\d?\.weight$", name) is not None
