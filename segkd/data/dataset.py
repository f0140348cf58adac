"""The data set of all tasks: an image with its label by index, read and augmented; and the batches of them."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import Dataset

from segkd.common.paths import real_paths
from segkd.common.reading import look, read_photo
from segkd.data.annotations import Objects
from segkd.data.description import DatasetSpec, Root
from segkd.data.samples import spread
from segkd.errors import SegkdError
from segkd.step import View

if TYPE_CHECKING:
    from segkd.data.transforms import Transform

LOOKED_AT = 500
"""Images of a split whose files are looked into before training, spread over it: data check looks into all."""


class SeededDataset(Dataset[dict[str, Any]]):
    """The images of one split with their labels, read and transformed, by ``index`` (of epoch 0) or ``(epoch, index)``.

    Args:
        spec: the data set.
        split: which split of it, or a part of one, see `segkd.data.hold_out`.
        transform: of `segkd.data.transforms`. Training leaves out crowds and difficult objects; images without objects
            stay, as background.
        root: where the data lie, if not where the spec says.
        seed: the run's seed; the augmentation of an item derives from ``(seed, epoch, index)`` alone.
        masks: whether objects come with masks, as Mask R-CNN needs them.
        limit: keep only so many images, spread evenly over the split; None keeps all.
        unlabelled: images without labels, whose indices go on behind the last one of the split. Those that are among
            the labelled ones, or held out, are left out.
        views: of each image so many come again and again, epoch by epoch; None: another one in each epoch.
        crops: whether items say where in the image the view lies, see `segkd.data.transforms.Crop`.
        own_jitter: whether the student alone sees jitter of colours and blur, which then is another one in each epoch;
            a teacher sees the image before them.
    """

    # Of a data set that is made otherwise too.
    unlabelled: list[Path] = []  # noqa: RUF012
    views: int | None = None
    own_jitter = False

    def __init__(
        self,
        spec: DatasetSpec,
        split: str,
        transform: "Transform",
        root: Root = None,
        seed: int = 0,
        masks: bool = False,
        limit: int | None = None,
        unlabelled: Sequence[Path] = (),
        views: int | None = None,
        own_jitter: bool = False,
        crops: bool = False,
    ) -> None:
        self.spec, self.seed, self.views = spec, seed, views
        self.transform = transform.with_crops() if crops else transform
        self.own_jitter = own_jitter and bool(transform.jitter)
        self.samples = spec.samples(split, root, masks)
        self.indices, self.limit = spread(self.samples.chosen, limit), limit
        self.unlabelled = self._apart(unlabelled) if unlabelled else []
        if unlabelled and not self.unlabelled:
            raise SegkdError("data.unlabelled.images finds only images of the split that is trained on")
        if unlabelled and self.samples.seconds:
            raise SegkdError(
                f"data.unlabelled: teachers of {spec.name!r} see images_teacher, which images without labels lack"
            )

    def _apart(self, images: Sequence[Path]) -> list[Path]:
        """Return those images that are neither labelled nor held out, each once, whatever path leads to it."""
        samples = self.samples
        real = real_paths([*samples.images, *images])
        # What was held out is not to be seen in training, not even without its labels.
        held_out = set(range(len(samples))) - set(samples.chosen)
        known = {real[samples.images[place]] for place in held_out.union(self.indices)}
        first = {real[path]: path for path in reversed(images)}
        return [path for path in images if real[path] not in known and first[real[path]] == path]

    def __len__(self) -> int:
        return len(self.indices)  # of those with a label

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        key = key if isinstance(key, tuple) else (0, key)
        epoch, index = self.view(key)
        seeds = [self._drawn(epoch, index), *([self._drawn(*key, 1)] if self.own_jitter else [])]
        item = {**self.item(index, *seeds), "index": index, "epoch": epoch}
        return {**item, "labelled": index < len(self)} if self.unlabelled else item

    def _drawn(self, *of: int) -> int:
        return int(np.random.SeedSequence([self.seed, *of]).generate_state(1)[0])

    def view(self, key: View) -> View:
        """Return the view that is seen in an epoch: that of an earlier one, where views come again."""
        epoch, index = key
        return (epoch if self.views is None else epoch % self.views), index

    def whole(self, transform: "Transform") -> "SeededDataset":
        """Return the same images, each seen in one way alone: as a transform without random steps has it."""
        found = copy.copy(self)
        found.transform, found.seed, found.views, found.own_jitter = transform, 0, 1, False
        return found

    def files(self) -> list[Path]:
        """Return the files that images are read from, in the order of their indices: those that teachers see too."""
        samples = self.samples
        seconds = [samples.seconds[place] for place in self.indices] if samples.seconds else []
        return [*(samples.images[place] for place in self.indices), *self.unlabelled, *seconds]

    def told(self) -> list[str]:
        """Return a line for each thing that a person should know of these images; raise if nothing can be learnt."""
        looked_at = spread(self.indices, LOOKED_AT)
        self.samples.check_seconds(looked_at)
        converted = look(self.samples.images[place] for place in looked_at)
        count, lacking = len(self.indices), self.limit is not None and self.limit > len(self.indices)
        few = [f"data.limit is {self.limit}, and {self.samples.split} has {count} images"] if lacking else []
        return [*self.samples.remarks, *few, *converted, *self.samples.told(self.indices)]

    def item(self, index: int, seed: int, jitter_seed: int | None = None) -> dict[str, Any]:
        """Return the image at ``index`` with its label, augmented by ``seed``, its jitter by one of its own if given.

        Returns:
            ``image`` uint8 (3, H, W); where a teacher sees something else ``image_teacher``, float32 (C, H, W) in
            [0, 1], or uint8 (3, H, W), the image without jitter; with ``crops`` its ``crop``. Of a mask: ``mask``
            (H, W), int64 where it holds whole numbers. Of objects: ``boxes`` float32 (N, 4) xyxy in pixels of the
            image, ``labels`` int64 (N,) in 1 to K, ``masks`` uint8 (N, H, W) if asked for, ``size`` (height, width) of
            the image as read; for evaluation also ``area`` float32 (N,), pixels of each object in ``image``, and
            ``crowd`` and ``difficult``, bool (N,).
        """
        second = None
        if index < len(self):
            image, label = self.samples.read(self.indices[index])
            second = self.samples.second(self.indices[index], image.shape)
        else:
            image = read_photo(self.unlabelled[index - len(self)], self.spec.max_pixels).pixels
            label = self.samples.nothing((image.shape[0], image.shape[1]))
        if isinstance(label, Objects) and self.transform.training:
            label = label.select(~(label.crowd | label.difficult))
        out, seen, crop = self.transform.apart(image, label, seed, second, jitter_seed)
        item: dict[str, Any] = {"image": _tensor(out.image.transpose(2, 0, 1))}
        if second is not None or jitter_seed is not None:
            item["image_teacher"] = _tensor(seen.transpose(2, 0, 1))
        if crop is not None:
            item["crop"] = crop
        if not isinstance(out.label, Objects):
            return {**item, "mask": _tensor(out.label)}
        objects, before, after = out.label, image.shape[:2], out.image.shape[:2]
        item |= {"boxes": _tensor(objects.boxes), "labels": _tensor(objects.labels), "size": before}
        if objects.masks is not None:
            item["masks"] = _tensor(objects.masks)
        if not self.transform.training:
            enlarged = after[0] * after[1] / (before[0] * before[1])
            item["area"] = _tensor(objects.areas) * enlarged
            item |= {"crowd": _tensor(objects.crowd), "difficult": _tensor(objects.difficult)}
        return item

    @staticmethod
    def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
        """Make a batch of items: what has one size is stacked; images with objects are lists.

        Returns:
            ``index`` and ``epoch``, int64 (B,); ``labelled``, bool (B,), where some images have no label; with
            ``crops`` ``crop``, float32 (B, 4). Of masks: ``image`` (B, 3, H, W) and ``mask`` (B, H, W). Of objects:
            ``images``, a list of tensors whose sizes may differ, and ``targets``, a list of dicts of the rest.
        """
        known = [key for key in ("index", "epoch", "labelled", "crop") if key in items[0]]
        keys: dict[str, Any] = {key: torch.tensor([item[key] for item in items]) for key in known}
        if "boxes" in items[0]:
            rest = [key for key in items[0] if key not in ("image", "epoch", "labelled", "crop")]
            targets = [{key: item[key] for key in rest} for item in items]
            return {"images": [item["image"] for item in items], "targets": targets, **keys}
        stacked = [key for key in ("image", "mask", "image_teacher") if key in items[0]]
        for key in stacked:
            sizes = {f"{item[key].shape[-1]}x{item[key].shape[-2]}" for item in items}
            if len(sizes) > 1:
                raise SegkdError(
                    f"a validation batch mixes {key} sizes {', '.join(sorted(sizes))} (width x height): "
                    "set validation.batch_size=1"
                )
        return {**{key: torch.stack([item[key] for item in items]) for key in stacked}, **keys}


def _tensor(values: np.ndarray) -> torch.Tensor:
    """Return pixels as they are, whole numbers (H, W) of a mask as int64."""
    is_mask = values.ndim == 2 and np.issubdtype(values.dtype, np.integer)
    return torch.from_numpy(values.astype(np.int64) if is_mask else np.ascontiguousarray(values))
