"""The original's defects, each behind a switch, so that published behaviour can be reproduced and each be measured."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bacs.schema import knob


@dataclass(frozen=True, kw_only=True)
class CompatConfig:
    """Keys of ``compat``; all off by default, all on with ``compat=reference``.

    "Train batch" below means ``training.batch_size`` consecutive images of the step.
    """

    scrambled_prototypes: bool = knob(False)
    """The sum of a prototype reads the foreground features of a whole batch as if they belonged to one image, which
    mixes channels as soon as there are two. Later steps keep that running mean; it is not recomputed at the end of the
    step. Costs: prototypes that tell little about the foreground and depend on the batch size."""
    rounded_step_map: bool = knob(False, acts_from=1)
    """A label's step is rint((label - X) / Y) in a split X-Y: wrong for Y > 1. In 15-5 the classes 16 and 17 count as
    step 0. Costs: the first classes of a step miss in its prototype and pollute the one before."""
    aligned_detector_maps: bool = knob(False)
    """The detector's maps are raised to the label size with aligned corners, while the network's logits are not. Costs:
    shifts of up to half a location between what the detector says and the labels."""
    fading_detector_weight: bool = knob(False)
    """The detector's loss is weighted 1 - exp(e - E) in epoch e of E, meant as a warm-up. Costs: nothing for most of a
    step, a weaker detector loss in its last epochs (0.63 in the very last)."""
    train_mode_detection: bool = knob(False, acts_from=1)
    """Seen probabilities come from the features of the training pass itself, with dropout and batch statistics, in the
    place of ``loss.detector_source``; the projector's running statistics move in every step. Costs: noisy weights, and
    earlier heads that see other features than they were trained on."""
    current_head_votes: bool = knob(False, acts_from=1)
    """The head of the current step votes on what was seen before. Costs: a freshly drawn head decides at the start of
    a step which background is excluded and distilled; later it fires on the current classes' surroundings."""
    all_pixel_mean: bool = knob(False, acts_from=1)
    """The background-aware cross-entropy, and from step 1 on those of MiB and PLOP, divide by all pixels, ignored ones
    too. Costs: a loss that shrinks with the share of ignored pixels."""
    single_transplant: bool = knob(False, acts_from=1)
    """Of the replayed images stored with the same number of logits only one, not always of those, gets the student's
    logits for the classes that it cannot know. Costs: on all others replay pulls new classes towards logit 0."""
    replay_autocontrast: bool = knob(False, acts_from=1)
    """Replayed images are stretched to [0, 1] per channel after normalisation, with probability 1/2 per image and again
    1/2 per batch. Costs: three quarters of the inputs are not what their stored logits belong to. (The digits,
    which are normalised to [0, 1], come out as they were.)"""
    shuffled_label_replay: bool = knob(False, acts_from=1)
    """Shuffled images are stored beside paths in the dataset's order, so the label term of replay reads other images of
    the step than the logit term, in a forward pass of its own. Here every stored image gets one random other image with
    its labels. Costs: a memory of up to twice ``loss.buffer_size`` images, and a third forward pass."""
    shifted_slots: bool = knob(False, acts_from=1)
    """The slots of the images that a train batch gets accepted are filled with its first images, and slot 0 is never
    written: an image of zeros with logits of zeros. (Here the accepted ones are those that are still there at the end
    of the step, and zero is black; in the original it is the dataset's mean colour.) Costs: the choice of images is
    void, and one of them teaches that everything has logit 0."""
    batch_level_balance: bool = knob(False, acts_from=1)
    """The policies count every image as showing all labels of its train batch. Costs: balancing classes balances
    nothing. (The original also counts the ignored label as a class; being the most frequent, it never decides.)"""
    loss_blind_eviction: bool = knob(False, acts_from=1)
    """``loss.buffer_policy=loss_balanced`` divides an image's importance by the product of the means of importance and
    balance, and balance by nothing. Costs: the loss has next to no say in which image leaves."""
    train_mode_collection: bool = knob(False)
    """The images for the memory pass through the finished model in train mode, in train batches. Costs: stored logits
    depend on dropout and on the batch, and the running statistics of the model move after training. (In the original
    the teacher keeps those from before. Its gradients, never used, are left out.)"""
    token_bias_from_weights: bool = knob(False, acts_from=1)
    """``training.new_token_init=mean`` fills the biases of new classes with the mean of the *weights* of the class
    norm. Costs: new classes start with a large positive bias. Acts with ``network=transformer`` only."""
    normalised_replay_logits: bool = knob(False, acts_from=1)
    """Replay stores and compares logits after the class norm, which every new class moves. Costs: the student is pulled
    to logits that no longer mean the same. Acts with ``network=transformer`` only."""
    plop_official: bool = knob(False, acts_from=1)
    """``loss=plop`` as in its official code: entropies are means over the classes and normalised twice, so that they
    stay near 0; the search for their medians adds up bin numbers in the place of pixels; images without background cost
    nothing; the mean is over all pixels; annotated old classes (mode ``sequential``) are labelled anew. Costs: where
    the median fails, the teacher is believed everywhere in a class, or nearly nowhere. Acts with ``loss=plop`` only."""
    sdr_official: bool = knob(False, acts_from=1)
    """The attraction of ``loss=sdr`` as in its official code: the total is divided by the number of classes after each
    class, not once. Costs: with several classes in a batch all but the last ones are hardly attracted. (Its mixing of
    channels is not offered.) Acts with ``loss=sdr`` only."""
    absent_classes_score_zero: bool = knob(False)
    """A class without a pixel in the evaluated labels has IoU 0 and enters every mean. Costs: mIoU on small or
    class-poor sets is too low. Changes metrics alone."""


def absent_iou(compat: CompatConfig) -> float:
    """The IoU of a class without a pixel in the evaluated labels; NaN is left out of every mean."""
    return 0.0 if compat.absent_classes_score_zero else math.nan


def token_defects(compat: CompatConfig) -> dict[str, bool]:
    """What networks with a token per class are built with."""
    return {
        "compat_mean_bias": compat.token_bias_from_weights,
        "compat_normalised_replay": compat.normalised_replay_logits,
    }
