"""Steps that runs share: what is taken from the store is what would have been computed."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import shutil
import threading

import pytest
import torch

from bacs.checkpoints import CheckpointFolder, stage_name
from bacs.compose import compose
from bacs.config import RunConfig
from bacs.contracts.values import other_value
from bacs.errors import RequestError
from bacs.events import EpochEnded, StepEnded
from bacs.lineage import acting_fields, run_identity, stage_key
from bacs.origin import Origin
from bacs.run import ContinualRun
from bacs.schema import acts_from, measuring
from bacs.stages import StageStore, begin
from tests.conftest import TINY

METHODS = ("bacs", "mib", "plop", "er", "derpp", "lwf", "ilt", "pseudo_label", "crossentropy", "lwf_mc", "sdr")
SPLITS = ("5-1", "6-2", "2-2", "[[0,1,2],[3,4],[5,6,7,8,9]]")


@pytest.fixture(scope="module")
def config_of(digits_cache):
    """Of a method; arguments are further overrides."""

    def make(method, *overrides):
        base = [text for text in TINY if not text.startswith("loss.")]
        return RunConfig.from_dict(
            compose("config", [*base, f"loss={method}", f"dataset.cache={digits_cache}", *overrides])
        )

    return make


@pytest.fixture
def execute(tiny_digits, tmp_path):
    """Runs a configuration to its end, or the end of a step, with or without the store at ``stages``."""

    def make(config, name, *, shares=False, last_step=99):
        resolved = config.resolved
        resolved["training"]["stages"] = str(tmp_path / "stages") if shares else None
        config = RunConfig.from_dict(resolved)
        notes = []
        origin = Origin.of(config)
        folder = CheckpointFolder(tmp_path / name, run_identity(config), notes.append, origin.state)
        run = ContinualRun(config, tiny_digits)
        shared = begin(run, folder, origin, notes.append)
        for event in run.events():
            if isinstance(event, EpochEnded | StepEnded):
                folder.save(run.snapshot())
            if isinstance(event, StepEnded):
                if shared is not None:
                    shared.give(event.step)
                if event.step == last_step:
                    break
        return Ended(run, shared, notes + folder.notes)

    return make


@dataclasses.dataclass
class Ended:
    run: ContinualRun
    shared: object
    notes: list

    def tensors(self):
        return flat({"model": self.run.model.state_dict(), "memory": self.run.memory.state_dict()})

    def points(self):
        return [point[:3] for point in self.run.points if not point.metric.startswith("time/")]


def flat(state, name=""):
    if isinstance(state, torch.Tensor):
        return {name: state}
    return {key: value for part, item in state.items() for key, value in flat(item, f"{name}.{part}").items()}


def assert_same(one, other):
    assert one.points() == other.points()
    mine, theirs = one.tensors(), other.tensors()
    assert mine.keys() == theirs.keys()
    assert [name for name in mine if not torch.equal(mine[name], theirs[name])] == []


def later_values(rng, config):
    """Overrides of some fields of the method that act from step 1 on, or none."""
    settings = config.loss.settings
    fields = [f for f in dataclasses.fields(settings) if acts_from(type(settings))[f.name] == 1]
    chosen = rng.sample(fields, min(len(fields), rng.randint(1, 3)))
    return [f"loss.{f.name}={other_value(type(settings), f, getattr(settings, f.name))}" for f in chosen]


@pytest.mark.slow
@pytest.mark.parametrize("number", range(20))
def test_forked_equals_scratch(number, config_of, execute):
    rng = random.Random(number)
    method, ancestor = METHODS[number % len(METHODS)], rng.choice(METHODS)
    common = [f"training.split={SPLITS[number % len(SPLITS)]}", f"training.seed={rng.randint(0, 99)}"]
    common += rng.choice([[], ["training.mode=disjoint"], ["training.mode=sequential"], ["optimizer=nesterov"]])
    common += ["training.bg_detector=true"] * (number % 3 == 0 or "bacs" in (method, ancestor))
    config = config_of(method, *common)
    config = config_of(method, *common, *later_values(rng, config), *rng.choice([[], ["training.lr_next=0.001"]]))
    first = execute(config_of(ancestor, *common), "ancestor", shares=True)
    forked = execute(config, "forked", shares=True)
    unshared = {"lwf_mc", "sdr"} & {method, ancestor} and method != ancestor
    assert forked.shared.taken >= (0 if unshared else 1)
    assert (forked.shared.keys[0] == first.shared.keys[0]) == (not unshared)
    assert_same(forked, execute(config, "scratch"))


def test_a_run_takes_what_others_have_finished_and_a_damaged_step_is_computed_again(config_of, execute, tmp_path):
    config = config_of("er", "training.split=4-3", "training.epochs=1", "loss.buffer_size=8")
    first = execute(config, "first", shares=True)
    assert first.shared.taken == 0
    same = execute(config, "same", shares=True)
    assert same.shared.taken == first.run.split.n_steps == 3
    assert_same(first, same)

    key = first.shared.keys[2]
    store = StageStore(tmp_path / "stages")
    tensors = store.root / key / "tensors.pt"
    damaged = bytearray(tensors.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    tensors.unlink()
    tensors.write_bytes(damaged)
    again = execute(config, "again", shares=True)
    assert again.shared.taken == 2
    assert "passed over a shared step" in again.notes[0]
    assert "checksum" in again.notes[0]
    assert_same(first, again)
    assert store.has(key)  # given anew
    assert not list(store.root.glob(".*.tmp"))


def test_a_taken_step_outlives_the_store(config_of, execute, tmp_path):
    config = config_of("crossentropy", "training.split=4-3", "training.epochs=1")
    whole = execute(config, "whole", shares=True)
    execute(config, "spared", shares=True)
    shutil.rmtree(tmp_path / "stages")
    resumed = execute(config, "spared")
    assert resumed.notes == []
    assert_same(whole, resumed)


def test_the_size_of_the_memory_belongs_to_no_step_that_has_not_used_it(config_of, execute):
    common = ("training.split=4-3", "training.epochs=1")
    first = execute(config_of("derpp", *common, "loss.buffer_size=4"), "small", shares=True)
    large = config_of("derpp", *common, "loss.buffer_size=12")
    forked = execute(large, "large", shares=True)
    assert forked.shared.taken == 1
    assert len(forked.run.memory) == 12 > len(first.run.memory)
    assert_same(forked, execute(large, "scratch"))
    items = {point.x: point.value for point in forked.run.points if point.metric == "replay/items"}
    assert items == {0: 12.0, 1: 12.0, 2: 12.0}


def test_collection_in_train_mode_belongs_to_the_step(config_of, execute):
    common = ("training.split=4-3", "training.epochs=1", "compat.train_mode_collection=true")
    one, other = (config_of("er", *common, f"loss.buffer_size={size}") for size in (4, 12))
    assert acting_fields(one, 0) != acting_fields(other, 0)
    execute(one, "one", shares=True)
    forked = execute(other, "other", shares=True)
    assert forked.shared.taken == 0


def test_what_is_measured_is_part_of_the_key(config_of, tiny_digits):
    config = config_of("bacs")
    numerics = ContinualRun(config, tiny_digits).numerics
    settings = config.training
    for field in dataclasses.fields(settings):
        if field.name not in measuring(type(settings)):
            continue
        value = other_value(type(settings), field, getattr(settings, field.name))
        other = config_of("bacs", f"training.{field.name}={value}")
        assert run_identity(config) == run_identity(other)
        keys = [stage_key(c, 0, tiny_digits.manifest, numerics) for c in (config, other)]
        assert keys[0] != keys[1], field.name


PASSIVE = ["training.exp_name=x", "training.ckpt_dir=/x", "training.stages=/y", "training.num_workers=0"]


@pytest.mark.parametrize("change", [*PASSIVE, "training.lr_next=0.01", "training.next_epochs=1", "training.split=4-1"])
def test_a_field_that_leaves_the_key_leaves_the_step(change, config_of, execute):
    common = ("training.split=4-2", "training.epochs=1")
    one = execute(config_of("bacs", *common), "one", last_step=0)
    other = execute(config_of("bacs", *common, change), "other", last_step=0)
    manifest, numerics = one.run.data.manifest, one.run.numerics
    assert stage_key(one.run.config, 0, manifest, numerics) == stage_key(other.run.config, 0, manifest, numerics)
    assert_same(one, other)


def steps_of(config, wanted=99):
    """Of each step up to ``wanted``: its key, and what it left."""
    run, found = ContinualRun(config), []
    keys = [stage_key(config, step, run.data.manifest, run.numerics) for step in range(run.split.n_steps)]
    for event in run.events() if wanted >= 0 else ():
        if isinstance(event, StepEnded):
            tensors = {name: value.clone() for name, value in run.model.state_dict().items()}
            metrics = {point.metric: point.value for point in run.points if point.x == event.step}
            kept = {name: metrics[name] for name in metrics if name.startswith("val/") and name != "val/miou"}
            found.append((tensors, kept))
            if event.step == wanted:
                break
    return keys, found


def other_values(config, section):
    """(Field, legal value that is another one) of a section."""
    part = getattr(config, section)
    settings = getattr(part, "settings", part)
    if isinstance(settings, dict):
        yield from ((name, 2 * value) for name, value in settings.items())
        return
    for field in dataclasses.fields(settings):
        if f"{section}.{field.name}" in GIVEN:
            continue
        with contextlib.suppress(LookupError):  # it has one legal value
            yield field.name, other_value(type(settings), field, getattr(settings, field.name), section)


GIVEN = (
    "training.split",
    "training.n_gpus",
    "training.device",
    "training.threads",
    "training.overrides_from_step",
    "dataset.cache",
)
"""Fields whose other values need another machine, or that tests of their own change."""
SECTIONS = ("network", "optimizer", "scheduler", "loss", "training", "compat", "dataset")


@pytest.mark.slow
@pytest.mark.parametrize("section", SECTIONS)
def test_any_field_leaves_a_key_and_its_outcome_or_changes_the_key(section, config_of, digits_cache):
    common = ("training.split=5-5", "training.epochs=1", "training.iterations_per_epoch=2")
    config = config_of("bacs", *common)
    keys, outcomes = steps_of(config)
    tried = 0
    for name, value in other_values(config, section):
        try:
            other = config_of("bacs", *common, f"{section}.{name}={value}")
            other_keys, _ = steps_of(other, wanted=-1)
        except RequestError:  # beside the other settings there is no other value
            continue
        tried += 1
        equal = [step for step, both in enumerate(zip(keys, other_keys, strict=False)) if len(set(both)) == 1]
        assert equal == list(range(len(equal))), f"{name}: a later step cannot be the same alone"
        _, others = steps_of(other, wanted=len(equal) - 1)
        for step in equal:
            (tensors, metrics), (their_tensors, their_metrics) = outcomes[step], others[step]
            different = [key for key in tensors if not torch.equal(tensors[key], their_tensors[key])]
            assert not different, f"{section}.{name}={value} changes step {step}"
            assert metrics == their_metrics, f"{section}.{name}={value} changes step {step}"
    assert tried > 0


def test_many_writers_of_one_stage_leave_one(config_of, execute, tmp_path):
    ended = execute(config_of("crossentropy", "training.split=4-3", "training.epochs=1"), "run", last_step=0)
    store, bundle = StageStore(tmp_path / "many"), tmp_path / "run" / stage_name(0)
    put, preimage = [], {"numerics": {"device": "cpu"}}
    threads = [threading.Thread(target=lambda: put.append(store.put("k", bundle, preimage))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(put) == [False] * 7 + [True]
    assert store.keys() == ["k"]
    assert store.preimage("k") == preimage
    assert store.size("k") > sum(t.numel() for t in ended.tensors().values())
    assert not list(store.root.glob(".*"))
    store.remove("k")
    store.remove("k")
    assert store.keys() == []


LATER = "training.overrides_from_step={2: {loss.lkd: 1.5, loss.alpha: 0.2}}"


def test_a_setting_that_changes_later_leaves_the_steps_before_it(config_of, execute):
    common = ("training.split=4-2", "training.epochs=1")
    base = execute(config_of("bacs", *common), "base", shares=True)
    config = config_of("bacs", *common, LATER)
    assert config.training.overrides_from_step == {"2": {"loss": {"lkd": 1.5, "alpha": 0.2}}}
    forked = execute(config, "forked", shares=True)
    assert forked.shared.taken == 2
    assert forked.shared.keys[:2] == base.shared.keys[:2]
    assert forked.run.method.config.lkd == 1.5
    assert_same(forked, execute(config, "scratch"))
    assert forked.points() != base.points()
    from_the_first = config_of("bacs", *common, "training.overrides_from_step={1: {loss: {lkd: 1.5, alpha: 0.2}}}")
    plainly = execute(config_of("bacs", *common, "loss.lkd=1.5", "loss.alpha=0.2"), "plainly")
    assert execute(from_the_first, "first").points() == plainly.points()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("{0: {loss.lkd: 1}}", "no later step"),
        ("{x: {loss.lkd: 1}}", "no later step"),
        ("{1: {}}", "no later step"),
        ("{1: {network.width: 4}}", "only keys of the loss"),
        ("{1: {loss.det_weight: 1}}", "none that acts from step 1 on"),
        ("{1: {loss.lkd: -1}}", "must be >= 0"),
        ("{9: {loss.lkd: 1}}", "but the split has 5 steps"),
        ("{2: {loss.buffer_size: 3}}", "turns the memory"),
        ("{2: {loss.alpha: 0, loss.beta: 0}}", "turns the memory"),
        ("7", "not dict|no later step"),
    ],
)
def test_faulty_overrides_say_what_is_wrong(config_of, value, words):
    with pytest.raises(RequestError, match=words):
        config_of("bacs", f"training.overrides_from_step={value}")
