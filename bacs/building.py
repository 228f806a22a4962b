"""Builds the method and the model that a configuration names."""

from __future__ import annotations

from bacs.compat import CompatConfig, token_defects
from bacs.components import Component
from bacs.losses.base import Method, MethodOptions
from bacs.model import Model
from bacs.networks import TOKEN_INITS
from bacs.training_config import TrainingConfig


def build_method(loss: Component, training: TrainingConfig, compat: CompatConfig) -> Method:
    method: Method = loss.factory(loss.settings, MethodOptions(training.bg_detector, compat))
    return method


def build_model(network: Component, method: Method, channels: int, compat: CompatConfig) -> Model:
    """Without classes; its weights come from the global generator. Args: channels: of the images."""
    kind = network.factory
    defects = token_defects(compat) if kind.growth_inits == TOKEN_INITS else {}
    built = kind(network.settings, n_channels=channels, **defects)
    detector = method.detection.build(built) if method.detection is not None else None
    return Model(built, detector, method.build_state(built))
