"""Networks and the images of a run: what does not fit is known before training, and what fits trains."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from bacs.building import build_method, build_model
from bacs.compose import compose
from bacs.config import RunConfig
from bacs.errors import RequestError
from bacs.fit import fit_faults, smallest_batch
from bacs.run import ContinualRun
from bacs.training_config import TrainingConfig

NETWORKS = {
    "unet": ["network=unet", "network.width=2"],
    "deep": ["network=unet", "network.width=2", "network.num_layers=6", "network.bilinear=true"],
    "deeplab": ["network=deep_lab_r50", "network.pretrained_backbone=false"],
    "transformer": ["network=transformer", "network.depth=50", "network.pretrained_backbone=false"],
}


@pytest.fixture
def config(tmp_path):
    place = [f"dataset.cache={tmp_path}", "training.device=cpu"]
    return lambda *words: RunConfig.from_dict(compose("config", ["dataset=digits", *place, *words]))


@dataclasses.dataclass
class Shapes:
    """As much of a dataset as is asked for."""

    window: tuple[int, int]
    smallest: tuple[int, int] = (1000, 1000)
    evaluation: str = "crop_val"
    channels: int = 1
    class_names: tuple[str, ...] = ("a", "b")


def really(run: RunConfig, shape: tuple[int, ...]) -> bool:
    """Whether the network trains on a batch, in numbers."""
    model = build_model(run.network, build_method(run.loss, run.training, run.compat), 1, run.compat)
    model.grow(2, "random")
    try:
        output = model.train()(torch.zeros(shape))
    except (ValueError, RuntimeError):
        return False
    assert output.logits.shape[-2:] == shape[-2:]
    return bool(output.logits.isfinite().all())


@pytest.mark.parametrize("network", list(NETWORKS))
def test_what_is_said_is_what_happens(config, network):
    run = config(*NETWORKS[network])
    sizes = [(1, 1), (33, 70)] if network in ("deeplab", "transformer") else [(1, 1), (16, 48), (31, 64), (32, 32)]
    for size in sizes:
        before = torch.random.get_rng_state()
        said = fit_faults(run, Shapes(size), 1)
        assert torch.equal(torch.random.get_rng_state(), before)
        assert (not said) == really(run, (1, 1, *size)), size
        if said:
            assert f"of {size[0]}x{size[1]} pixels" in said[0].problem
            assert "dataset.canvas" in said[0].remedy


def test_small_whole_images_are_looked_at_too(config):
    run = config(*NETWORKS["deep"])
    assert not fit_faults(run, Shapes((64, 64), (8, 90)), 4)
    (fault,) = fit_faults(run, Shapes((64, 64), (8, 90), evaluation="full"), 4)
    assert "cannot be measured on an image of 8x64 pixels" in fault.problem
    assert "at least 32 pixels" in fault.problem


@pytest.mark.parametrize(
    ("keys", "images", "batch"),
    [
        ({"batch_size": 8}, [100, 100], 8),
        ({"batch_size": 8}, [100, 3], 3),
        ({"batch_size": 8, "micro_batches": 3}, [100], 2),
        ({"batch_size": 8, "micro_batches": 9}, [100], 1),
        ({"batch_size": 8, "n_gpus": 4}, [100], 2),
        ({"batch_size": 8, "n_gpus": 4}, [2], 1),
    ],
)
def test_the_smallest_batch(keys, images, batch):
    assert smallest_batch(TrainingConfig(**keys), images) == batch


@pytest.mark.parametrize("words", [["training.batch_size=1"], ["training.micro_batches=8"]])
def test_unets_train_on_single_values_per_channel(tiny_config, tiny_digits, words):
    deep = ["network.num_layers=6", "network.width=1", "training.bg_detector=true", "training.split=5-5"]
    run = ContinualRun(tiny_config(*deep, *words, "training.epochs=1", "training.iterations_per_epoch=1"), tiny_digits)
    assert [type(event).__name__ for event in run.events()][-1] == "RunEnded"


def test_too_many_levels_are_refused_before_anything_is_built(tiny_config, tiny_digits):
    with pytest.raises(RequestError, match=r"num_layers=7 halves an image 6 times, .* at least 64 pixels"):
        ContinualRun(tiny_config("network.num_layers=7"), tiny_digits)
