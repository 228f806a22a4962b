from __future__ import annotations

import dataclasses

import pytest

from bacs.compose import compose
from bacs.config import RunConfig
from bacs.errors import RequestError
from bacs.schema import knob, parse


def faults_of(*overrides: str) -> dict[str, str]:
    with pytest.raises(RequestError) as caught:
        RunConfig.from_dict(compose("config", ["dataset.cache=/tmp", *overrides]))
    return {fault.where: f"{fault.problem} -> {fault.remedy}" for fault in caught.value.faults}


@pytest.mark.parametrize(
    ("override", "where", "words"),
    [
        ("loss.bufer_size=3", "loss.bufer_size", ["not a known key", "did you mean loss.buffer_size"]),
        ("loss.lkd=-1", "loss.lkd", ["-1", "must be >= 0"]),
        ("loss.lkd=much", "loss.lkd", ["'much'", "float"]),
        ("loss.buffer_size=1.5", "loss.buffer_size", ["1.5", "int"]),
        ("loss.lkd_mode=l1", "loss.lkd_mode", ["'l1'", "ref, l2, cos"]),
        ("loss.lkd=inf", "loss.lkd", ["inf", "finite"]),
        ("training.epochs=true", "training.epochs", ["True", "int"]),
        ("training.mode=overlapped", "training.mode", ["overlap, disjoint, sequential, joint"]),
        ("training.split=3-2", "training.split", ["divisible by 2", "2-2"]),
        ("optimizer.momentun=0.9", "optimizer.momentun", ["not an argument of AdamW", "weight_decay"]),
        ("optimizer.lr=0", "optimizer.lr", ["0", "> 0"]),
        ("optimizer.betas=[2,3]", "optimizer", ["AdamW refuses"]),
        ("loss._target_=os.system", "loss._target_", ["os.system", "must start with bacs."]),
        ("loss._target_=bacs.losses.bacs.Nothing", "loss._target_", ["Nothing", "correct the class path"]),
        ("dataset.digit_size=70", "dataset.canvas", ["60", "70"]),
        ("dataset.source=mnist", "dataset.root", ["mnist"]),
        ("trainin.epochs=3", "trainin", ["not a configuration group", "training"]),
        ("training=5", "training", ["no choice of this group"]),
    ],
)
def test_a_fault_names_value_rule_and_remedy(override, where, words):
    faults = faults_of(override)
    assert where in faults
    for word in words:
        assert word in faults[where] or word in where


def test_all_faults_are_told_together():
    faults = faults_of("loss.lkd=-1", "loss.nope=1", "training.split=9-9", "optimizer.lr=0", "dataset.digit_size=99")
    assert {"loss.lkd", "loss.nope", "training.split", "optimizer.lr", "dataset.canvas"} <= faults.keys()


def test_unknown_choices_and_text_that_is_no_override():
    known = "bacs, bacs_ref, crossentropy, der, derpp, er, feature_distillation, ilt, lwf, lwf_mc, mib, "
    assert known + "output_distillation, plop, pseudo_label, sdr" in faults_of("loss=bax")["loss"]
    assert "KEY=VALUE" in faults_of("what")["what"]


def test_resolved_configuration_rebuilds_itself():
    values = compose("config", ["loss.lkd=1e-3", "+training.exp_name=x", "dataset.cache=/tmp"])
    config = RunConfig.from_dict(values)
    assert config.loss.settings.lkd == 0.001
    assert config.training.exp_name == "x"
    assert RunConfig.from_dict(config.resolved).resolved == config.resolved


def test_own_configuration_files_may_use_the_shipped_groups(tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "defaults: [{dataset: digits}, {network: unet}, {optimizer: nesterov}, {scheduler: constant}, "
        "{loss: crossentropy}, {training: default}, _self_]\ntraining: {epochs: 7}\n"
    )
    config = RunConfig.from_dict(compose("mine", ["dataset.cache=/tmp"], tmp_path))
    assert config.training.epochs == 7
    assert config.optimizer.settings["nesterov"] is True
    with pytest.raises(RequestError, match="known: mine"):
        compose("other", [], tmp_path)


def test_a_required_field_is_asked_for():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Schema:
        name: str = knob()
        sizes: list[int] = knob([1], ge=1)

    with pytest.raises(RequestError, match=r"x.name: is required"):
        parse(Schema, {}, "x")
    with pytest.raises(RequestError, match=r"x.sizes: is 0, but must be >= 1"):
        parse(Schema, {"name": "a", "sizes": [2, 0]}, "x")
    assert parse(Schema, {"name": "a"}, "x").sizes == [1]
