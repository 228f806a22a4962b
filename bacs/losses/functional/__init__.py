"""The formulas of the losses: pure functions on tensors, without state.

Letters: B images, K logits of the network (background included), O logits of the teacher (background and the
classes of earlier steps), R detector heads, H x W pixels of a label map, h x w locations of a feature map.
Labels are integer maps: 0 is background, ``IGNORE`` marks pixels that no loss may read. Where a docstring says BACS,
the formula is that of the method's released code with its defects removed; the paper numbers no such equation here.

Half-precision input is computed in float32, also inside autocast. ``reduction="mean"`` never divides by less
than one pixel, so a batch without a usable pixel gives 0 and zero gradients instead of NaN. Where several ranks train
together, a mean divides by the pixels of all ranks: averaging the ranks' gradients gives that of one big batch.

A file holds what methods use together, so that an edit of it makes only their steps run again (`bacs.lineage`).
"""

from bacs.losses.functional.background_aware import (
    background_foreground_cross_entropy,
    bacs_cross_entropy,
    masked_distillation,
    seen_weight,
)
from bacs.losses.functional.class_prototypes import attraction, class_means, class_sums, matching, repulsion, sparsity
from bacs.losses.functional.confidence import (
    certain_share,
    completed_cross_entropy,
    confident_labels,
    prediction_entropy,
)
from bacs.losses.functional.cross_entropy import cross_entropy
from bacs.losses.functional.detection import detector_weight, focal_loss, margin_to_threshold, threshold_to_margin
from bacs.losses.functional.distillation import feature_distillation, foreground_distillation, logit_distillation
from bacs.losses.functional.histograms import histogram_median, score_histogram
from bacs.losses.functional.pod import (
    POD_SCALES,
    collapse_new_classes,
    local_pod,
    local_pod_embedding,
    pod_distillation,
)
from bacs.losses.functional.reductions import IGNORE, Denominator, Reduction
from bacs.losses.functional.replay import dark_replay, replay_class_weights, transplant
from bacs.losses.functional.resizing import resize_labels, resize_mask
from bacs.losses.functional.taught_binary import taught_binary_cross_entropy
from bacs.losses.functional.unbiased import unbiased_cross_entropy, unbiased_distillation

__all__ = [
    "IGNORE",
    "POD_SCALES",
    "Denominator",
    "Reduction",
    "attraction",
    "background_foreground_cross_entropy",
    "bacs_cross_entropy",
    "certain_share",
    "class_means",
    "class_sums",
    "collapse_new_classes",
    "completed_cross_entropy",
    "confident_labels",
    "cross_entropy",
    "dark_replay",
    "detector_weight",
    "feature_distillation",
    "focal_loss",
    "foreground_distillation",
    "histogram_median",
    "local_pod",
    "local_pod_embedding",
    "logit_distillation",
    "margin_to_threshold",
    "masked_distillation",
    "matching",
    "pod_distillation",
    "prediction_entropy",
    "replay_class_weights",
    "repulsion",
    "resize_labels",
    "resize_mask",
    "score_histogram",
    "seen_weight",
    "sparsity",
    "taught_binary_cross_entropy",
    "threshold_to_margin",
    "transplant",
    "unbiased_cross_entropy",
    "unbiased_distillation",
]
