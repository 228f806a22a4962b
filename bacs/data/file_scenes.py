"""One subset of a dataset that lies in files: images and masks are read when they are asked for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bacs.data.layout import Pair
from bacs.data.pixels import PixelReader
from bacs.data.transforms import fixed_view, random_view, whole


class FileScenes:
    """Images with their full masks. Holds names, not pixels, so it is cheap to send to another process."""

    def __init__(
        self,
        pairs: Sequence[Pair],
        *,
        presence: NDArray[np.bool_],
        group: NDArray[np.int64] | None,
        table: NDArray[np.uint8],
        crop_size: int | tuple[int, int],
        crop_area: tuple[float, float],
        reader: PixelReader,
    ) -> None:
        """Keeps where the files lie; none is opened.

        Args:
            pairs: the N images and masks.
            presence: (N, labels) whether a full mask has a pixel of a label, by original class id.
            group: (N,) index of each image's domain; ``None`` where the dataset has none.
            table: (256,) mask value -> original class id or 255.
            crop_size: side, or height and width of the views, in pixels.
            crop_area: bounds of the area of a random crop, as a share of the image's.
            reader: decodes, or maps decoded copies.
        """
        if not len(pairs) == len(presence) == len(pairs if group is None else group):
            raise ValueError(f"presence and group must have a row for each of the {len(pairs)} images")
        # Plain strings: ten thousand paths take a hundred times longer to send.
        self._files = [(pair.name, str(pair.image), str(pair.mask)) for pair in pairs]
        self.presence = presence
        self.group = group
        self._table = table
        self._crop_size = crop_size
        self._crop_area = crop_area
        self._reader = reader

    def __len__(self) -> int:
        return len(self._files)

    def read(self, rows: NDArray[np.int64], draws: NDArray[np.int64] | None) -> tuple[Tensor, Tensor]:
        """Views of a batch, cut to one size.

        Args:
            rows: (B,) indices of images, repeats allowed.
            draws: (B,) a seed for the random crop and flip of each; equal rows and draws give equal bytes in any
                process. ``None``: the fixed view of evaluation.

        Returns:
            uint8 images (B, 3, h, w) and labels (B, h, w): original class ids, 255 ignored.

        Raises:
            RequestError: where a file cannot be read.
        """
        if draws is None:
            views = [fixed_view(self._pixels(int(row)), self._crop_size) for row in rows]
        else:
            seeded = zip(rows, draws, strict=True)
            cut = (self._crop_size, self._crop_area)
            views = [random_view(self._pixels(int(row)), cut[0], int(draw), cut[1]) for row, draw in seeded]
        images, masks = zip(*views, strict=True)
        return torch.stack(images), self._labels(torch.stack(masks))

    def read_whole(self, row: int) -> tuple[Tensor, Tensor]:
        """One image (1, 3, H, W) and its labels (1, H, W) at the original resolution; types as :meth:`read`."""
        image, mask = whole(self._pixels(row))
        return image[None], self._labels(mask[None])

    def _pixels(self, row: int) -> NDArray[np.uint8]:
        return self._reader.read(*self._files[row])

    def _labels(self, masks: Tensor) -> Tensor:
        return torch.from_numpy(self._table.take(masks.numpy()))
