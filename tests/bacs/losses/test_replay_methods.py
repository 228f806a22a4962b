"""ER, DER and DER++: which part of a draw from memory enters which term."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from bacs.losses import functional
from bacs.losses.der import DarkReplay, DerConfig
from bacs.losses.derpp import DarkReplayPlusPlus, DerppConfig
from bacs.losses.er import ErConfig, ExperienceReplay
from bacs.replay import ReplayBatch
from tests.bacs.losses.toy import N_CLASSES, N_OLD, batch_of, context_at, unet


@pytest.fixture
def context():
    """Step 1 in eval mode, so that one forward pass does not change the next."""
    found = context_at(1, unet())
    found.model.eval()
    return found


def draw(count: int = 4) -> ReplayBatch:
    remembered = batch_of(0, 1, 2, functional.IGNORE, count=count)
    logits = torch.randn(count, N_CLASSES, 16, 16, generator=torch.Generator().manual_seed(2))
    return ReplayBatch(remembered.images, remembered.labels, logits, torch.full((count,), N_OLD))


def terms_of(method, context, replay):
    return method.terms(context, dataclasses.replace(batch_of(0, 3, 4), replay=replay))


def squares(logits, replay, channels):
    return (logits - replay.logits)[:, channels].square().mean()


def label_loss(logits, labels, kept):
    """Mean cross-entropy over the pixels labelled with one of ``kept``."""
    log_p = logits.log_softmax(dim=1)
    chosen = torch.isin(labels, torch.tensor(kept))
    own = log_p.gather(1, labels.masked_fill(~chosen, 0).unsqueeze(1)).squeeze(1)
    return -own[chosen].mean()


@pytest.mark.parametrize("method", [ExperienceReplay, DarkReplay, DarkReplayPlusPlus])
def test_without_a_draw_it_is_fine_tuning(context, method):
    terms = terms_of(method(method.Config()), context, None)
    assert terms.keys() == {"cross_entropy"}
    batch = batch_of(0, 3, 4)
    torch.testing.assert_close(
        terms["cross_entropy"], functional.cross_entropy(context.model(batch.images).logits, batch.labels)
    )


@pytest.mark.parametrize(("ignore", "kept"), [(True, [1, 2]), (False, [0, 1, 2])])
def test_er_reads_the_labels_of_the_old_classes_or_all(context, ignore, kept):
    replay = draw()
    terms = terms_of(ExperienceReplay(ErConfig(alpha=0.5, ignore_rep_bg=ignore)), context, replay)
    expected = 0.5 * label_loss(context.model(replay.images).logits, replay.labels, kept)
    torch.testing.assert_close(terms["replay_labels"], expected)


@pytest.mark.parametrize(("ignore", "channels"), [(True, [1, 2]), (False, [0, 1, 2])])
def test_der_compares_the_logits_that_were_stored(context, ignore, channels):
    replay = draw()
    terms = terms_of(DarkReplay(DerConfig(alpha=0.5, ignore_rep_bg=ignore)), context, replay)
    expected = 0.5 * squares(context.model(replay.images).replay_logits, replay, channels)
    torch.testing.assert_close(terms["replay_logits"], expected)


@pytest.mark.parametrize(("ignore", "kept"), [(True, [1, 2]), (False, [0, 1, 2])])
def test_derpp_takes_logits_of_one_draw_and_labels_of_another(context, ignore, kept):
    method = DarkReplayPlusPlus(DerppConfig(alpha=0.5, beta=2.0, ignore_rep_bg=ignore))
    assert method.replay_batch_size(2) == 4
    replay = draw(4)
    terms = terms_of(method, context, replay)
    output = context.model(replay.images)
    first = dataclasses.replace(replay, logits=replay.logits[:2])
    torch.testing.assert_close(terms["replay_logits"], 0.5 * squares(output.replay_logits[:2], first, kept))
    torch.testing.assert_close(terms["replay_labels"], 2 * label_loss(output.logits[2:], replay.labels[2:], kept))


@pytest.mark.parametrize(
    ("config", "count", "names"),
    [
        (DerppConfig(beta=0.0), 2, {"cross_entropy", "replay_logits"}),
        (DerppConfig(alpha=0.0), 2, {"cross_entropy", "replay_labels"}),
        (DerppConfig(replay_batch_size=5), 10, {"cross_entropy", "replay_logits", "replay_labels"}),
    ],
)
def test_a_weight_of_0_needs_no_draw(context, config, count, names):
    method = DarkReplayPlusPlus(config)
    assert method.replay_batch_size(2) == count
    assert method.memory == (300, "reservoir")
    assert terms_of(method, context, draw(count)).keys() == names


@pytest.mark.parametrize(
    "method",
    [
        ExperienceReplay(ErConfig(alpha=0.0)),
        DarkReplay(DerConfig(alpha=0.0)),
        DarkReplayPlusPlus(DerppConfig(alpha=0.0, beta=0.0)),
    ],
)
def test_without_weight_nothing_is_remembered(method):
    assert method.memory[0] == 0


@pytest.mark.parametrize("method", [ExperienceReplay, DarkReplay, DarkReplayPlusPlus])
def test_in_streams_of_domains_label_0_is_a_class_like_any_other(context, method):
    """They bring no new class, and nothing is background."""
    domains = dataclasses.replace(context, step_of_class=np.zeros(N_CLASSES, dtype=int), old_classes=N_CLASSES)
    replay = draw()
    different = []
    for place in (context, domains):
        values = [terms_of(method(method.Config(ignore_rep_bg=ignore)), place, replay) for ignore in (False, True)]
        different.append([name for name in values[0] if values[0][name] != values[1][name]])
    assert different[0]
    assert not different[1]
