"""Builds the method and the model that a configuration names."""

from __future__ import annotations

from bacs.compat import CompatConfig, token_defects
from bacs.components import Component
from bacs.config import RunConfig
from bacs.errors import RequestError
from bacs.losses.base import Method, MethodOptions
from bacs.losses.crossentropy import CrossEntropy, CrossEntropyConfig
from bacs.losses.detection import Detection
from bacs.model import Model
from bacs.networks import TOKEN_INITS
from bacs.step_overrides import loss_at
from bacs.training_config import TrainingConfig


def build_method(loss: Component, training: TrainingConfig, compat: CompatConfig) -> Method:
    method: Method = loss.factory(loss.settings, MethodOptions(training.bg_detector, compat))
    return method


def method_at(config: RunConfig, step: int) -> Method:
    """The method as it is in a step.

    Step 0 of methods with ``plain_step_0`` is trained by cross-entropy itself, so that none of their code acts in it
    and all of them share its outcome.

    Raises:
        RequestError: the method keeps a state across steps, which a plain step 0 would not fill.
    """
    loss = loss_at(config.loss, config.training.overrides_from_step, step)
    method = build_method(loss, config.training, config.compat)
    if step > 0 or not method.plain_step_0:
        return method
    if type(method).build_state is not Method.build_state:
        problem = f"is {config.loss.target}, whose state plain cross-entropy in step 0 would leave as it is"
        raise RequestError.of("loss._target_", problem, "set plain_step_0 = False in the class")
    plain = CrossEntropy(CrossEntropyConfig(), method.options)
    plain.detection = None if method.detection is None else Detection(method.detection.settings, config.compat)
    return plain


def build_model(network: Component, method: Method, channels: int, compat: CompatConfig) -> Model:
    """Without classes; its weights come from the global generator. Args: channels: of the images."""
    kind = network.factory
    defects = token_defects(compat) if kind.growth_inits == TOKEN_INITS else {}
    built = kind(network.settings, n_channels=channels, **defects)
    detector = method.detection.build(built) if method.detection is not None else None
    return Model(built, detector, method.build_state(built))
