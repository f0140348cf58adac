"""Detectors as teachers whose outputs are kept: their FPN maps, or the images that fool them."""

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from segkd.detection.adapter import DetectionAdapter
from segkd.detection.adversarial import ADVERSARIAL, fooling_image
from segkd.detection.feature_maps import fpn_maps
from segkd.detection.output import DetectorOutput
from segkd.detection.targets import Targets
from segkd.step import Step, View
from segkd.stored import Stored
from segkd.taps import inner
from segkd.teachers import Shapes

MAPS = "fpn"
"""The place at which FPN maps are read, and under which they are kept."""


class StoredDetector(Stored):
    """A detector of which is kept what depends on an image alone.

    Its FPN maps do where all images come in one size and are resized to one: it then does not run at all, or, where
    terms read its head, its head alone does, on the maps that were kept. Images of several sizes are padded to the
    largest of their batch, so that it runs on each. The images that fool it are kept whatever their size.

    Args:
        module: see `Stored`.
        cropped: whether all images come in one size.
        head: whether its head may run on maps that were kept; else nothing is kept where it is read.
    """

    runs = True
    cannot = (
        "kept are FPN maps, with data.crop and one data.min_size, and images that fool the teacher: all else depends "
        "on the batch, or is the head's (teacher.store.head=true keeps a one-stage detector's maps and runs its head)"
    )

    adapter: DetectionAdapter

    def __init__(self, module: nn.Module, cropped: bool = False, head: bool = False) -> None:
        super().__init__(module)
        self.cropped, self.head = cropped, head

    def offers(self, reads: Collection[str]) -> Shapes:
        """Hook the modules among the places, and have the adapter ask for images that are kept."""
        if ADVERSARIAL in reads:
            self.adapter.kept = self
        return super().offers(reads)

    def places(self, reads: Collection[str]) -> list[str]:
        """Return under which places it is kept what is read at these."""
        if ADVERSARIAL in reads:
            return [ADVERSARIAL]
        has_maps = bool(reads) and {*reads} <= {MAPS, "pyramid", *(["head"] if self.head else [])}
        is_one_size = self.cropped and len({*self.adapter.transform.min_size}) == 1
        return [MAPS] if has_maps and is_one_size else []

    def about(self) -> dict[str, Any]:
        """Return how the student's transform, which is the teacher's too, resizes and normalises."""
        return {"resized": repr(self.adapter.transform)}

    @torch.no_grad()
    def keep(self, images: Sequence[Tensor], reads: Collection[str], target: Any = None) -> dict[str, Any]:
        """Return FPN maps by stride; or the images that fool it, uint8, with the labels that they were made of."""
        if self.places(reads) == [MAPS]:
            _, inputs, _ = self.adapter.inputs(images)
            return {MAPS: fpn_maps(inner(self.module), inputs.images)[1]}
        found = [fooling_image(self.module, *pair) for pair in zip(images, target, strict=True)]
        labels = {key: tuple(_exact(of_image[key]) for of_image in target) for key in ("boxes", "labels")}
        return {ADVERSARIAL: {"image": tuple((x * 255).round().to(torch.uint8) for x in found), **labels}}

    def __call__(self, step: Step, reads: Collection[str]) -> dict[str, Any]:
        """Return what was kept of the step's views, or what the detector gives where one of them is not there."""
        found = super().__call__(step, reads)
        if "pyramid" in reads and "pyramid" not in found:
            found["pyramid"] = DetectorOutput(step.images.images, found[MAPS])
        if "head" in reads and "head" not in found:
            with torch.no_grad():
                found["head"] = self.adapter.headed(self.module, step.images.images, found[MAPS])
        return found

    def kept(self, step: Step, reads: Collection[str]) -> dict[str, Any] | None:
        """Return the kept maps of a step's views, laid out as the detector gives them; None where it has to run."""
        found = super().kept(step, reads) if self.places(reads) == [MAPS] else None
        if found is None:
            return None
        weights = [weight for weight in self.module.parameters() if weight.dim() == 4]
        if all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights):
            found[MAPS] = {k: x.contiguous(memory_format=torch.channels_last) for k, x in found[MAPS].items()}
        return found

    @torch.compiler.disable
    def complete(self, target: Targets, views: "list[View] | Tensor | None") -> Targets:
        """Return the targets of these views, each with its image that is kept, if it was made of the same labels."""
        if self.entries is None or views is None:
            return target
        keys, found = views.tolist() if isinstance(views, Tensor) else views, []
        for (epoch, index), of_image in zip(keys, target, strict=True):
            kept: Any = self.entries.read((epoch, index), [ADVERSARIAL])
            entry = kept and kept[ADVERSARIAL]
            if entry and all(torch.equal(entry[key], _exact(of_image[key].cpu())) for key in ("boxes", "labels")):
                of_image = {**of_image, ADVERSARIAL: entry["image"].to(of_image["boxes"].device) / 255}
            found.append(of_image)
        return found


def _exact(x: Tensor) -> Tensor:
    """Return float32 values as whole numbers of the same bits, which a store keeps whatever its type is."""
    return x.view(torch.int32) if x.dtype == torch.float32 else x
