"""The detection data set; :mod:`segkd.data.loading` has the loaders."""

import os
from typing import Any

import numpy as np
import torch

from segkd.common.pixels import look
from segkd.data.loading import LOOKED_AT, SeededDataset, spread
from segkd.detection.datasets import DetectionSpec
from segkd.detection.reading import read_annotated, read_annotations
from segkd.detection.transforms import Transform


class DetectionDataset(SeededDataset):
    """The images of one split with their boxes, read and transformed. All annotations are read at once, here.

    Args:
        spec: the data set.
        split: which split of it.
        transform: from :func:`~segkd.detection.transforms.train_transform` or ``eval_transform``. For training, crowds
            and difficult objects are left out. Images without boxes stay, as background.
        root: where the data lie, if not where the spec says.
        seed: the run's seed; the augmentation of an item derives from ``(seed, epoch, index)`` alone.
        masks: whether items hold masks, as Mask R-CNN needs them.
        limit: keep only so many images, spread evenly over the split; None keeps all.

    Raises:
        SegkdError: see :func:`~segkd.detection.reading.read_annotations`; reading an item:
            :func:`~segkd.detection.reading.read_annotated`.
    """

    def __init__(
        self,
        spec: DetectionSpec,
        split: str,
        transform: Transform,
        root: str | os.PathLike[str] | None = None,
        seed: int = 0,
        masks: bool = False,
        limit: int | None = None,
    ):
        self.spec = spec
        self.split = split
        self.transform = transform
        self.seed = seed
        self.masks = masks
        self.annotations = read_annotations(spec, split, root, masks)
        self.indices = spread(list(range(len(self.annotations))), limit)
        looked_at = [self.annotations.images[place] for place in spread(self.indices, LOOKED_AT)]
        self.remarks = self.annotations.remarks + look(looked_at)

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.indices)

    @property
    def dropped(self) -> dict[str, int]:
        """Reason -> how many boxes of the files were left out for it; see `Annotations` for the reasons."""
        return {reason: len(lines) for reason, lines in self.annotations.dropped.items()}

    def item(self, index: int, seed: int) -> dict[str, Any]:
        """Return the image at ``index`` and its objects, augmented by ``seed``.

        Returns:
            ``image`` uint8 (3, H, W), ``boxes`` float32 (N, 4) xyxy in its pixels, ``labels`` int64 (N,) in 1 to K,
            ``masks`` uint8 (N, H, W) if asked for, ``index`` int, ``size`` (height, width) of the image as read. For
            evaluation also ``area`` float32 (N,), pixels of each object in ``image``, and ``crowd`` and ``difficult``,
            bool (N,).
        """
        place = self.indices[index]
        image, objects, masks = read_annotated(self.annotations, place, self.masks)
        if self.transform.training:
            wanted = ~(objects.crowd | objects.difficult)
            objects = objects.select(wanted)
            masks = None if masks is None else masks[wanted]
        out = self.transform(image, objects.boxes, masks, seed)
        objects = objects.select(out.kept)
        item: dict[str, Any] = {
            "image": torch.from_numpy(np.ascontiguousarray(out.image.transpose(2, 0, 1))),
            "boxes": torch.from_numpy(out.boxes),
            "labels": torch.from_numpy(objects.labels),
            "index": index,
            "size": image.shape[:2],
        }
        if out.masks is not None:
            item["masks"] = torch.from_numpy(np.ascontiguousarray(out.masks))
        if not self.transform.training:
            enlarged = out.image.shape[0] * out.image.shape[1] / (image.shape[0] * image.shape[1])
            item["area"] = torch.from_numpy(objects.areas) * enlarged
            item["crowd"] = torch.from_numpy(objects.crowd)
            item["difficult"] = torch.from_numpy(objects.difficult)
        return item

    @staticmethod
    def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
        """Return ``images``, a list of tensors whose sizes may differ, and ``targets``, a list of dicts of the rest."""
        targets = [{key: value for key, value in item.items() if key != "image"} for item in items]
        return {"images": [item["image"] for item in items], "targets": targets}
