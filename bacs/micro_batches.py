"""Cutting a batch into pieces that go through the network one after the other, so that less memory is enough."""

from __future__ import annotations

from bacs.losses.base import Batch


def pieces(batch: Batch, count: int) -> list[tuple[Batch, float]]:
    """``count`` pieces of a batch, each with its share of the images; new and replayed images are cut alike.

    The gradients of the pieces, weighed by their shares, sum to that of the whole batch, up to rounding, where a term
    is a mean over all pixels or images. Approximated are: statistics of batch norm, which are those of a piece;
    means over some pixels alone (where labels are ignored, in masked distillation, over the old classes in replay), of
    which the pieces' means are averaged; and running means (the prototypes), which a batch then moves ``count`` times.

    Args:
        batch: at least ``count`` images, and as many replayed ones if there are any.
        count: at least 1; 1 gives the batch itself.
    """
    if count == 1:
        return [(batch, 1.0)]
    replay = batch.replay
    parts = []
    for i in range(count):
        images, labels = batch.images[i::count], batch.labels[i::count]
        share = len(images) / len(batch.images)
        parts.append((Batch(images, labels, None if replay is None else replay.share(i, count)), share))
    return parts
