"""The norm kinds against plain PyTorch, against the in-place extension where it is installed, and over two ranks."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.distributed as dist
from torch import multiprocessing, nn
from torch.nn import functional

from bacs.networks import norms
from bacs.networks.norms import NORMS, ActivatedNorm, NormConfig, synced
from bacs.networks.resnet import Bottleneck

needs_extension = pytest.mark.skipif(norms.extension() is None, reason="the package inplace_abn is not installed")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
KEYS = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}


def images(seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(4, 3, 5, 7, generator=torch.Generator().manual_seed(seed), dtype=dtype) * 3 + 1


def seasoned(kind: str, activated: bool = True) -> ActivatedNorm:
    """A layer with signs in its weights and with running statistics that are not the initial ones."""
    layer = NormConfig(kind).layer(3, activated=activated)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([1.5, -0.7, 0.2]))
        layer.bias.copy_(torch.tensor([0.1, -0.4, 1.0]))
        layer.running_mean.copy_(torch.tensor([0.5, 1.0, -1.0]))
        layer.running_var.copy_(torch.tensor([4.0, 9.0, 0.5]))
    return layer


def trained(
    layer: nn.Module, part: slice = slice(None), dtype: torch.dtype = torch.float32
) -> dict[str, torch.Tensor | None]:
    """Output, gradients and statistics of one pass with part of the batch. The loss is a sum over the images, so the
    gradients of parts add up. The input is no leaf, as behind a convolution."""
    whole = images(dtype=dtype).to(next(layer.parameters()).device)
    slopes = torch.linspace(-1, 1, whole.numel(), dtype=dtype, device=whole.device).view_as(whole)[part]
    x = whole[part].clone().requires_grad_()
    output = layer(x * 1.0)
    (output * slopes).sum().backward()
    gradients = {f"grad.{name}": parameter.grad for name, parameter in layer.named_parameters()}
    return {"output": output.detach(), "grad.x": x.grad, **gradients, **dict(layer.named_buffers())}


@pytest.fixture
def without_extension(monkeypatch):
    monkeypatch.setattr(norms, "extension", lambda: None)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("kind", "slope"), [("bn", 0.0), ("abn", 0.01)])
def test_bn_and_abn_are_batch_norm_and_activation(kind, slope, training):
    layer = seasoned(kind).train(training)
    plain = nn.BatchNorm2d(3).train(training)
    plain.load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer(images()), functional.leaky_relu(plain(images()), slope))
    torch.testing.assert_close(layer.running_var, plain.running_var)


@pytest.mark.parametrize("kind", NORMS)
def test_every_kind_has_the_keys_of_batch_norm(kind):
    assert set(NormConfig(kind).layer(3).state_dict()) == KEYS


def test_momentum_is_a_setting_and_nonsense_is_refused():
    layer = NormConfig("bn", momentum=1.0).layer(3)
    layer(images())
    torch.testing.assert_close(layer.running_mean, images().mean(dim=(0, 2, 3)))
    with pytest.raises(ValueError, match="kind \\('gn'\\)"):
        NormConfig("gn")


@pytest.mark.parametrize("activated", [True, False])
def test_the_twin_scales_by_the_magnitude(without_extension, activated):
    layer = seasoned("iabn", activated)
    x = images()
    standard = functional.batch_norm(x, None, None, training=True)
    expected = standard * (layer.weight.abs() + 1e-5)[:, None, None] + layer.bias[:, None, None]
    torch.testing.assert_close(layer(x.clone()), functional.leaky_relu(expected, 0.01) if activated else expected)


@needs_extension
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("activated", [True, False])
@pytest.mark.parametrize(
    ("device", "dtype"),
    [
        ("cpu", torch.float32),
        ("cpu", torch.float64),
        pytest.param("cuda", torch.float32, marks=[pytest.mark.gpu, needs_gpu]),
    ],
)
def test_the_twin_equals_the_extension(monkeypatch, training, activated, device, dtype):
    in_place = seasoned("iabn", activated).to(device, dtype).train(training)
    twin = copy.deepcopy(in_place)
    fast = trained(in_place, dtype=dtype)
    monkeypatch.setattr(norms, "extension", lambda: None)
    slow = trained(twin, dtype=dtype)
    assert fast.keys() == slow.keys()
    for name, value in slow.items():
        torch.testing.assert_close(fast[name], value, msg=lambda text, name=name: f"{name}: {text}")


@needs_extension
def test_a_zero_weight_gets_the_gradient_of_the_extension(monkeypatch):
    in_place = seasoned("iabn", activated=False).double()
    nn.init.zeros_(in_place.weight)
    twin = copy.deepcopy(in_place)
    fast = trained(in_place, dtype=torch.float64)
    monkeypatch.setattr(norms, "extension", lambda: None)
    slow = trained(twin, dtype=torch.float64)
    torch.testing.assert_close(slow["grad.weight"], fast["grad.weight"], rtol=1e-5, atol=1e-5)


@needs_extension
def test_a_residual_block_has_the_gradients_of_the_twin(monkeypatch):
    """The sum hands one gradient to both of its branches; neither in-place layer may spoil it for the other."""
    block = nn.Sequential(Bottleneck(3, 16, NormConfig("iabn"), stride=1, dilation=2), nn.Conv2d(16, 3, 1)).double()
    twin = copy.deepcopy(block)
    fast = trained(block, dtype=torch.float64)
    monkeypatch.setattr(norms, "extension", lambda: None)
    slow = trained(twin, dtype=torch.float64)
    for name, value in slow.items():
        torch.testing.assert_close(fast[name], value, msg=lambda text, name=name: f"{name}: {text}")


@needs_extension
def test_the_extension_is_used_where_it_suits_and_only_there():
    layer = seasoned("iabn")
    x = images()
    assert layer(x).data_ptr() == x.data_ptr()
    for other in (
        images().to(torch.bfloat16),
        images().to(memory_format=torch.channels_last),
        images().requires_grad_(),
    ):
        assert layer(other).data_ptr() != other.data_ptr()


@pytest.mark.parametrize("kind", NORMS)
def test_every_kind_takes_bfloat16_and_channels_last(kind):
    reference = seasoned(kind)(images())
    low = seasoned(kind)(images().to(torch.bfloat16))
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), reference, rtol=0.05, atol=0.05)
    last = images().to(memory_format=torch.channels_last)
    torch.testing.assert_close(seasoned(kind)(last), reference)


@needs_extension
def test_a_checkpoint_goes_from_the_extension_to_the_twin_and_back(without_extension):
    import inplace_abn

    theirs = inplace_abn.InPlaceABN(3).eval()
    theirs.load_state_dict(seasoned("iabn").state_dict())
    ours = NormConfig("iabn").layer(3).eval()
    ours.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(ours(images()), theirs(images()))


@pytest.mark.parametrize("kind", NORMS)
def test_one_value_per_channel_is_normalised_by_the_running_statistics(kind):
    layer = seasoned(kind)
    before = copy.deepcopy(layer.state_dict())
    x = torch.randn(1, 3, 1, 1)
    output = layer(x.clone())
    assert torch.equal(output, layer.eval()(x.clone()))
    assert all(torch.equal(before[key], value) for key, value in layer.state_dict().items())


@pytest.mark.parametrize("kind", NORMS)
def test_alone_a_synchronised_layer_is_a_plain_one(kind):
    layer = nn.Sequential(seasoned(kind))
    expected = trained(copy.deepcopy(layer))
    for name, value in trained(synced(layer)).items():
        assert torch.equal(value, expected[name])


def test_synced_keeps_parameters_and_keys():
    network = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Sequential(nn.BatchNorm2d(3), nn.ReLU()), seasoned("abn"))
    twin = copy.deepcopy(network)
    before = dict(network.named_parameters())
    converted = synced(network)
    assert converted.state_dict().keys() == twin.state_dict().keys()
    assert all(parameter is before[name] for name, parameter in converted.named_parameters())
    assert torch.equal(converted(images()), twin(images()))
    with pytest.raises(ValueError, match="must have a momentum"):
        synced(nn.BatchNorm2d(3, momentum=None))


def synchronised(case: str) -> nn.Module:
    if case == "converted":
        return synced(nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(inplace=True)))
    return seasoned("iabn_sync", activated=case != "bare")


CASES = {
    "iabn_sync": (torch.float32, {}),
    "bare": (torch.float32, {}),
    "converted": (torch.float32, {}),
    "bfloat16": (torch.bfloat16, {"rtol": 0.05, "atol": 0.05}),
}
PARTS = (slice(0, 1), slice(1, 4))  # ranks with different numbers of pixels


def one_rank(index: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=index, world_size=2)
    torch.set_num_threads(1)
    results = {case: trained(synchronised(case), PARTS[index], dtype) for case, (dtype, _) in CASES.items()}
    torch.save(results, f"{folder}/{index}.pt")
    dist.destroy_process_group()


def test_two_ranks_are_one_batch(tmp_path):
    multiprocessing.spawn(one_rank, args=(str(tmp_path),), nprocs=2)
    ranks = [torch.load(tmp_path / f"{index}.pt") for index in range(2)]
    for case, (dtype, tolerance) in CASES.items():
        for name, whole in trained(synchronised(case), dtype=dtype).items():
            parts = [rank[case][name] for rank in ranks]
            if name in ("output", "grad.x"):
                joined = torch.cat(parts)
            else:  # gradients of parameters add up, statistics are the same on every rank
                joined = sum(parts) if name.startswith("grad.") else parts[0]
            torch.testing.assert_close(joined, whole, **tolerance, msg=lambda text, at=(case, name): f"{at}: {text}")
