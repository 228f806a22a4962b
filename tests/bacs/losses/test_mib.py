"""MiB on a toy stream; its formulas are tested in test_functional.py."""

from __future__ import annotations

import pytest
import torch

from bacs.compat import CompatConfig
from bacs.losses import functional as L
from bacs.losses.base import MethodOptions
from bacs.losses.mib import MiB, MiBConfig
from tests.bacs.losses.toy import N_OLD, batch_of, context_at, unet


def test_terms_are_the_unbiased_ones():
    context, batch = context_at(1, unet()), batch_of(0, 3, 4, L.IGNORE)
    terms = MiB(MiBConfig()).terms(context, batch)
    p = context.model(batch.images).logits.softmax(dim=1)
    q = context.teacher(batch.images).logits.softmax(dim=1)
    assert terms.keys() == {"unbiased_ce", "distillation"}
    valid = batch.labels != L.IGNORE
    own = p.gather(1, batch.labels.masked_fill(~valid, 0).unsqueeze(1)).squeeze(1)
    own = torch.where(batch.labels == 0, p[:, :N_OLD].sum(dim=1), own)
    assert terms["unbiased_ce"].item() == pytest.approx(-own.log()[valid].mean().item(), rel=1e-5)
    merged = torch.cat([p[:, :1] + p[:, N_OLD:].sum(dim=1, keepdim=True), p[:, 1:N_OLD]], dim=1)
    distillation = -(q * merged.log()).sum(dim=1).mean() / N_OLD
    assert terms["distillation"].item() == pytest.approx(10 * distillation.item(), rel=1e-5)


def test_the_mean_over_all_pixels_is_smaller_by_the_ignored_share():
    batch = batch_of(0, 3, L.IGNORE)
    share = (batch.labels != L.IGNORE).float().mean().item()
    losses = []
    for switch in (False, True):
        method = MiB(MiBConfig(), MethodOptions(compat=CompatConfig(all_pixel_mean=switch)))
        losses.append(method.terms(context_at(1, unet()), batch)["unbiased_ce"].item())
    assert losses[1] == pytest.approx(share * losses[0], rel=1e-5)


def test_annotated_old_classes_are_learnt_as_such():
    """Mode sequential: otherwise they mean "background or any old class"."""
    losses = [
        MiB(MiBConfig()).terms(context_at(1, unet(), old_labels_shown=shown), batch_of(1))["unbiased_ce"].item()
        for shown in (False, True)
    ]
    assert losses[0] < losses[1]
