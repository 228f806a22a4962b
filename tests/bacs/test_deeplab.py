"""DeepLabV3 and its backbone: sizes, parameter counts, growth, every norm."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from bacs.compose import compose
from bacs.config import RunConfig
from bacs.errors import RequestError
from bacs.networks import DeepLabV3, DeepLabV3Config, GrowingHead, NormConfig, ResNet
from bacs.networks.norms import NORMS

BATCH = torch.randn(2, 3, 33, 65, generator=torch.Generator().manual_seed(0))


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def small(**settings: object) -> DeepLabV3:
    """ResNet-50 with two classes and background."""
    torch.manual_seed(0)
    network = DeepLabV3(DeepLabV3Config(depth=50, **settings), n_channels=3)
    network.grow(2, "mib")
    return network


@pytest.fixture(scope="module")
def trained() -> DeepLabV3:
    """After one pass in training mode, with two steps of classes; in eval mode. Tests copy what they change."""
    network = small()
    network.grow(3, "mib_noise")
    network(BATCH.clone())
    return network.eval()


def test_the_parameters_are_those_of_the_original():
    with torch.device("meta"):
        network = DeepLabV3(DeepLabV3Config(), n_channels=3)
        assert count(network.backbone) == 42_500_160
        assert count(network.decoder) == 15_535_104
        before = count(network)
        network.grow(15, "mib")
        assert count(network) - before == 16 * 257
    network.head = GrowingHead(256)
    network.grow(20, "random")
    assert count(network) == 58_040_661


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("output_stride", [8, 16])
def test_every_norm_and_stride_trains_at_an_odd_size(norm, output_stride):
    network = small(norm=norm, output_stride=output_stride)
    images = BATCH.clone()
    output = network(images)
    low = (5, 9) if output_stride == 8 else (3, 5)
    assert torch.equal(images, BATCH)
    assert output.logits.shape == (2, 3, 33, 65)
    assert output.sem_logits.shape == (2, 3, *low)
    assert output.replay_logits is output.sem_logits
    assert output.bottleneck.shape == (2, network.bottleneck_channels, *low)
    shapes = [(256, 9, 17), (512, 5, 9), (1024, *low), (2048, *low), (256, *low)]
    assert [tuple(feature.shape[1:]) for feature in output.features] == shapes
    (output.logits.square().mean() + sum(feature.mean() for feature in output.features)).backward()
    gradients = [parameter.grad for parameter in network.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


def test_stage_features_are_the_sums_before_the_activation(trained):
    deep, features = trained.backbone(BATCH)
    assert (features[-1] < -0.1).any()
    torch.testing.assert_close(deep, nn.functional.leaky_relu(features[-1], 0.01))


def test_the_atrous_encoder_lists_five_activated_maps():
    backbone = ResNet(50, norm="bn", output_stride=16, atrous=True)
    deep, features = backbone(BATCH)
    assert [feature.shape[1] for feature in features] == [64, 256, 512, 1024, 2048]
    assert all((feature >= 0).all() for feature in features)
    assert features[-1] is deep


@pytest.mark.parametrize(
    ("stride", "expected"), [(16, [(1, 1), (2, 1), (2, 1), (1, 2)]), (8, [(1, 1), (2, 1), (1, 2), (1, 4)])]
)
def test_the_output_stride_is_honoured_by_dilation(stride, expected):
    with torch.device("meta"):
        backbone = ResNet(101, norm="bn", output_stride=stride)
    stages = [backbone.mod2, backbone.mod3, backbone.mod4, backbone.mod5]
    found = [(stage[0].convs.conv2.stride[0], stage[0].convs.conv2.dilation[0]) for stage in stages]
    assert found == expected
    assert [len(stage) for stage in stages] == [3, 4, 23, 3]


def test_the_head_dilates_twice_as_much_at_stride_8():
    for stride, rates in ((16, [1, 6, 12, 18]), (8, [1, 12, 24, 36])):
        with torch.device("meta"):
            decoder = DeepLabV3(DeepLabV3Config(depth=50, output_stride=stride), n_channels=3).decoder
        assert [branch.dilation[0] for branch in decoder.branches] == rates


@pytest.mark.parametrize("norm", NORMS)
def test_a_batch_of_one_image_trains(norm):
    network = small(norm=norm)
    output = network(BATCH[:1].clone())
    output.logits.mean().backward()
    assert output.logits.isfinite().all()
    assert network.decoder.image_conv.weight.grad.isfinite().all()


def test_growing_shares_the_probability_of_background(trained):
    network = copy.deepcopy(trained)
    before = network(BATCH).sem_logits.softmax(dim=1)
    network.grow(2, "mib")
    after = network(BATCH).sem_logits.softmax(dim=1)
    assert network.n_classes == 8
    torch.testing.assert_close(after[:, [0, 6, 7]].sum(dim=1), before[:, 0])
    assert trained.n_classes == 6
    network.grow(0, "mib")
    assert network.n_classes == 8


def test_a_copy_is_independent(trained):
    twin = copy.deepcopy(trained)
    before = trained(BATCH).logits
    twin.train()(BATCH)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(1.0)
    assert torch.equal(trained(BATCH).logits, before)


@pytest.mark.parametrize("separate", [False, True])
def test_a_state_dict_restores_a_network_that_was_grown_alike(separate):
    first, second = small(separate_feats=separate), small(separate_feats=separate)
    first.grow(1, "mib_noise")
    second.grow(1, "random")
    first(BATCH)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.eval()(BATCH).logits, second.eval()(BATCH).logits)


def test_grey_images_are_taken():
    network = DeepLabV3(DeepLabV3Config(depth=50), n_channels=1)
    network.grow(1, "mib")
    assert network(torch.randn(2, 1, 16, 16)).logits.shape == (2, 2, 16, 16)


def test_separate_features_cost_a_convolution_a_step():
    shared, separate = GrowingHead(256), GrowingHead(256, NormConfig("abn"))
    for head in (shared, separate):
        head.grow(2)
        head.grow(1)
    assert count(separate) - count(shared) == 2 * (256 * 256 * 9 + 2 * 256)


def test_separate_features_start_as_those_of_the_background():
    torch.manual_seed(0)
    head = GrowingHead(8, NormConfig("abn"))
    head.grow(2)
    features = torch.randn(2, 8, 5, 5)
    head(features)
    head.eval()
    before = head(features)
    head.grow(3, "mib")
    head.eval()
    after = head(features)
    torch.testing.assert_close(after[:, 1:3], before[:, 1:])
    for new in (0, 3, 4, 5):
        torch.testing.assert_close(after[:, new], before[:, 0] - math.log(4))
    noisy, random = copy.deepcopy(head), copy.deepcopy(head)
    noisy.grow(1, "mib_noise")
    random.grow(1, "random")
    assert torch.equal(noisy.trunks[2][0].weight, head.trunks[0][0].weight)
    assert not torch.equal(noisy.heads[2].weight, head.heads[0].weight[:1])
    assert not torch.equal(random.trunks[2][0].weight, head.trunks[0][0].weight)


def test_the_shipped_configurations_name_the_network():
    for choice, depth in (("deep_lab", 101), ("deep_lab_r50", 50)):
        config = RunConfig.from_dict(compose("config", [f"network={choice}", "network.norm_momentum=0.01"]))
        assert config.network.factory is DeepLabV3
        assert config.network.settings == DeepLabV3Config(depth=depth, norm_momentum=0.01)
    with pytest.raises(RequestError, match=r"network.output_stride: is 32, but must be one of: 8, 16"):
        RunConfig.from_dict(compose("config", ["network=deep_lab", "network.output_stride=32"]))
