"""What every network promises to the methods, the detector and the run."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from bacs.building import build_model
from bacs.compat import CompatConfig
from bacs.contracts.base import Contract, differing, explained, listed, require
from bacs.errors import Fault, RequestError
from bacs.losses.crossentropy import CrossEntropy, CrossEntropyConfig
from bacs.networks import HEAD_INITS, TOKEN_INITS, NetworkOutput, SegmentationNetwork
from bacs.randomness import seed_everything

SIZES = ((33, 47), (40, 64), (65, 33))
STEPS = (3, 2)
"""Foreground classes of two steps."""
K = 1 + sum(STEPS)
ROUNDING = 1e-4
"""What another order of sums may change, as a share of the largest number."""


class NetworkContract(Contract):
    """Tests of a :class:`bacs.networks.SegmentationNetwork`, on the CPU, in the memory format that a run uses."""

    group = "network"

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def one_thread(cls) -> Iterator[None]:
        """Small images leave nothing to share, and threads that wait for a busy core cost ten times the time."""
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(before)

    @classmethod
    def build(cls, channels: int, *, init: str = "random", seed: int = 0) -> SegmentationNetwork:
        """After two steps, in eval mode."""
        network = cls.without_classes(channels, seed)
        for step, n_new in enumerate(STEPS):
            _grow(network, n_new, init, 1 + sum(STEPS[: step + 1]))
        return network.to(memory_format=torch.channels_last).eval()

    @classmethod
    def without_classes(cls, channels: int, seed: int = 0) -> SegmentationNetwork:
        """As a run makes it. Raises: RequestError: where the network refuses its settings or the channels."""
        seed_everything("contract", seed)
        return build_model(cls.component(), CrossEntropy(CrossEntropyConfig()), channels, CompatConfig()).network

    @pytest.fixture(scope="class")
    @classmethod
    def possible(cls, allowed: None) -> list[int]:
        """Channels of images that it can be built for, of 1 and 3."""
        found: list[int] = []
        refused: list[Fault] = []
        with explained(
            f"building {cls.target}", "take (config, n_channels), and refuse by RequestError what cannot be"
        ):
            asked = getattr(cls.component().settings, "n_channels", None)
            for channels in (1, 3) if asked is None else (asked,):
                try:
                    cls.without_classes(channels)
                    found.append(channels)
                except RequestError as error:
                    refused += error.faults
            if not found:
                raise RequestError(refused)
        return found

    @pytest.fixture(scope="class")
    @classmethod
    def channels(cls, possible: list[int]) -> int:
        return possible[-1]

    def test_outputs_have_the_documented_shapes(self, possible: list[int]) -> None:
        for channels in possible:
            network = self.build(channels)
            for size in SIZES:
                for count, training in ((2, True), (2, False), (1, False)):
                    network.train(training)
                    _require_shapes(network, _images(count, channels, size))

    def test_growth_appends_classes(self, channels: int) -> None:
        inits = type(self.without_classes(channels)).growth_inits
        remedy = "leave growth_inits out for HEAD_INITS, or set it to TOKEN_INITS, and accept all of these in grow()"
        require(inits in (HEAD_INITS, TOKEN_INITS), f"growth_inits is {inits}, but a run asks for other ones", remedy)
        for init in inits:
            network = self.build(channels, init=init)
            _require_shapes(network, _images(2, channels, SIZES[0]))
            before = {name: value.clone() for name, value in network.state_dict().items()}
            _grow(network, 0, init, K)
            changed = differing(before, network.state_dict())
            remedy = "return at once where n_new is 0: steps of new domains bring no class"
            require(not changed, f"grow(0, {init!r}) has changed {listed(changed)}", remedy)

    def test_random_growth_leaves_old_logits_alone(self, channels: int) -> None:
        network, images = self.build(channels), _images(2, channels, SIZES[0])
        before = _forward(network, images)
        if before.replay_logits is not before.sem_logits and not before.replay_logits.equal(before.sem_logits):
            pytest.skip("its logits are normalised over the classes, so that new classes move old logits")
        _grow(network, 2, "random", K + 2)
        moved = _furthest(_forward(network, images).replay_logits[:, :K], before.replay_logits)
        problem = f"grow(2, 'random') has moved logits of old classes by {moved:.2g} of the largest"
        remedy = "append new channels behind the old ones; where logits are normalised over the classes, give as "
        remedy += "replay_logits those before that, because replay compares them with the ones of earlier steps"
        require(moved < ROUNDING, problem, remedy)

    def test_every_parameter_gets_a_gradient(self, channels: int) -> None:
        network = self.build(channels).train()
        _forward(network, _images(2, channels, SIZES[0])).logits.square().mean().backward()
        learning = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
        idle = [name for name, parameter in learning.items() if parameter.grad is None]
        problem = f"{listed(idle)} get no gradient from the logits"
        require(not idle, problem, "use them in forward(), leave them out, or freeze them: requires_grad_(False)")
        broken = [name for name, parameter in learning.items() if not parameter.grad.isfinite().all()]  # type: ignore[union-attr]
        require(not broken, f"the gradient of {listed(broken)} is not finite", "look for a quotient or a root of 0")

    def test_copies_and_saved_weights_are_the_same_network(self, channels: int) -> None:
        images = _images(2, channels, SIZES[0])
        init = type(self.without_classes(channels)).growth_inits[0]
        network = self.build(channels, init=init)
        _forward(network.train(), images)  # moves running statistics
        expected = _forward(network.eval(), images)
        twin = copy.deepcopy(network)
        _require_equal(_forward(twin, images), expected, "copy.deepcopy(network)", "keep all tensors in modules")
        other = self.build(channels, seed=1)
        remedy = "register what grow() appends as parameters, buffers or modules, whatever its init"
        with explained("load_state_dict() of a network that was grown by another init and seed", remedy):
            other.load_state_dict(network.state_dict())
        where = "a network with the loaded weights"
        _require_equal(_forward(other, images), expected, where, "keep what the output depends on in the state dict")
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter.zero_()
        where = "the network, after its deepcopy has been changed,"
        _require_equal(_forward(network, images), expected, where, "share no tensor with a copy: it is the teacher")

    def test_evaluation_depends_on_the_image_alone(self, channels: int) -> None:
        network, images = self.build(channels), _images(3, channels, SIZES[0])
        before = {name: value.clone() for name, value in network.state_dict().items()}
        expected = _forward(network, images)
        changed = differing(before, network.state_dict())
        require(not changed, f"a forward pass in eval mode has changed {listed(changed)}", "ask self.training first")
        _require_equal(_forward(network, images), expected, "a second pass in eval mode", "draw nothing in eval mode")
        for name, tensor in _tensors(_forward(network, images[1:2])).items():
            moved = _furthest(tensor[0], _tensors(expected)[name][1])
            problem = f"in eval mode {name} of an image alone is {moved:.2g} of the largest off what it is in a batch"
            remedy = "take statistics over other images in training alone: teacher, replay and scores read one by one"
            require(moved < ROUNDING, problem, remedy)

    def test_it_computes_in_bfloat16(self, channels: int) -> None:
        network = self.build(channels)
        for training in (True, False):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                output = _forward(network.train(training), _images(2, channels, SIZES[1]))
            for name, tensor in _tensors(output).items():
                remedy = "leave types to autocast, or compute what overflows under torch.autocast(enabled=False)"
                require(tensor.isfinite().all(), f"under autocast to bfloat16 {name} is not finite", remedy)

    def test_images_are_left_alone(self, channels: int) -> None:
        network, images = self.build(channels), _images(2, channels, SIZES[0])
        for training in (True, False):
            given = images.clone()
            _forward(network.train(training), given)
            remedy = "begin with an operation that makes a new tensor: methods pass the same images on"
            require(given.equal(images), "forward() has changed its images in place", remedy)


def _images(count: int, channels: int, size: tuple[int, int]) -> Tensor:
    images = torch.randn(count, channels, *size, generator=torch.Generator().manual_seed(0))
    return images.contiguous(memory_format=torch.channels_last)


def _grow(network: SegmentationNetwork, n_new: int, init: str, expected: int) -> None:
    with explained(f"grow({n_new}, {init!r})", "accept each of growth_inits in every step, and 0 in later ones"):
        network.grow(n_new, init)
    problem = f"grow({n_new}, {init!r}) left n_classes at {network.n_classes} instead of {expected}"
    require(network.n_classes == expected, problem, "append the new classes in grow(), with background in the first")


def _forward(network: SegmentationNetwork, images: Tensor) -> NetworkOutput:
    mode = "train" if network.training else "eval"
    remedy = "any height and width must do, in the memory format channels_last too (reshape() instead of view())"
    with explained(f"forward() of {tuple(images.shape)} in {mode} mode", remedy):
        output = network(images)
    problem = f"forward() returned {type(output).__name__}"
    require(isinstance(output, NetworkOutput), problem, "return a bacs.networks.NetworkOutput")
    return output


def _require_shapes(network: SegmentationNetwork, images: Tensor) -> None:
    output = _forward(network, images)
    count, classes, size, low = len(images), network.n_classes, images.shape[-2:], output.sem_logits.shape[-2:]
    where = f"of images {tuple(images.shape)} in {'train' if network.training else 'eval'} mode"
    require(output.features, f"features {where} is empty", "give the maps from shallow to deep, the decoder's last")
    last, deep = output.features[-1], output.bottleneck
    shapes = {
        "logits": ((count, classes, *size), "give a channel a class, interpolated to the size of the input"),
        "sem_logits": ((count, classes, *low), "give a channel a class, as computed"),
        "replay_logits": ((count, classes, *low), "give sem_logits, or what is comparable, in the same shape"),
        "bottleneck": (
            (count, network.bottleneck_channels, *deep.shape[-2:]),
            "set bottleneck_channels to its channels",
        ),
        f"features[{len(output.features) - 1}]": (
            (count, *last.shape[1:2], *low),
            "the last one is what sem_logits are computed from, at their size",
        ),
    }
    for name, tensor in _tensors(output).items():
        shape, remedy = shapes.get(name, ((count, *tensor.shape[1:]), "let every tensor belong to the same images"))
        problem = f"{name} {where} has the shape {tuple(tensor.shape)} instead of {shape}"
        require(tuple(tensor.shape) == shape and tensor.dim() == 4, problem, remedy)
        require(tensor.isfinite().all(), f"{name} {where} is not finite", "look at how its layers are initialised")


def _require_equal(found: NetworkOutput, expected: NetworkOutput, what: str, remedy: str) -> None:
    other = differing(_tensors(found), _tensors(expected))
    require(not other, f"{what} gives other {listed(other)}", remedy)


def _tensors(output: NetworkOutput) -> dict[str, Tensor]:
    """Of a forward pass, by name, without gradients."""
    named = {name: getattr(output, name) for name in ("logits", "sem_logits", "replay_logits", "bottleneck")}
    named |= {f"features[{i}]": feature for i, feature in enumerate(output.features)}
    return {name: tensor.detach() for name, tensor in named.items()}


def _furthest(found: Tensor, expected: Tensor) -> float:
    """The largest difference, as a share of the largest number."""
    return float((found - expected).detach().abs().max() / expected.detach().abs().max().clamp_min(1e-12))
