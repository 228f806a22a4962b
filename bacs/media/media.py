"""What a run tells beside its metrics, as the keys ``training.log_*`` ask for it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bacs.distributed import rank
from bacs.evaluation import Evaluator, Scores
from bacs.events import Picture
from bacs.media.animation import KEPT, Frame
from bacs.media.charts import Mark, curve, scatter
from bacs.media.drift import Drift, Measurement
from bacs.media.features import ClassMeans, class_means, embed
from bacs.media.gallery import Gallery
from bacs.media.page import INK, Colour
from bacs.media.palette import label_colours
from bacs.media.shift import shift_chart
from bacs.model import Model
from bacs.stream import Stream


class Media:
    """Follows a run without changing anything in it. Every rank must call everything; rank 0 alone draws."""

    def __init__(self, stream: Stream, evaluator: Evaluator) -> None:
        training = stream.training
        self.stream = stream
        self._gallery = Gallery(stream, evaluator, training.log_images)
        self._drift = Drift(stream) if training.log_drift else None
        self._means: ClassMeans | None = None
        self._lengths: Sequence[int] = ()
        self.frames: list[Frame] = []
        """Of the animation, over the whole run; survive in snapshots."""

    @property
    def draws(self) -> bool:
        """Whether there will be pictures."""
        training = self.stream.training
        return training.log_images > 0 or training.log_prototypes or training.log_drift

    # ------------------------------------------------------------------ while a step is trained

    def begin_step(self, step: int, model: Model, lengths: Sequence[int]) -> None:
        """Before the first optimisation step, or before the weights of a later one are restored.

        Args:
            step: 0-based.
            model: of the step before.
            lengths: optimisation steps of each epoch of the step.
        """
        self._lengths = lengths
        if self._drift is not None:
            self._drift.begin_step(step, model, sum(lengths))

    def trained(self, done: int, model: Model) -> None:
        """After every optimisation step. Args: done: so far in this continual step."""
        if self._drift is not None:
            self._drift.trained(done, model)

    def end_epoch(self) -> dict[str, float]:
        """Its ``drift/features``, which is left out where the epoch ended before a measurement was due."""
        mean = self._drift.end_epoch() if self._drift is not None else None
        return {} if mean is None else {"drift/features": mean}

    def measured(self, step: int, epoch: int | None, scores: Scores) -> None:
        """After every measurement. Args: epoch: finished epochs of the step; ``None``: the step is finished."""
        wanted = self.stream.training.log_animation and self._is_shown(epoch)
        frame = Frame.of(step, epoch, scores.matrix) if wanted else None
        if frame is not None:
            self.frames.append(frame)

    def _is_shown(self, epoch: int | None) -> bool:
        """Whether a measurement is one of the ``KEPT`` of its step."""
        every = self.stream.training.val_every
        distance = math.ceil(len(self._lengths) / (every * KEPT))
        return epoch is None or epoch // every % distance == 0

    def state(self) -> dict[str, Any]:
        """What a snapshot must hold to go on in mid-step."""
        state = {} if self._drift is None else {"drift": [list(point) for point in self._drift.measured]}
        if self.stream.training.log_animation:
            state["frames"] = [frame.state() for frame in self.frames]
        return state

    def restore(self, state: Mapping[str, Any]) -> None:
        """After :meth:`begin_step`. Args: state: has more keys; lacks ours where their switches were off until now."""
        if self._drift is not None:
            self._drift.measured = [(done, change) for done, change in state.get("drift", [])]
        if self.stream.training.log_animation:
            self.frames = [Frame.from_state(frame) for frame in state.get("frames", [])]

    # ------------------------------------------------------------------ after a step

    def step_metrics(self, step: int, model: Model) -> dict[str, float]:
        """``prototypes/l1/<class>``: see :class:`bacs.media.features.ClassMeans`."""
        training = self.stream.training
        if not training.log_prototypes:
            return {}
        self._means = class_means(self.stream, model, step, training.eval_batch_size)
        found = self._means.distances()
        return {f"prototypes/l1/{self.stream.class_name(label)}": gap for label, gap in found.items()}

    def pictures(self, step: int, model: Model, tested: Sequence[Scores]) -> Iterator[Picture]:
        """Of a finished step.

        Args:
            step: 0-based.
            model: as it is now.
            tested: on the test images after each step so far.
        """
        if rank() != 0:
            return
        yield from self._gallery.pictures(step, model)
        if self.stream.training.log_images > 0 and step > 0 and not self.stream.by_domain:
            yield Picture("background-shift", step, shift_chart(tested, self.stream.split))
        if self._means is not None:
            yield Picture("prototypes", step, self._map(self._means, step))
        if self._drift is not None and self._drift.measured:
            yield Picture("drift", step, drift_chart(self._drift.measured, step, self._lengths))

    def _map(self, found: ClassMeans, step: int) -> NDArray[np.uint8]:
        """Class means as discs in the colours of their classes, prototypes as dark diamonds."""
        shown = np.flatnonzero(found.counts > 0)
        places = embed(np.concatenate([found.means[shown], found.prototypes]), self.stream.training.seed)
        colours = label_colours(self.stream.split)
        marks = [
            Mark(x, y, self.stream.class_name(int(label)), _colour(colours[label]))
            for (x, y), label in zip(places, shown, strict=False)
        ]
        for of_step, (x, y) in enumerate(places[len(shown) :]):
            marks.append(Mark(x, y, f"prototype {of_step}", INK, "diamond"))
        return scatter(f"class means and prototypes after step {step} (t-SNE, without scale)", marks)


def drift_chart(measured: Sequence[Measurement], step: int, lengths: Sequence[int]) -> NDArray[np.uint8]:
    """The measurements of one step; pale lines where an epoch ended."""
    return curve(
        f"features of images of step {step - 1} while step {step} is trained",
        "optimisation steps",
        "mean absolute change since the start",
        [(0, 0.0), *measured],
        [int(end) for end in np.cumsum(lengths)[:-1] if end <= measured[-1][0]],
    )


def _colour(row: NDArray[np.uint8]) -> Colour:
    red, green, blue = (int(value) for value in row)
    return red, green, blue
