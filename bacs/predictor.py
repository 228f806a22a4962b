"""Applies the model of a checkpoint to images of any size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from bacs.bundle import BundleError, load_bundle
from bacs.data import normalise
from bacs.evaluation import sliding
from bacs.model import Model
from bacs.model_record import ModelRecord
from bacs.precision import set_up_numerics


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
            RequestError: where its configuration is not allowed; see :meth:`bacs.model_record.ModelRecord.build`.
        """
        tensors, meta = load_bundle(bundle)
        if "model" not in meta:
            raise BundleError(f"{bundle}: holds no model")
        record = ModelRecord.from_state(meta["model"])
        model = record.build(meta["step"])
        model.load_state_dict(tensors["model"])
        return cls(record, model)

    @torch.no_grad()
    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Class ids of the dataset (H, W), 0 background.

        At once where the image is no larger than those of training, else by overlapping windows of their size.

        Args:
            image: (H, W, C), as many channels as the model was trained on.
        """
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None].to(self.numerics.device)
        ready = normalise(pixels, self.record.mean, self.record.std).to(memory_format=torch.channels_last)
        with self.numerics.autocast():
            logits = sliding(ready, lambda part: self._model(part).logits, self.record.window)
        return self._ids[logits[0].argmax(dim=0).cpu()].numpy()
