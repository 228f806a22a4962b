"""Every key of ``training`` changes what it says it changes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from bacs.compose import compose
from bacs.config import RunConfig
from bacs.errors import RequestError
from bacs.events import EpochEnded, StepEnded, by_name
from bacs.loading import read_batches, worker_count
from bacs.networks import UNet
from bacs.optimisation import StepOptimizer
from bacs.precision import set_up_numerics
from bacs.run import ContinualRun
from bacs.schedules import Cyclic, CyclicConfig, Exponential, Poly, WarmupPoly
from bacs.training_config import TrainingConfig

FT = ["loss=crossentropy", "training.split=5-5"]


def lrs(run: ContinualRun) -> list[tuple[int, float]]:
    """(step, learning rate) of every optimisation step."""
    seen: list[tuple[int, float]] = []
    finish = StepOptimizer.finish

    def noted(self: StepOptimizer) -> None:
        seen.append((run.steps_done, self.lr))
        finish(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StepOptimizer, "finish", noted)
        for _ in run.events():
            pass
    return seen


def test_epochs_iterations_and_learning_rates(tiny_config, tiny_digits):
    options = ["training.epochs=2", "training.next_epochs=1", "training.lr_next=0.001", "scheduler=constant"]
    taken = lrs(ContinualRun(tiny_config(*FT, *options, "optimizer.lr=0.01"), tiny_digits))
    assert taken == [(0, 0.01)] * 6 + [(1, 0.001)] * 3


def test_steps_per_class_takes_the_place_of_epochs(tiny_config, tiny_digits):
    split = "training.split=[[0,1,2,3,4,5,6],[7,8],[9]]"
    run = ContinualRun(tiny_config("loss=crossentropy", split, "training.steps_per_class=2"), tiny_digits)
    steps = [step for step, _ in lrs(run)]
    assert [steps.count(step) for step in range(3)] == [14, 4, 2]
    assert run.epochs_total == 5 + 2 + 1, "epochs of three iterations, the last of a step shorter"


@pytest.mark.parametrize(
    ("interval", "frequency", "positions"),
    [("step", 1, [0, 1, 2, 3, 4, 5]), ("step", 2, [0, 0, 1, 1, 2, 2]), ("epoch", 1, [0, 0, 0, 1, 1, 1])],
)
def test_scheduler_interval_and_frequency(tiny_config, tiny_digits, interval, frequency, positions):
    options = [f"training.scheduler_interval={interval}", f"training.scheduler_frequency={frequency}"]
    config = tiny_config(*FT, *options, "scheduler=exponential", "scheduler.gamma=0.5", "optimizer.lr=0.01")
    taken = [lr for step, lr in lrs(ContinualRun(config, tiny_digits)) if step == 0]
    assert taken == pytest.approx([0.01 * 0.5**position for position in positions])


def test_schedules_at_known_positions():
    poly = Poly(Poly.Config())
    values = {0: 0.01, 100: 0.009095, 500: 0.005359, 900: 0.001259, 999: 2.0e-5}  # method spec 6.2
    assert [0.01 * poly.factor(i, 1000) for i in values] == pytest.approx(list(values.values()), abs=5e-7)
    warm = WarmupPoly(WarmupPoly.Config(floor=0.2))
    assert [warm.factor(i, 100) for i in (0, 5, 10, 99)] == pytest.approx([1e-3, 0.5005, 1.0, 0.2])
    assert Exponential(Exponential.Config()).factor(3, 10) == pytest.approx(0.729)
    cyclic = Cyclic(CyclicConfig(step_size_up=4, step_size_down=2))
    assert [cyclic.factor(i, 100) for i in range(8)] == pytest.approx([0.1, 0.325, 0.55, 0.775, 1, 0.55, 0.1, 0.325])


def test_accumulated_batches_make_the_gradient_of_one_big_batch(tiny_config, tiny_digits):
    """Without batch norm's statistics in the way: eval mode, every pixel labelled."""
    gradients = {}
    for size, parts in ((6, 1), (2, 3)):
        options = [f"training.batch_size={size}", f"training.accumulate_gradients={parts}"]
        run = ContinualRun(tiny_config(*FT, *options, "training.mixed_precision=false"), tiny_digits)
        run._begin_step(0)
        run.model.eval()
        optimizer = run._optimizer_of_step()
        optimizer.begin(0, 0)
        view = run.stream.training_view(0)
        for batch in run.stream.shuffled(view, parts, size, 0, 0):
            optimizer.add(run.method.terms(run._context(0, 0), batch))
        gradients[parts] = torch.cat([p.grad.flatten() for p in run.model.parameters()])
    torch.testing.assert_close(gradients[3], gradients[1], rtol=1e-4, atol=1e-6)
    config = tiny_config(*FT, "training.accumulate_gradients=3", "training.iterations_per_epoch=null")
    run = ContinualRun(config, tiny_digits)
    assert run._lengths[0][0] == max(1, len(run.stream.training_view(0)) // 18)


def test_gradient_clipping(tiny_config, tiny_digits):
    sizes = {}
    for algorithm, limit in (("value", "1e-4"), ("norm", "1e-4"), ("value", "null")):
        options = [f"training.gradient_clip_val={limit}", f"training.gradient_clip_algorithm={algorithm}"]
        run = ContinualRun(tiny_config(*FT, *options, "training.iterations_per_epoch=1"), tiny_digits)
        next(run.events())
        flat = torch.cat([p.grad.flatten() for p in run.model.parameters()])
        sizes[algorithm, limit] = (float(flat.abs().max()), float(flat.norm()))
    assert sizes["value", "1e-4"][0] == pytest.approx(1e-4)
    assert sizes["value", "1e-4"][1] > 1e-4
    assert sizes["norm", "1e-4"][1] == pytest.approx(1e-4, rel=1e-3)
    assert sizes["value", "null"][0] > 1e-3


def test_val_every(tiny_config, tiny_digits):
    run = ContinualRun(tiny_config(*FT, "training.epochs=5", "training.val_every=2"), tiny_digits)
    measured = [
        event.epoch
        for event in run.events()
        if isinstance(event, EpochEnded) and event.step == 0 and "val/miou" in by_name(event.points)
    ]
    assert measured == [2, 4, 5]


def test_seed_and_shuffled_classes(tiny_config, tiny_digits):
    orders = [
        ContinualRun(tiny_config(*FT, f"training.seed={seed}", f"training.shuffle_classes={shuffle}"), tiny_digits)
        for seed, shuffle in ((1, False), (2, False), (1, True), (2, True))
    ]
    plain, same, one, two = (run.split.class_order for run in orders)
    assert plain == same == tuple(range(1, 11))
    assert len({plain, one, two}) == 3
    weights = [next(iter(run.model.parameters())) for run in orders]
    assert not torch.equal(weights[0], weights[1])
    assert torch.equal(weights[0], weights[2])


def test_debug_and_sweep_shorten_a_run(tiny_config, tiny_digits):
    config = tiny_config(*FT, "training.debug=true", "training.iterations_per_epoch=50", "training.epochs=1")
    run = ContinualRun(config, tiny_digits)
    assert [len(lr) for lr in run._lengths] == [1, 1]
    assert len(lrs(run)) == 6
    assert len(run.stream.seen_view("test", 1)) == 6
    whole = ContinualRun(tiny_config(*FT), tiny_digits).stream.training_view(0)
    tenth = ContinualRun(tiny_config(*FT, "training.sweep=true"), tiny_digits).stream.training_view(0)
    again = ContinualRun(tiny_config(*FT, "training.sweep=true"), tiny_digits).stream.training_view(0)
    assert len(tenth) == round(0.1 * len(whole))
    assert set(tenth.indices) < set(whole.indices)
    assert np.array_equal(tenth.indices, again.indices)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_tf32():
    a = torch.randn(512, 512, device="cuda")
    exact, rounded = (_product(a, allowed) for allowed in (False, True))
    reference = a.double() @ a.double()
    assert (rounded - reference).abs().max() > 3 * (exact - reference).abs().max()


def _product(a: torch.Tensor, allow_tf32: bool) -> torch.Tensor:
    set_up_numerics("cuda", False, 1, allow_tf32=allow_tf32)
    return (a @ a).double()


def test_mixed_precision():
    on, off = (set_up_numerics("cpu", mixed, 1) for mixed in (True, False))
    with off.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
    with on.autocast():
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == (torch.bfloat16 if on.mixed else torch.float32)


def test_num_workers_reads_the_same_batches(tiny_config, tiny_digits):
    run = ContinualRun(tiny_config(*FT), tiny_digits)
    view = run.stream.training_view(0)
    picks = [(np.arange(i, i + 3), np.arange(3)) for i in range(5)]
    alone, helped = (list(read_batches(view, picks, workers, pin=False)) for workers in (0, 2))
    assert len(helped) == 5
    for (images, labels), (others, other_labels) in zip(alone, helped, strict=True):
        assert torch.equal(images, others)
        assert torch.equal(labels, other_labels)
    assert worker_count("auto", in_memory=True, cores=16) == 0
    assert worker_count("auto", in_memory=False, cores=16) == 8
    assert worker_count(3, in_memory=True, cores=1) == 3


def test_bg_detector_beside_fine_tuning_and_in_joint_mode(tiny_config, tiny_digits):
    for mode in ("overlap", "joint"):
        options = ["loss=crossentropy", "training.split=5-5", f"training.mode={mode}"]
        with_detector = ContinualRun(tiny_config(*options, "training.bg_detector=true"), tiny_digits)
        ended = [event for event in with_detector.events() if isinstance(event, StepEnded)]
        names = {name for event in ended for name in by_name(event.points)}
        assert "detector/auroc" in names
        assert float(with_detector.model.detector.prototypes.counts.min()) > 0
        assert ContinualRun(tiny_config(*options), tiny_digits).model.detector is None
    bacs = ContinualRun(tiny_config("loss=bacs", "training.mode=joint"), tiny_digits)
    assert {name for event in bacs.events() for name in by_name(getattr(event, "points", []))} >= {"train/detector"}


def test_bacs_without_detector_distils_all_background(tiny_config, tiny_digits):
    options = ["loss=bacs", "training.split=5-5", "training.bg_detector=false"]
    with pytest.raises(RequestError, match=r"training\.bg_detector"):
        tiny_config(*options)
    run = ContinualRun(tiny_config(*options, "loss.bg_weighted_ce=false"), tiny_digits)
    assert run.model.detector is None
    points = [by_name(event.points) for event in run.events() if isinstance(event, EpochEnded) and event.step == 1]
    assert points[0]["train/distillation"] > 0


def test_head_and_token_initialisation_reach_the_network(tiny_config, tiny_digits):
    starts = {}
    for init in ("mib", "random"):
        run = ContinualRun(tiny_config(*FT, f"training.new_head_init={init}"), tiny_digits)
        run._begin_step(0)
        run._begin_step(1)
        assert isinstance(run.model.network, UNet)
        old, new = run.model.network.head.heads
        starts[init] = torch.equal(new.weight, old.weight[:1].expand_as(new.weight))
    assert starts == {"mib": True, "random": False}
    transformer = ["network=transformer", "network.depth=50", "network.crop_size=32", "network.hidden_dim=16"]
    values = compose("config", [*transformer, "network.nhead=2", *FT, "training.new_token_init=background"])
    run = ContinualRun(RunConfig.from_dict(values), tiny_digits)
    assert run._growth_init() == "background"


def test_keys_of_the_original(tiny_values):
    values = tiny_values("+training.initial_increment=6", "+training.increment=2", "training.apex=true")
    config = RunConfig.from_dict(values)
    assert config.training.split == "6-2"
    assert "native mixed precision" in config.notes[0]
    for key, value in (("learner", "{_target_: x}"), ("val_on_train", "true"), ("increment", "2")):
        with pytest.raises(RequestError, match=rf"training\.{key}"):
            RunConfig.from_dict(tiny_values(f"+training.{key}={value}"))
    with pytest.raises(RequestError, match=r"training\.num_workers"):
        RunConfig.from_dict(tiny_values("training.num_workers=many"))
    with pytest.raises(RequestError, match="share evenly"):
        RunConfig.from_dict(tiny_values("training.n_gpus=4"))
    with pytest.raises(RequestError, match=r"scheduler\.base_lr"):
        RunConfig.from_dict(tiny_values("scheduler=cyclic", "scheduler.base_lr=1"))


def test_retired_keys_say_what_to_write_instead(tmp_path):
    asked = {
        "dataset=voc dataset.domain_shift=true": "cityscapes_domain",
        "dataset=cityscapes dataset.password=secret": "CITYSCAPES_PASSWORD",
        "loss.seen_threshold=0.7": "loss.prototype_margin",
        "loss.replay_minibatch_size=4": "loss.replay_batch_size",
        "network=deep_lab network.aux=true": "leave it out",
        "network=transformer network.transformer.nhead=4": "network.hidden_dim",
        "network.n_channels=3": "1 channel",
    }
    for text, remedy in asked.items():
        *_, last = overrides = text.split()
        with pytest.raises(RequestError) as caught:
            RunConfig.from_dict(compose("config", [f"dataset.cache={tmp_path}", *overrides]))
        key = last.split("=")[0].replace("network.transformer.nhead", "network.transformer")
        (fault,) = (fault for fault in caught.value.faults if fault.where == key)
        assert remedy in fault.problem + fault.remedy
        assert "secret" not in str(caught.value)
    same = RunConfig.from_dict(compose("config", [f"dataset.cache={tmp_path}", "network.n_channels=1"]))
    assert same.network.settings.n_channels == 1
    assert RunConfig.from_dict(compose("config", ["network=transformer", f"dataset.cache={tmp_path}"]))


def test_every_key_is_tested_somewhere():
    """A new key fails here until a test says what it changes."""
    here = {field.name for field in dataclasses.fields(TrainingConfig)}
    elsewhere = {
        "split", "mode",  # tests/bacs/data, test_run.py
        "device", "threads",  # test_lineage.py, test_run.py
        "eval_batch_size",  # test_run.py
        "name", "exp_name", "ckpt_dir",  # test_command_line.py
        "stages", "overrides_from_step",  # test_stages.py
        "any_device",  # test_origin.py
        "n_gpus",  # test_launch.py
        "micro_batches",  # test_micro_batches.py
        "log_images", "log_prototypes", "log_drift",  # test_media.py
        "log_animation",  # test_animation.py
    }  # fmt: skip
    tested = {
        "epochs", "next_epochs", "iterations_per_epoch", "steps_per_class", "batch_size", "accumulate_gradients",
        "lr_next", "scheduler_interval", "scheduler_frequency", "gradient_clip_val", "gradient_clip_algorithm",
        "new_head_init", "new_token_init", "bg_detector", "mixed_precision", "allow_tf32", "apex", "num_workers",
        "val_every", "debug", "sweep", "seed", "shuffle_classes",
    }  # fmt: skip
    assert here == elsewhere | tested
