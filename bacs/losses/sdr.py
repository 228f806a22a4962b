"""SDR: sparse and disentangled representations (Michieli & Zanuttigh, CVPR 2021)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bacs.losses import functional
from bacs.losses.base import Batch, Method, StepContext
from bacs.model import MethodState, Model
from bacs.networks import NetworkOutput, SegmentationNetwork
from bacs.schema import knob


@dataclass(frozen=True, kw_only=True)
class SdrConfig:
    """Keys of ``loss=sdr``, named as in the original; the defaults are those of its released configuration."""

    loss_kd: float = knob(100.0, acts_from=1, ge=0)
    """Weight of the unbiased distillation. The paper's authors suggest 10 to begin with; on steps as short as the
    digit stream's 100 holds the old model so tightly that new classes are hardly learnt."""
    loss_de_prototypes: float = knob(0.01, acts_from=1, ge=0)
    """Weight of prototype matching. Searched over 1e-3 .. 1e-1 by the authors."""
    loss_fc: float = knob(1e-3, acts_from=1, ge=0)
    """Weight of the attraction to the prototypes. Searched over 1e-3 .. 1e-2."""
    lfc_sep_clust: float = knob(1e-3, acts_from=1, ge=0)
    """Weight of the repulsion between class means."""
    loss_featspars: float = knob(1e-3, acts_from=1, ge=0)
    """Weight of the sparsity of the features. Searched over 1e-5 .. 1e-3; the authors suggest 1e-4 to begin with."""


class ClassPrototypes(MethodState):
    """The mean bottleneck feature of each class over every training batch of the steps that label it."""

    values: Tensor
    """(K, C) float32."""
    counts: Tensor
    """(K,) float64: locations behind each mean; 0 while there is none."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("values", torch.zeros(0, channels))
        self.register_buffer("counts", torch.zeros(0, dtype=torch.float64))

    def grow(self, n_new: int) -> None:
        rows = n_new + (len(self.values) == 0)  # the background comes with the first classes
        self.values = torch.cat([self.values, self.values.new_zeros(rows, self.values.shape[1])])
        self.counts = torch.cat([self.counts, self.counts.new_zeros(rows)])

    @property
    def known(self) -> Tensor:
        """(K,) bool: the classes that have a prototype."""
        return self.counts > 0

    @torch.no_grad()
    def update(self, features: Tensor, labels: Tensor) -> None:
        """Folds a batch of all ranks into the means: p <- (N p + sum f) / (N + n), N <- N + n (SDR, eq. 2).

        Args:
            features: (B, C, h, w).
            labels: (B, h, w), in 0..K-1 or ignored.
        """
        sums, counts = functional.class_sums(features.double(), labels, len(self.values))
        total = self.counts + counts
        means = (self.counts.unsqueeze(1) * self.values.double() + sums) / total.clamp(min=1).unsqueeze(1)
        self.values.copy_(means)
        self.counts.copy_(total)


class Sdr(Method):
    """Step 0: cross-entropy, while the class prototypes gather. Steps >= 1: the sum of

    - ``unbiased_ce``: MiB's cross-entropy, where background stands for every old class;
    - ``distillation``: MiB's distillation of the teacher's output;
    - ``matching``: mean features where the teacher sees an old class stay at its prototype;
    - ``attraction``: features of the labelled classes are drawn to their prototypes;
    - ``repulsion``: their means in the batch are driven apart;
    - ``sparsity``: every feature is concentrated in few channels.

    The last four act on the deepest features of the network. Background is one of the classes with prototypes and means
    only where every old class is labelled (mode ``sequential``), for elsewhere it may show anything.

    New classes start as copies of the background's head, as in MiB, and so all alike; where a step is short,
    ``training.new_head_init=mib_noise`` lets them differ from the start.
    """

    Config = SdrConfig
    uses_teacher = True
    plain_step_0 = False
    needs_background = True
    head_init = "mib"
    config: SdrConfig

    def build_state(self, network: SegmentationNetwork) -> ClassPrototypes:
        return ClassPrototypes(network.bottleneck_channels)

    def terms(self, context: StepContext, batch: Batch) -> dict[str, Tensor]:
        output = context.model(batch.images)
        features = output.bottleneck
        labels = functional.resize_labels(batch.labels, (features.shape[-2], features.shape[-1]))
        shown = labelled_classes(context, labels)
        prototypes_of(context.model).update(features, shown)
        if context.step == 0:
            terms = {"cross_entropy": functional.cross_entropy(output.logits, batch.labels)}
        else:
            taught = context.taught(batch.images)
            terms = self._output_terms(context, batch, output, taught)
            terms |= self._class_terms(context, features, shown, old_classes_of(context, labels, taught))
            if self.config.loss_featspars > 0:
                sparsity = functional.sparsity(features, labels, context.n_classes)
                terms["sparsity"] = self.config.loss_featspars * sparsity
        terms |= self.detector_term(context, batch, output)
        return terms

    def _output_terms(
        self, context: StepContext, batch: Batch, output: NetworkOutput, taught: NetworkOutput
    ) -> dict[str, Tensor]:
        terms = {
            "unbiased_ce": functional.unbiased_cross_entropy(
                output.logits, batch.labels, context.old_classes, keep_old_labels=context.old_labels_shown
            )
        }
        if self.config.loss_kd > 0:
            distillation = functional.unbiased_distillation(output.logits, taught.logits)
            terms["distillation"] = self.config.loss_kd * distillation
        return terms

    def _class_terms(self, context: StepContext, features: Tensor, shown: Tensor, old: Tensor) -> dict[str, Tensor]:
        """Args: shown: (B, h, w) the class a feature is labelled with; old: the old class it stands for."""
        c, state = self.config, prototypes_of(context.model)
        values, known = state.values, state.known
        terms = {}
        if c.loss_de_prototypes > 0:
            terms["matching"] = c.loss_de_prototypes * functional.matching(features, old, values, known)
        if c.loss_fc > 0:
            decaying = self.options.compat.sdr_official
            attraction = functional.attraction(features, shown, values, known, decaying=decaying)
            terms["attraction"] = c.loss_fc * attraction
        if c.lfc_sep_clust > 0:
            terms["repulsion"] = c.lfc_sep_clust * functional.repulsion(features, shown, context.n_classes)
        return terms


def prototypes_of(model: Model) -> ClassPrototypes:
    if not isinstance(model.state, ClassPrototypes):
        raise AssertionError("the method has built its prototypes")
    return model.state


def labelled_classes(context: StepContext, labels: Tensor) -> Tensor:
    """(B, h, w) labels of features, without the background that may show anything."""
    return labels if context.old_labels_shown else labels.masked_fill(labels == 0, functional.IGNORE)


def old_classes_of(context: StepContext, labels: Tensor, taught: NetworkOutput) -> Tensor:
    """(B, h, w) the old class that a feature shows: by its label or, where these are hidden, as the teacher sees it."""
    predicted = functional.resize_labels(taught.logits.argmax(dim=1), (labels.shape[-2], labels.shape[-1]))
    old = labels if context.old_labels_shown else torch.where(labels == 0, predicted, functional.IGNORE)
    return old.masked_fill((old == 0) | (old >= context.old_classes), functional.IGNORE)
