from __future__ import annotations

import numpy as np
import pytest

from bacs.compat import CompatConfig
from bacs.lineage import run_identity, stage_key
from bacs.precision import set_up_numerics
from bacs.randomness import derive_seed, epoch_order
from bacs.schema import acts_from


@pytest.fixture(scope="module")
def key(tiny_config, tiny_digits):
    numerics = set_up_numerics("cpu", True, 1)
    return lambda step, *overrides: stage_key(tiny_config(*overrides), step, tiny_digits.manifest, numerics)


@pytest.mark.parametrize(
    "later", ["loss.lkd=1", "loss.prototype_margin=1", "loss.buffer_size=9", "loss.alpha=1", "training.lr_next=0.1"]
)
def test_fields_that_act_later_change_later_keys_only(key, later):
    assert key(0) == key(0, later)
    assert key(1) != key(1, later)


@pytest.mark.parametrize(
    "change",
    ["training.seed=1", "training.batch_size=7", "optimizer.lr=0.1", "network.width=8", "training.epochs=3",
     "loss.det_weight=0.5", "loss.prototypes=class", "training.mode=disjoint", "training.shuffle_classes=true",
     "scheduler.power=1"],
)  # fmt: skip
def test_fields_that_act_at_once_change_every_key(key, change):
    assert key(0) != key(0, change)
    assert key(1) != key(1, change)


@pytest.mark.parametrize(("switch", "first"), acts_from(CompatConfig).items())
def test_every_compat_switch_changes_the_keys_it_declares(key, switch, first):
    on = f"compat.{switch}=true"
    assert (key(0) == key(0, on)) == (first == 1)
    assert key(1) != key(1, on)


def test_splits_with_the_same_first_step_share_it(key):
    assert key(0, "training.split=2-2") == key(0, "training.split=2-1") == key(0, "training.split=2-4")
    assert key(0, "training.split=2-2") != key(0, "training.split=5-5")
    assert key(1, "training.split=2-2") != key(1, "training.split=2-1")


def test_fields_that_never_act_leave_the_identity_alone(tiny_config):
    same = ["training.val_every=2", "training.ckpt_dir=x", "training.eval_batch_size=7", "dataset.cache=/tmp"]
    same.append("training.micro_batches=3")
    assert len({run_identity(tiny_config(text)) for text in same} | {run_identity(tiny_config())}) == 1
    assert run_identity(tiny_config("loss.lkd=1")) != run_identity(tiny_config())


def test_epoch_order_shows_every_image_before_any_twice():
    order = epoch_order(10, 25, 1, 2, 3)
    assert sorted(order[:10]) == sorted(order[10:20]) == list(range(10))
    assert np.array_equal(order, epoch_order(10, 25, 1, 2, 3))
    assert not np.array_equal(order, epoch_order(10, 25, 1, 2, 4))
    assert derive_seed(1, "a") != derive_seed("1a") != derive_seed(1, "a", 0)
