"""What the replay memory is offered at the end of a step, as the finished model sees it, and what it gives back."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bacs.compat import CompatConfig
from bacs.data import StepView
from bacs.distributed import from_first, rank, world_size
from bacs.losses import functional
from bacs.model import Model
from bacs.randomness import generator, seed_everything
from bacs.replay import Collected, Offer, ReplayBatch, ReplayMemory, autocontrast, stretched
from bacs.stream import Stream

_LARGEST = torch.finfo(torch.float16).max  # beyond it the logits of an unsettled network would be stored as infinite


class Remembering:
    """One finished step and its model, in eval mode and without gradients, so that nothing in the model changes.

    (Under ``compat.train_mode_collection`` its running statistics do.)
    """

    def __init__(
        self, stream: Stream, model: Model, view: StepView, step: int, batch_size: int, compat: CompatConfig
    ) -> None:
        self.stream = stream
        self.model = model
        self.view = view
        self.step = step
        self.compat = compat
        # In train mode an image's logits depend on its batch, so that no setting of speed may choose it.
        self.batch_size = stream.training.batch_size if compat.train_mode_collection else batch_size

    def fill(self, memory: ReplayMemory) -> None:
        """Rank 0 decides and runs the model, the others take its memory over: replay must be the same everywhere.

        In train mode all of them run it, on the same images: running statistics must be the same everywhere too.
        """
        if self.compat.train_mode_collection:
            seed_everything(self.stream.training.seed, "collect", self.step)  # dropout
            self.model.train()
            memory.update(self._offer())
            self.model.eval()
        elif rank() == 0:
            memory.update(self._offer())
        memory.load_state_dict(from_first(memory.state_dict() if rank() == 0 else None))

    def _offer(self) -> Offer:
        n_classes = self.stream.split.classes_seen(self.step)
        presence = self.view.presence(n_classes)
        return Offer(self.step, self.view.indices, presence, n_classes, self._collect, self._importance)

    def _collect(self, positions: np.ndarray) -> Collected:
        images, labels = self.view.batch(positions)
        others = None
        if self.compat.shuffled_label_replay:
            others, labels = self.view.batch(self._shuffled()[positions])
        return Collected(images, labels.to(torch.uint8), self._logits(images), others)

    def _shuffled(self) -> np.ndarray:
        """(N,) for each image of the step the one whose path is stored beside it."""
        return generator(self.stream.training.seed, "paths", self.step).permutation(len(self.view))

    @torch.no_grad()
    def _logits(self, images: Tensor) -> Tensor:
        """(N, K, h, w) float16 logits at the network's own resolution."""
        parts = []
        for chunk in images.split(self.batch_size):
            with self.stream.numerics.autocast():
                logits = self.model(self.stream.to_device(chunk)).replay_logits
            parts.append(logits.clamp(-_LARGEST, _LARGEST).to(torch.float16).cpu())
        return torch.cat(parts)

    @torch.no_grad()
    def _importance(self) -> np.ndarray:
        """(N,) minus the mean cross-entropy over all pixels, background counted as 0."""
        scores = []
        for start in range(0, len(self.view), self.batch_size):
            batch = self.stream.batch(self.view, np.arange(start, min(start + self.batch_size, len(self.view))))
            with self.stream.numerics.autocast():
                logits = self.model(batch.images).logits
            loss = functional.cross_entropy(logits, batch.labels, reduction="none")
            scores.append(-(loss * (batch.labels > 0)).mean(dim=(1, 2)).cpu())
        importance = torch.cat(scores).numpy()
        # Where all ranks run the model, one decides: a difference in the last bit would make them choose differently,
        # and wait for each other for ever.
        return from_first(importance) if self.compat.train_mode_collection else importance


def recall(
    memory: ReplayMemory, stream: Stream, count: int, place: tuple[int, int, int], compat: CompatConfig
) -> ReplayBatch:
    """This rank's share of a draw from the memory, with normalised images, on the device.

    Args:
        memory: not empty.
        stream: says how images are normalised.
        count: images, over all ranks.
        place: (step, epoch, batch of the epoch); equal places draw the same images.
        compat: whether some of them are stretched.
    """
    seed = stream.training.seed
    drawn = memory.sample(count, generator(seed, "replay-draw", *place)).share(rank(), world_size())
    images = stream.to_device(drawn.images)
    device = images.device
    if compat.replay_autocontrast:
        chosen = stretched(count, generator(seed, "autocontrast", *place))[rank() :: world_size()]
        images = torch.where(torch.as_tensor(chosen, device=device)[:, None, None, None], autocontrast(images), images)
    others = None if drawn.label_images is None else stream.to_device(drawn.label_images)
    return ReplayBatch(
        images, drawn.labels.to(device), drawn.logits.to(device), drawn.n_logits.to(device), label_images=others
    )
