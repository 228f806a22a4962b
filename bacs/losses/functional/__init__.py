"""The formulas of the losses: pure functions on tensors, without state.

Letters: B images, K logits of the network (background included), O logits of the teacher (background and the
classes of earlier steps), R detector heads, H x W pixels of a label map, h x w locations of a feature map.
Labels are integer maps: 0 is background, ``IGNORE`` marks pixels that no loss may read. Where a docstring says BACS,
the formula is that of the method's released code with its defects removed; the paper numbers no such equation here.

Half-precision input is computed in float32, also inside autocast. ``reduction="mean"`` never divides by less
than one pixel, so a batch without a usable pixel gives 0 and zero gradients instead of NaN. Where several ranks train
together, a mean divides by the pixels of all ranks: averaging the ranks' gradients gives that of one big batch.
"""

from bacs.losses.functional.cross_entropies import (
    background_foreground_cross_entropy,
    bacs_cross_entropy,
    cross_entropy,
    seen_weight,
    unbiased_cross_entropy,
)
from bacs.losses.functional.detection import detector_weight, focal_loss, margin_to_threshold, threshold_to_margin
from bacs.losses.functional.distillation import masked_distillation, resize_mask, unbiased_distillation
from bacs.losses.functional.reductions import IGNORE, Denominator, Reduction
from bacs.losses.functional.replay import dark_replay, replay_class_weights, transplant

__all__ = [
    "IGNORE",
    "Denominator",
    "Reduction",
    "background_foreground_cross_entropy",
    "bacs_cross_entropy",
    "cross_entropy",
    "dark_replay",
    "detector_weight",
    "focal_loss",
    "margin_to_threshold",
    "masked_distillation",
    "replay_class_weights",
    "resize_mask",
    "seen_weight",
    "threshold_to_margin",
    "transplant",
    "unbiased_cross_entropy",
    "unbiased_distillation",
]
