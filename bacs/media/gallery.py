"""Panels of a few test images after every step."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bacs.data import StepView
from bacs.evaluation import Evaluator
from bacs.events import Picture
from bacs.losses.detection import size_of
from bacs.media.palette import label_colours
from bacs.media.panel import draw_panel
from bacs.model import Model
from bacs.randomness import derive_seed
from bacs.stream import Stream


class Gallery:
    """Draws ``count`` images of the test view, as they are scored: crops, or whole images by windows."""

    def __init__(self, stream: Stream, evaluator: Evaluator, count: int) -> None:
        self.stream = stream
        self.evaluator = evaluator
        self.count = count
        self._colours = label_colours(stream.split)

    def pictures(self, step: int, model: Model) -> Iterator[Picture]:
        """``image-<row of the test set>`` for each; every rank alone can draw them, it needs no other."""
        view = self.stream.seen_view("test", step)
        n_classes = self.stream.split.classes_seen(step)
        foreground = view.presence(n_classes)[:, 0 if self.stream.by_domain else 1 :]
        seed = self.stream.training.seed
        rank_of = np.array([derive_seed("picture", seed, int(row)) for row in view.indices], dtype=np.int64)
        names = [self.stream.class_name(label) for label in range(n_classes)]
        for position in spread(foreground, rank_of, self.count):
            name = f"image-{view.indices[position]:05d}"
            yield Picture(name, step, self._panel(model, view, position, step, names))

    def _panel(self, model: Model, view: StepView, position: int, step: int, names: list[str]) -> NDArray[np.uint8]:
        whole = self.stream.data.evaluation == "full"
        image, labels = view.whole(position) if whole else view.batch(np.array([position]))
        found = self._maps(model, image, step)
        logits, seen = found[: len(names)], found[len(names) :]
        return draw_panel(
            image[0].permute(1, 2, 0).numpy(),
            labels[0].numpy(),
            logits.argmax(dim=0).numpy(),
            seen[0].double().numpy() if len(seen) else None,
            self._colours,
            names,
        )

    @torch.no_grad()
    def _maps(self, model: Model, image: Tensor, step: int) -> Tensor:
        """(K, H, W) logits, and where there is a detector the seen probability as one more channel; on the CPU."""
        model.eval()

        def of(images: Tensor) -> Tensor:
            output = model(images)
            if model.detector is None:
                return output.logits.float()
            seen = model.detector.seen(model.detector.project(output.bottleneck), step + 1, size_of(images))
            return torch.cat([output.logits.float(), seen.amax(dim=1, keepdim=True)], dim=1)

        return self.evaluator.over(self.stream.to_device(image), of)[0].cpu()


def spread(presence: NDArray[np.bool_], rank_of: NDArray[np.int64], count: int) -> list[int]:
    """Positions of ``count`` images that show as many classes as possible, the oldest classes first.

    Every class in turn gives its image of lowest rank that is not taken. Where ``count`` is smaller than the number of
    classes, classes at equal distances have a turn; else the first image of a class stays when later steps bring more.

    Args:
        presence: (N, K) whether an image shows a class.
        rank_of: (N,) distinct; orders the images of a class.
        count: at least 0; fewer positions come back where fewer images show any class.
    """
    order = np.argsort(rank_of)
    classes = np.flatnonzero(presence.any(axis=0))
    if 0 < count < len(classes):
        classes = classes[np.linspace(0, len(classes) - 1, count).round().astype(int)]
    queues = [[int(position) for position in order if presence[position, label]] for label in classes]
    chosen: list[int] = []
    while len(chosen) < count and any(queues):
        for queue in queues:
            free = [position for position in queue if position not in chosen]
            queue[:] = free[1:]
            chosen += free[:1]
    return chosen[:count]
