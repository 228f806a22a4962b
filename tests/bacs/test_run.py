"""The staged run: what it yields, that it resumes bit by bit, and that it is the method it claims to be."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from bacs.bundle import load_bundle, save_bundle
from bacs.checkpoints import CheckpointFolder, Snapshot
from bacs.errors import RequestError
from bacs.events import EpochEnded, RunEnded, StepEnded, by_name
from bacs.run import ContinualRun, DivergedError

SPLIT = "training.split=5-5"


def finish(run: ContinualRun) -> RunEnded:
    for event in run.events():
        last = event
    assert isinstance(last, RunEnded)
    return last


def weights(run: ContinualRun) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in run.model.state_dict().items()}


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert not different


@pytest.mark.parametrize(
    "overrides",
    [
        ["loss=bacs"],
        ["loss=crossentropy"],
        ["loss=bacs", "training.mixed_precision=false", "optimizer=nesterov", "loss.buffer_policy=loss_balanced"],
        ["loss=bacs", "training.mode=sequential", "loss.detector_source=student_eval", "loss.lkd_mode=cos"],
        ["loss=bacs", "loss.prototypes=class"],
        ["loss=bacs", "training.mode=disjoint", "loss.buffer_policy=reservoir", "loss.lkd_mode=l2"],
        ["loss=bacs_ref", "compat=reference", "training.new_head_init=mib"],
    ],
    ids=" ".join,
)
def test_resumed_at_every_epoch_is_bit_identical(tiny_config, tiny_digits, tmp_path, overrides):
    """Each boundary is taken by a fresh run that loads the checkpoint from disk."""
    config = tiny_config(SPLIT, *overrides)
    whole = ContinualRun(config, tiny_digits)
    final = finish(whole)
    folder = CheckpointFolder(tmp_path / "checkpoints", "same")
    hops = 0
    while True:
        run = ContinualRun(config, tiny_digits)
        run.restore(CheckpointFolder(tmp_path / "checkpoints", "same").latest())
        event = next(run.events())
        if isinstance(event, RunEnded):
            break
        folder.save(run.snapshot())
        hops += 1
    assert hops == 6  # two steps of two epochs, and their ends
    assert event.final == final.final
    assert_same(weights(whole), weights(run))
    untimed = [(p.metric, p.x, p.value) for p in whole.points if not p.metric.startswith("time/")]
    assert untimed == [(p.metric, p.x, p.value) for p in run.points if not p.metric.startswith("time/")]


def test_events_tell_every_metric_of_a_step(tiny_config, tiny_digits):
    run = ContinualRun(tiny_config(SPLIT), tiny_digits)
    events = list(run.events())
    steps = [event for event in events if isinstance(event, StepEnded)]
    epochs = [event for event in events if isinstance(event, EpochEnded)]
    assert [type(event).__name__ for event in events] == ["EpochEnded", "EpochEnded", "StepEnded"] * 2 + ["RunEnded"]
    assert [event.epochs_done for event in epochs] == [1, 2, 3, 4]
    assert list(steps[0].class_iou) == ["background", "0", "1", "2", "3", "4"]
    last = by_name(steps[1].points)
    expected = {
        "miou/all",
        "miou/base",
        "miou/novel",
        "miou/old",
        "miou/new",
        "forgetting",
        "replay/items",
        "replay/mb",
    }
    expected |= {
        "val/miou_all",
        "val/miou_base",
        "val/miou_novel",
        "time/step_seconds",
        "time/step_cpu_seconds",
        "class_iou/9",
        "detector/auroc",
    }
    assert expected <= last.keys()
    assert {"miou/old", "miou/novel", "forgetting"}.isdisjoint(by_name(steps[0].points))
    base = [steps[1].class_iou[name] for name in ("background", "0", "1", "2", "3", "4")]
    assert last["miou/base"] == pytest.approx(np.mean(base))
    assert last["miou/all"] == pytest.approx(np.mean(list(steps[1].class_iou.values())))
    final = events[-1].final
    assert final["final/miou"] == last["miou/all"]
    assert final["final/val_miou"] == last["val/miou_all"]
    assert final["final/miou_avg"] == pytest.approx((by_name(steps[0].points)["miou/all"] + last["miou/all"]) / 2)


def test_training_terms_are_those_of_the_method(tiny_config, tiny_digits):
    run = ContinualRun(tiny_config(SPLIT), tiny_digits)
    terms = {}
    for event in run.events():
        if isinstance(event, EpochEnded):
            terms[event.step] = {p.metric for p in event.points if p.metric.startswith("train/")}
    assert terms[0] == {"train/loss", "train/cross_entropy", "train/detector"}
    replayed = {"train/replay_logits", "train/replay_labels"}
    assert terms[1] == {"train/loss", "train/bacs_ce", "train/detector", "train/distillation"} | replayed


def test_teacher_stays_as_it_was_and_memory_reproduces_its_logits(tiny_config, tiny_digits):
    """Annex B.8 and B.5: the teacher never moves; a stored image run through it again gives the stored logits."""
    run = ContinualRun(tiny_config(SPLIT), tiny_digits)
    teacher = None
    for event in run.events():
        if isinstance(event, StepEnded) and event.step == 0:
            end_of_step_0 = weights(run)
        if isinstance(event, EpochEnded) and event.step == 1:
            teacher = run.teacher
    assert teacher is not None
    assert_same(end_of_step_0, teacher.state_dict())
    assert not teacher.training
    assert not any(p.requires_grad for p in teacher.parameters())
    stored = run.memory.state_dict()
    with torch.no_grad(), run.numerics.autocast():
        logits = teacher(run.stream.to_device(stored["images"])).sem_logits.float()
    torch.testing.assert_close(logits, stored["logits"][:, :6].float(), atol=2e-2, rtol=2e-2)
    assert stored["n_logits"].tolist() == [6] * len(run.memory)


def test_replayed_labels_are_those_of_their_step_only(tiny_config, tiny_digits):
    run = ContinualRun(tiny_config("training.split=2-2"), tiny_digits)
    finish(run)
    state = run.memory.state_dict()
    for step, labels in zip(state["step"].tolist(), state["labels"], strict=True):
        allowed = {0, 2 * step + 1, 2 * step + 2}
        assert set(labels.unique().tolist()) <= allowed
    assert set(run.memory.step_histogram()) == {0, 1, 2, 3}  # the last step is not remembered


def test_joint_is_one_step_grouped_by_the_split_it_is_the_reference_of(tiny_config, tiny_digits):
    run = ContinualRun(tiny_config("loss=crossentropy", "training.mode=joint", "training.split=2-2"), tiny_digits)
    events = list(run.events())
    steps = [event for event in events if isinstance(event, StepEnded)]
    assert len(steps) == 1
    values = by_name(steps[0].points)
    iou = list(steps[0].class_iou.values())
    assert values["miou/base"] == pytest.approx(np.mean(iou[:3]))
    assert values["miou/novel"] == pytest.approx(np.mean(iou[3:]))
    assert events[-1].final["final/forgetting"] == 0.0


def test_zero_weights_make_bacs_inert_terms_disappear(tiny_config, tiny_digits):
    off = ["loss.lkd=0", "loss.alpha=0", "loss.beta=0"]
    run = ContinualRun(tiny_config(SPLIT, *off), tiny_digits)
    for event in run.events():
        if isinstance(event, EpochEnded) and event.step == 1:
            terms = {p.metric for p in event.points if p.metric.startswith("train/")}
    assert terms == {"train/loss", "train/bacs_ce", "train/detector"}
    assert len(run.memory) == 0


@pytest.mark.parametrize(
    "change",
    ["loss.buffer_size=7", "loss.prototype_margin=1.0", "loss.lkd=3.0", "loss.alpha=0.1", "training.lr_next=0.01"],
)
def test_knobs_declared_to_act_later_leave_step_0_alone(tiny_config, tiny_digits, change):
    states = []
    low_margin = "loss.prototype_margin=-4"  # so that the few iterations of this test distil some pixels
    for overrides in ([low_margin], [low_margin, change]):
        run = ContinualRun(tiny_config(SPLIT, *overrides), tiny_digits)
        for event in run.events():
            if isinstance(event, StepEnded):
                states.append(weights(run))
    assert_same(states[0], states[2])
    assert any(not torch.equal(states[1][name], states[3][name]) for name in states[1])


def test_diverging_loss_is_an_error_with_its_place(tiny_config, tiny_digits):
    run = ContinualRun(tiny_config(SPLIT, "optimizer=nesterov", "optimizer.lr=1e30"), tiny_digits)
    with pytest.raises(DivergedError, match="step 0, epoch"):
        finish(run)


def test_a_step_without_images_is_refused(tiny_config):
    with pytest.raises(RequestError, match="no training image falls into step 0"):
        ContinualRun(tiny_config("training.mode=disjoint", "training.split=1-1", "dataset.train_scenes=3"))


def test_bundle_refuses_damage(tmp_path):
    save_bundle(tmp_path / "b", {"x": torch.arange(3)}, {"n": 1})
    assert load_bundle(tmp_path / "b")[1] == {"n": 1}
    for name in ("tensors.pt", "meta.json"):
        path = tmp_path / "b" / name
        good = path.read_bytes()
        for position in range(0, len(good), max(1, len(good) // 40)):
            bad = bytearray(good)
            bad[position] ^= 1
            path.write_bytes(bytes(bad))
            with pytest.raises(Exception, match=r"checksum|Error"):
                load_bundle(tmp_path / "b")
        path.write_bytes(good)
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_damaged_checkpoint_falls_back_to_the_one_before(tmp_path):
    folder = CheckpointFolder(tmp_path, "id")
    for epoch in (1, 2, 3):
        folder.save(Snapshot(0, epoch, {"x": torch.tensor(epoch)}, {}))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch-000-00002", "epoch-000-00003"]
    (tmp_path / "epoch-000-00003" / "tensors.pt").write_bytes(b"")
    fresh = CheckpointFolder(tmp_path, "id")
    assert [snapshot.epoch for snapshot in fresh.latest()] == [2]
    assert "epoch-000-00003" in fresh.notes[0]
    assert CheckpointFolder(tmp_path, "another").latest() == []


def test_final_metrics_are_finite(tiny_config, tiny_digits):
    final = finish(ContinualRun(tiny_config(SPLIT), tiny_digits)).final
    assert all(math.isfinite(value) for value in final.values())
