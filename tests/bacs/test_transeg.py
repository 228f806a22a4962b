from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from bacs.networks import TOKEN_INITS, TranSeg, TranSegConfig
from bacs.networks.mask_transformer import MaskTransformer

CLASS_NORMS = ("layernorm", "none")


def decoder(class_norm="layernorm", steps=(2,), init="random", seed=0, **options):
    torch.manual_seed(seed)
    options = {"hidden_dim": 16, "n_heads": 2, "dim_feedforward": 32, **options}
    module = MaskTransformer(12, (4, 4), class_norm=class_norm, **options)
    for n_new in steps:
        module.grow(n_new, init)
    return module


def stir(module):
    """Moves every parameter off its start, as training would."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return module


def features(batch=2, size=(4, 4), seed=1):
    return torch.randn(batch, 12, *size, generator=torch.Generator().manual_seed(seed))


def size_of(*parameters):
    return sum(p.numel() for p in parameters)


def total(module):
    return size_of(*module.parameters())


def entries(module):
    classes = module.classes
    return torch.cat(list(classes.tokens), dim=1)[0], torch.cat(list(classes.weights)), torch.cat(list(classes.biases))


# ---------------------------------------------------------------- parameter counts, section 4.4


def test_decoder_has_the_parameters_of_the_original():
    module = MaskTransformer(2048, (32, 32))
    module.grow(20, "random")
    assert total(module.embed) == 524_544
    assert size_of(module.positions) == 262_144
    assert total(module.blocks) == 2_630_144
    assert total(module.norm) == 512
    assert size_of(module.patch_projection, module.class_projection) == 131_072
    assert size_of(*module.classes.tokens) == 5_376
    assert size_of(*module.classes.weights, *module.classes.biases) == 42
    assert total(module) == 3_553_834
    module.grow(1, "mean")
    assert total(module) == 3_553_834 + 256 + 2


@pytest.mark.parametrize(("output_stride", "crop_size", "grid"), [(16, 512, 32), (16, 60, 4), (8, 512, 64)])
def test_positional_map_has_the_size_of_the_features_of_a_crop(output_stride, crop_size, grid):
    network = TranSeg(TranSegConfig(depth=50, output_stride=output_stride, crop_size=crop_size), n_channels=3)
    assert network.decoder.positions.shape == (1, 256, grid, grid)


# ---------------------------------------------------------------- masks


def test_cosines_and_layernorm_follow_their_definitions():
    module = stir(decoder(steps=(2, 2)))
    output = module(features())
    assert output.cosines.abs().max() <= 1 + 1e-6
    weight, bias = entries(module)[1:]
    centred = output.cosines - output.cosines.mean(dim=1, keepdim=True)
    normalised = centred / (output.cosines.var(dim=1, correction=0, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(output.logits, normalised * weight[:, None, None] + bias[:, None, None])


def test_unnormalised_logits_are_scaled_cosines_plus_a_bias():
    module = stir(decoder("none", steps=(2, 2)))
    output = module(features())
    bias = torch.cat(list(module.classes.biases))
    torch.testing.assert_close(output.logits, module.scale * output.cosines + bias[:, None, None])


@settings(max_examples=30, deadline=None)
@given(n_classes=st.integers(1, 30), spread=st.floats(0.01, 1e3), seed=st.integers(0, 99))
def test_normalised_logits_are_bounded(n_classes, spread, seed):
    """With unit weights no logit exceeds sqrt(K - 1), however different the class tokens are."""
    module = decoder(steps=(n_classes,), seed=seed)
    with torch.no_grad():
        module.classes.tokens[0].mul_(spread)
    logits = module(features(seed=seed)).logits
    assert logits.abs().max() <= math.sqrt(n_classes) * (1 + 1e-5)
    assert logits.sum(dim=1).abs().max() < 1e-3


@pytest.mark.parametrize("class_norm", CLASS_NORMS)
def test_autocast_keeps_the_masks_in_full_precision(class_norm):
    module = decoder(class_norm, steps=(3, 2))
    exact = module(features())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = module(features())
    assert rough.cosines.dtype == rough.logits.dtype == torch.float32
    torch.testing.assert_close(rough.cosines, exact.cosines, atol=0.03, rtol=0)


# ---------------------------------------------------------------- growth


def test_first_growth_adds_the_background_and_growing_by_nothing_is_allowed_later():
    module = decoder(steps=())
    with pytest.raises(ValueError, match=r"n_new \(0\) must be at least 1"):
        module.grow(0, "random")
    module.grow(3, "mean")
    assert module.n_classes == 4
    before = [parameter.clone() for parameter in module.parameters()]
    module.grow(0, "background")
    assert module.n_classes == 4
    for old, new in zip(before, module.parameters(), strict=True):
        assert torch.equal(old, new)


def test_decoder_refuses_nonsense():
    with pytest.raises(ValueError, match=r"init \(mib\) must be one of"):
        decoder().grow(1, "mib")
    with pytest.raises(ValueError, match=r"n_new \(-1\) must be at least 0"):
        decoder().grow(-1, "mean")
    with pytest.raises(ValueError, match=r"hidden_dim \(16\) must be divisible by n_heads \(3\)"):
        decoder(n_heads=3)
    with pytest.raises(ValueError, match=r"class_norm \(batch\) must be one of"):
        decoder("batch")
    with pytest.raises(ValueError, match="compat_mean_bias needs class_norm=layernorm"):
        decoder("none", compat_mean_bias=True)


@pytest.mark.parametrize("class_norm", CLASS_NORMS)
@pytest.mark.parametrize("init", TOKEN_INITS)
def test_growth_copies_what_exists(class_norm, init):
    module = stir(decoder(class_norm, steps=(2, 1), background_share=False))
    old = {name: value.clone() for name, value in module.state_dict().items()}
    module.grow(3, init)
    assert module.n_classes == 7
    assert all(torch.equal(module.state_dict()[name], value) for name, value in old.items())


def test_random_tokens_start_small_with_a_unit_affine():
    module = decoder(steps=(2, 5), hidden_dim=256)
    token, weight, bias = entries(module)
    assert 0.018 < token[3:].detach().std() < 0.022
    assert weight[3:].tolist() == [1] * 5
    assert bias[3:].tolist() == [0] * 5


def test_mean_tokens_start_at_the_means():
    module = stir(decoder(steps=(2, 1)))
    token, weight, bias = entries(module)
    module.grow(2, "mean")
    new_token, new_weight, new_bias = (entry[4:] for entry in entries(module))
    torch.testing.assert_close(new_token, token.mean(dim=0).expand(2, -1))
    torch.testing.assert_close(new_weight, weight.mean().expand(2))
    torch.testing.assert_close(new_bias, bias.mean().expand(2))


def test_compat_takes_the_mean_of_weights_for_the_bias():
    """Section 9.1, item 12: the original starts new classes with a large positive bias."""
    module = stir(decoder(steps=(2, 1), compat_mean_bias=True))
    weight = entries(module)[1]
    module.grow(2, "mean")
    torch.testing.assert_close(entries(module)[2][4:], weight.mean().expand(2))


@pytest.mark.parametrize("share", [True, False])
def test_background_tokens_are_copies_and_share_on_request(share):
    module = stir(decoder(steps=(2, 1), background_share=share))
    token, weight, bias = entries(module)
    module.grow(3, "background")
    new_token, new_weight, new_bias = entries(module)
    for k in range(4, 7):
        assert torch.equal(new_token[k], token[0])
        assert torch.equal(new_weight[k], weight[0])
    expected = bias[0] - (math.log(4) if share else 0)
    torch.testing.assert_close(new_bias[[0, 4, 5, 6]], expected.expand(4))
    assert torch.equal(new_bias[1:4], bias[1:])


@pytest.mark.parametrize(("init", "first_kept"), [("random", 0), ("mean", 0), ("background", 1)])
def test_without_class_norm_old_logits_survive_growth_bit_for_bit(init, first_kept):
    """Annex B.3. The share changes the background's own bias, so its logit alone moves there."""
    module = stir(decoder("none", steps=(2, 1))).eval()
    before = module(features())
    module.grow(3, init)
    after = module(features())
    assert torch.equal(after.logits[:, first_kept:4], before.logits[:, first_kept:])
    assert torch.equal(after.cosines[:, :4], before.cosines)
    assert torch.equal(after.patch_features, before.patch_features)


def test_without_class_norm_new_classes_share_the_probability_of_background():
    module = stir(decoder("none", steps=(2, 1)))
    before = module(features()).logits.softmax(dim=1)
    module.grow(3, "background")
    after = module(features()).logits.softmax(dim=1)
    torch.testing.assert_close(after[:, [0, 4, 5, 6]].sum(dim=1), before[:, 0])
    torch.testing.assert_close(after[:, 1:4], before[:, 1:])


def test_class_norm_moves_old_logits_and_leaves_cosines_comparable():
    """Why ``replay_logits`` are cosines there: growth shifts them far less than it shifts the logits."""
    module = decoder(steps=(2,))
    before = module(features())
    module.grow(1, "random")
    after = module(features())
    assert (after.logits[:, :3] - before.logits).abs().mean() > 0.1
    assert (after.cosines[:, :3] - before.cosines).abs().mean() < 0.02


@pytest.mark.parametrize("class_norm", CLASS_NORMS)
def test_tokens_that_start_equal_are_told_apart_by_training(class_norm):
    module = decoder(class_norm, steps=(2,))
    module.grow(2, "mean")
    images = features() + torch.tensor([2.0, -2.0])[:, None, None, None]
    labels = torch.tensor([3, 4])[:, None, None].expand(2, 4, 4)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.01)
    for _ in range(20):
        optimizer.zero_grad()
        functional.cross_entropy(module(images).logits, labels).backward()
        optimizer.step()
    assert torch.equal(module(images).logits.argmax(dim=1), labels)


# ---------------------------------------------------------------- modules as modules


@pytest.mark.parametrize("class_norm", CLASS_NORMS)
@pytest.mark.parametrize("size", [(4, 4), (3, 7)])
def test_gradients_reach_every_parameter(class_norm, size):
    module = stir(decoder(class_norm, steps=(2, 1, 2)))
    logits = module(features(size=size)).logits
    (logits * torch.randn_like(logits)).sum().backward()
    silent = [name for name, p in module.named_parameters() if p.grad is None or not p.grad.abs().max() > 1e-9]
    assert silent == []


@pytest.mark.parametrize("class_norm", CLASS_NORMS)
def test_a_copy_is_independent(class_norm):
    module = decoder(class_norm, steps=(2, 1)).eval()
    teacher = copy.deepcopy(module)
    before = teacher(features()).logits
    stir(module).grow(2, "background")
    assert teacher.n_classes == 4
    assert torch.equal(teacher(features()).logits, before)


@pytest.mark.parametrize("class_norm", CLASS_NORMS)
def test_state_dict_round_trip_through_a_regrown_decoder(class_norm):
    module = decoder(class_norm, steps=(2,))
    for n_new, init in [(1, "mean"), (0, "mean"), (2, "background")]:
        stir(module).grow(n_new, init)
    fresh = decoder(class_norm, steps=(2, 1, 0, 2), seed=5)
    fresh.load_state_dict(module.state_dict())
    assert torch.equal(fresh(features()).logits, module(features()).logits)


def test_positions_are_interpolated_only_for_other_sizes():
    module = decoder()
    assert module._positions(torch.Size((4, 4))) is module.positions
    with torch.no_grad():
        module.positions.fill_(0.5)
    torch.testing.assert_close(module._positions(torch.Size((3, 9))), torch.full((1, 16, 3, 9), 0.5))


# ---------------------------------------------------------------- the whole network


@pytest.fixture(scope="module")
def full_size():
    torch.manual_seed(0)
    network = TranSeg(TranSegConfig(), n_channels=3)
    for n_new in (15, 5):
        network.grow(n_new, "random")
    return network.eval()


def test_network_has_the_parameters_of_the_original(full_size):
    assert total(full_size) == 46_053_994
    assert full_size.n_classes == 21


@pytest.mark.parametrize("size", [(64, 64), (33, 65)])
def test_network_keeps_the_contract_at_any_size(full_size, size):
    with torch.no_grad():
        output = full_size(torch.randn(2, 3, *size))
    low = tuple(math.ceil(side / 16) for side in size)
    assert output.logits.shape == (2, 21, *size)
    assert output.sem_logits.shape == output.replay_logits.shape == (2, 21, *low)
    assert output.bottleneck.shape == (2, full_size.bottleneck_channels, *low)
    assert output.features[-1].shape == (2, 256, *low)
    assert [feature.shape[1] for feature in output.features[:-1]] == [256, 512, 1024, 2048]
    assert 1 < output.replay_logits.abs().max() <= 16 + 1e-4


def test_replay_compares_logits_where_no_norm_ties_them_together():
    torch.manual_seed(0)
    network = TranSeg(TranSegConfig(depth=50, crop_size=32, class_norm="none"), n_channels=1).eval()
    network.grow(2, "random")
    images = torch.randn(1, 1, 32, 32)
    with torch.no_grad():
        before = network(images)
        network.grow(1, "mean")
        after = network(images)
    assert after.replay_logits is after.sem_logits
    assert torch.equal(after.logits[:, :3], before.logits)


def test_check_finds_every_fault_before_anything_is_built(tmp_path):
    weights = str(tmp_path / "none.pth")
    config = TranSegConfig(hidden_dim=100, nhead=8, pretrained_backbone=True, backbone_weights_path=weights)
    faults = TranSeg.check(config)
    assert [fault.where for fault in faults] == ["network.backbone_weights_path", "network.hidden_dim"]
    assert "is 100, but must be divisible by network.nhead (8)" in faults[1].problem
    assert TranSeg.check(TranSegConfig()) == []


def test_the_switch_of_the_original_reaches_the_decoder():
    network = TranSeg(TranSegConfig(depth=50, crop_size=32), n_channels=3, compat_mean_bias=True)
    network.grow(2, "random")
    network.grow(1, "mean")
    assert network.decoder.classes.bias().tolist() == [0, 0, 0, 1]
