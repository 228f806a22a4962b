"""SDR: its class prototypes, which labels feed which term, and the terms of both steps."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from bacs.compat import CompatConfig
from bacs.losses import functional
from bacs.losses.base import MethodOptions
from bacs.losses.sdr import ClassPrototypes, Sdr, SdrConfig, labelled_classes, old_classes_of, prototypes_of
from tests.bacs.losses.toy import batch_of, context_at, unet

IGNORE = functional.IGNORE
FEATURE_TERMS = {
    "matching": "loss_de_prototypes",
    "attraction": "loss_fc",
    "repulsion": "lfc_sep_clust",
    "sparsity": "loss_featspars",
}


def at(step: int, method: Sdr, **kwargs):
    """The context of `toy`, with the state of the method."""
    network = unet()
    context = context_at(step, network, **kwargs)
    state = method.build_state(network)
    state.grow(2)
    if step == 1:
        state.update(torch.rand(2, network.bottleneck_channels, 4, 4), torch.randint(0, 3, (2, 4, 4)))
        state.grow(2)
    context.model.state = state
    return context


def test_prototypes_are_the_means_over_all_batches():
    state = ClassPrototypes(2)
    state.grow(1)
    first = torch.tensor([[[[1.0, 3.0]], [[2.0, 4.0]]]])  # (1, 2, 1, 2): features (1, 2) and (3, 4)
    state.update(first, torch.tensor([[[1, 1]]]))
    state.update(torch.tensor([[[[5.0]], [[6.0]]]]), torch.tensor([[[1]]]))
    assert state.values.tolist() == [[0, 0], [3, 4]]
    assert state.counts.tolist() == [0, 3]
    state.grow(2)
    assert state.values.tolist() == [[0, 0], [3, 4], [0, 0], [0, 0]]
    assert state.known.tolist() == [False, True, False, False]
    state.update(first, torch.full((1, 1, 2), IGNORE))
    assert state.counts.tolist() == [0, 3, 0, 0]


def test_step_0_is_cross_entropy_and_gathers_prototypes():
    method = Sdr(SdrConfig())
    context, batch = at(0, method), batch_of(0, 1, 2)
    terms = method.terms(context, batch)
    assert terms.keys() == {"cross_entropy"}
    assert prototypes_of(context.model).known.tolist() == [False, True, True]


def test_later_steps_have_every_term_and_a_weight_of_0_drops_it():
    method = Sdr(SdrConfig())
    terms = method.terms(at(1, method), batch_of(0, 3, 4))
    assert terms.keys() == {"unbiased_ce", "distillation", *FEATURE_TERMS}
    assert all(term.requires_grad for term in terms.values())
    for name, knob in {**FEATURE_TERMS, "distillation": "loss_kd"}.items():
        without = Sdr(SdrConfig(**{knob: 0.0}))
        assert without.terms(at(1, without), batch_of(0, 3, 4)).keys() == terms.keys() - {name}


@pytest.mark.parametrize(("name", "knob"), [*FEATURE_TERMS.items(), ("distillation", "loss_kd")])
def test_terms_are_proportional_to_their_weights(name, knob):
    once, twice = Sdr(SdrConfig()), Sdr(SdrConfig(**{knob: 2 * getattr(SdrConfig(), knob)}))
    values = []
    for method in (once, twice):
        torch.manual_seed(3)
        values.append(method.terms(at(1, method), batch_of(0, 3, 4))[name].item())
    assert values[1] == pytest.approx(2 * values[0])


def test_sparsity_is_asked_of_background_too():
    method = Sdr(SdrConfig(loss_featspars=1.0))
    context, batch = at(1, method), batch_of(0, 3, 4)
    features = context.model(batch.images).bottleneck
    labels = functional.resize_labels(batch.labels, features.shape[-2:])
    expected = functional.sparsity(features, labels, context.n_classes)
    torch.testing.assert_close(method.terms(context, batch)["sparsity"], expected)
    assert (labels == 0).any()


def test_background_is_a_class_only_where_old_classes_are_labelled():
    labels = torch.tensor([[[0, 1, IGNORE, 3]]])
    method = Sdr(SdrConfig())
    assert labelled_classes(at(1, method), labels).tolist() == [[[IGNORE, 1, IGNORE, 3]]]
    assert labelled_classes(at(1, method, old_labels_shown=True), labels).tolist() == labels.tolist()


def test_old_classes_are_seen_by_the_teacher_on_background_or_labelled():
    labels = torch.tensor([[[0, 0, IGNORE, 3, 1]]])
    predicted = torch.tensor([[[2, 0, 1, 1, 2]]])
    logits = torch.nn.functional.one_hot(predicted, 3).movedim(-1, 1).float()
    method = Sdr(SdrConfig())
    context = at(1, method)
    taught = dataclasses.replace(context.taught(batch_of(0).images), logits=logits)
    assert old_classes_of(context, labels, taught).tolist() == [[[2, IGNORE, IGNORE, IGNORE, IGNORE]]]
    shown = at(1, method, old_labels_shown=True)
    assert old_classes_of(shown, labels, taught).tolist() == [[[IGNORE, IGNORE, IGNORE, IGNORE, 1]]]


def test_the_official_attraction_is_a_switch():
    values = {}
    for official in (False, True):
        method = Sdr(SdrConfig(), MethodOptions(compat=CompatConfig(sdr_official=official)))
        torch.manual_seed(3)
        values[official] = {name: t.item() for name, t in method.terms(at(1, method), batch_of(0, 3, 4)).items()}
    changed = {name for name in values[True] if values[True][name] != values[False][name]}
    assert changed == {"attraction"}
