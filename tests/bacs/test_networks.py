from __future__ import annotations

import math

import pytest
import torch

from bacs.networks import GrowingHead, UNet, UNetConfig


@pytest.mark.parametrize(("bilinear", "parameters"), [(False, 31_044_821), (True, 17_249_493)])
def test_unet_has_the_parameters_of_the_original(bilinear, parameters):
    network = UNet(UNetConfig(width=64, num_layers=5, bilinear=bilinear), n_channels=3)
    network.grow(20, "mib")
    assert sum(p.numel() for p in network.parameters()) == parameters


@pytest.mark.parametrize("bilinear", [False, True])
@pytest.mark.parametrize("size", [(16, 16), (17, 23), (61, 40)])
def test_unet_keeps_the_contract_at_any_size(bilinear, size):
    network = UNet(UNetConfig(width=4, num_layers=4, bilinear=bilinear), n_channels=1)
    network.grow(2, "mib")
    network.grow(3, "mib")
    output = network(torch.randn(2, 1, *size))
    assert output.logits.shape == (2, 6, *size) == output.sem_logits.shape
    assert output.bottleneck.shape[1] == network.bottleneck_channels
    assert output.bottleneck.shape[-2:] == (size[0] // 8, size[1] // 8)
    assert output.features[-1].shape[-2:] == size
    first, rest = output.split(1)
    assert first.logits.shape[0] == rest.features[0].shape[0] == 1


def test_mib_head_shares_the_probability_of_background():
    """Annex B.3: right after growing, background and new classes together are as likely as background was."""
    torch.manual_seed(0)
    head = GrowingHead(8)
    head.grow(3)
    features = torch.randn(2, 8, 5, 5)
    before = head(features).softmax(dim=1)
    old_bias = float(head.heads[0].bias.detach()[0])
    head.grow(4, "mib")
    after = head(features).softmax(dim=1)
    torch.testing.assert_close(after[:, [0, 4, 5, 6, 7]].sum(dim=1), before[:, 0])
    torch.testing.assert_close(after[:, 1:4], before[:, 1:4])
    assert float(head.heads[1].bias.detach()[0]) == pytest.approx(old_bias - math.log(5), abs=1e-6)


def test_random_head_leaves_old_logits_alone():
    head = GrowingHead(8)
    head.grow(3)
    features = torch.randn(2, 8, 5, 5)
    before = head(features)
    head.grow(1, "random")
    torch.testing.assert_close(head(features)[:, :4], before)


def test_head_refuses_nonsense():
    with pytest.raises(ValueError, match=r"n_new \(0\)"):
        GrowingHead(4).grow(0)
    with pytest.raises(ValueError, match=r"init \(zero\)"):
        GrowingHead(4).grow(1, "zero")
