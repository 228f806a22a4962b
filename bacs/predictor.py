"""Applies the model of a checkpoint to images of any size."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bacs.bundle import BundleError, load_bundle
from bacs.data import normalise
from bacs.errors import Fault, RequestError
from bacs.evaluation import window_starts
from bacs.model import Model
from bacs.model_record import ModelRecord
from bacs.precision import set_up_numerics

_STRIP_BYTES = 2**28
"""Of the logits that are held at once; wider images are done strip by strip."""
_BATCH_PIXELS = 2**18
"""Pixels of the windows that go through the network at once."""


class Predictor:
    """Segments one image after the other, on a GPU if there is one."""

    def __init__(self, record: ModelRecord, model: Model) -> None:
        training = record.training()
        self.record = record
        self.numerics = set_up_numerics(
            "auto", training.mixed_precision, training.threads, allow_tf32=training.allow_tf32
        )
        self._model = model.eval()
        self._model.to(self.numerics.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._ids = torch.tensor(record.split.label_ids, dtype=torch.uint8)

    @classmethod
    def load(cls, bundle: Path) -> Predictor:
        """Args: bundle: a folder that :class:`bacs.checkpoints.CheckpointFolder` wrote.

        Raises:
            BundleError: where it is damaged, or holds no model.
            RequestError: where its record has wrong fields, or its configuration is not allowed; see
                :class:`bacs.model_record.ModelRecord`.
        """
        tensors, meta = load_bundle(bundle)
        where = str(bundle / "meta.json")
        if not isinstance(meta, dict) or not isinstance(tensors, dict):
            raise RequestError.of(where, "holds no groups of keys", "give a checkpoint that this program has written")
        if "model" not in meta or "model" not in tensors:
            raise BundleError(f"{bundle}: holds no model")
        record = ModelRecord.from_state(meta["model"], f"{where}: model")
        step = meta.get("step")
        if not isinstance(step, int) or isinstance(step, bool):
            problem = f"is {step!r}, but must be the number of a step"
            raise RequestError.of(f"{where}: step", problem, "give a checkpoint that this program has written")
        try:
            model = record.build(step)
            model.load_state_dict(tensors["model"])
        except RequestError as error:
            raise RequestError([Fault(f"{where}: {f.where}", f.problem, f.remedy) for f in error.faults]) from None
        except Exception as error:  # of a class that somebody has written, or tensors that fit no such model
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise BundleError(f"{bundle}: its tensors are not those of its model: {reason}") from error
        return cls(record, model)

    @torch.no_grad()
    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Class ids of the dataset (H, W), 0 background.

        At once where the image is no larger than those of training, else by overlapping windows of their size, as
        :func:`bacs.evaluation.sliding` does. Only a strip of the image at a time is held as logits.

        Args:
            image: (H, W, C), as many channels as the model was trained on.
        """
        mask = np.empty(image.shape[:2], dtype=np.uint8)
        height, width, _ = image.shape
        high, wide = min(height, self.record.window[0]), min(width, self.record.window[1])
        lefts = window_starts(width, wide)
        n_columns = _STRIP_BYTES // (4 * high * len(self._ids))
        first = 0
        while first < len(lefts):
            after = next((i for i in range(first + 1, len(lefts)) if lefts[i] - lefts[first] > n_columns), len(lefts))
            columns = slice(lefts[first], lefts[after] if after < len(lefts) else width)
            within = [left for left in lefts if left + wide > columns.start and left < columns.stop]
            self._fill(image, mask, columns, within, (high, wide))
            first = after
        return mask

    def _fill(
        self, image: NDArray[np.uint8], mask: NDArray[np.uint8], columns: slice, lefts: list[int], size: tuple[int, int]
    ) -> None:
        """Writes some columns of a mask, from top to bottom. Args: lefts: of all windows of ``size`` that show them."""
        high, wide = size
        tops = window_starts(len(image), high)
        total: Tensor | None = None  # (K, high, columns), from the top of the windows of now on
        count = torch.zeros(high, columns.stop - columns.start, device=self.numerics.device)
        for top, following in zip(tops, [*tops[1:], len(image)], strict=True):
            for left, logits in self._windows(image[top : top + high], lefts, wide):
                start, stop = max(left, columns.start), min(left + wide, columns.stop)
                if total is None:
                    total = logits.new_zeros(len(logits), *count.shape)
                place = slice(start - columns.start, stop - columns.start)
                total[..., place] += logits[..., start - left : stop - left]
                count[:, place] += 1
            assert total is not None, "every image has a window"
            done = following - top
            labels = (total[:, :done] / count[:done]).argmax(dim=0)
            mask[top:following, columns] = self._ids[labels.cpu()].numpy()
            for sums in (total, count):
                sums[..., : high - done, :] = sums[..., done:, :].clone()
                sums[..., high - done :, :] = 0

    def _windows(self, rows: NDArray[np.uint8], lefts: list[int], wide: int) -> Iterator[tuple[int, Tensor]]:
        """(left, (K, h, wide) logits) of each window of some rows (h, W, C); several go through the network at once."""
        at_once = max(1, _BATCH_PIXELS // (len(rows) * wide))
        for start in range(0, len(lefts), at_once):
            some = lefts[start : start + at_once]
            pixels = torch.from_numpy(np.stack([rows[:, left : left + wide] for left in some])).permute(0, 3, 1, 2)
            images = normalise(pixels.to(self.numerics.device), self.record.mean, self.record.std)
            with self.numerics.autocast():
                logits = self._model(images.to(memory_format=torch.channels_last)).logits.float()
            yield from zip(some, logits, strict=True)
