"""The segmentation data set; :mod:`segkd.data.loading` has the loaders."""

import os
from typing import Any

import numpy as np
import torch
from torch.utils.data import default_collate

from segkd.common.pixels import look
from segkd.common.reading import refuse
from segkd.data.loading import LOOKED_AT, SeededDataset, spread
from segkd.errors import SegkdError
from segkd.segmentation.datasets import DatasetSpec
from segkd.segmentation.reading import read_pair
from segkd.segmentation.transforms import Transform


class SegmentationDataset(SeededDataset):
    """The pairs of one split, read and transformed.

    Args:
        spec: the data set.
        split: which split of it.
        transform: from :func:`~segkd.segmentation.transforms.train_transform` or ``eval_transform``.
        root: where the data lie, if not where the spec says.
        seed: the run's seed; the augmentation of an item derives from ``(seed, epoch, index)`` alone.
        limit: keep only so many pairs, spread evenly over the split; None keeps all.

    Attributes:
        pairs: those of the split that are kept.
        remarks: one line for each thing that a person should know of the split.

    Raises:
        SegkdError: see :meth:`DatasetSpec.pairs`; reading an item: see :mod:`segkd.segmentation.reading`.
    """

    def __init__(
        self,
        spec: DatasetSpec,
        split: str,
        transform: Transform,
        root: str | os.PathLike[str] | None = None,
        seed: int = 0,
        limit: int | None = None,
    ):
        self.spec = spec
        self.split = split
        self.transform = transform
        self.seed = seed
        files = spec.scan(split, root)
        refuse(files.problems)
        self.pairs = spread(files.pairs, limit)
        self.remarks = files.remarks + look(pair.image for pair in spread(self.pairs, LOOKED_AT))

    def __len__(self) -> int:
        """How many pairs the split has."""
        return len(self.pairs)

    def item(self, index: int, seed: int) -> dict[str, Any]:
        """Return the pair at ``index``, augmented by ``seed``.

        Returns:
            ``image`` uint8 (3, H, W), ``mask`` int64 (H, W) of class ids and ignore_index, ``index`` int.
        """
        image, mask = self.transform(*read_pair(self.pairs[index], self.spec), seed)
        return {
            "image": torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))),
            "mask": torch.from_numpy(mask.astype(np.int64)),
            "index": index,
        }

    @staticmethod
    def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
        """Stack items, which must have one size.

        Raises:
            SegkdError: they differ in size, as only those of validation can.
        """
        for key in ("image", "mask"):
            sizes = {f"{item[key].shape[-1]}x{item[key].shape[-2]}" for item in items}
            if len(sizes) > 1:
                raise SegkdError(
                    f"a validation batch mixes {key} sizes {', '.join(sorted(sizes))} (width x height): "
                    "set validation.batch_size=1"
                )
        return default_collate(items)
