"""A stored teacher that has seen each image once, as a whole: what it says of a view is cut out of that.

As with the label maps of Yun et al., "Re-labeling ImageNet: from Single to Multi-Labels, from Global to Localized
Labels" (CVPR 2021): one run of the teacher serves any number of views. It is near what the teacher says of a view, and
not the same: there it sees the view at its own scale, and nothing beyond its border.
"""

from collections.abc import Collection
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from segkd.errors import SegkdError
from segkd.losses._common import full_precision
from segkd.outputs import tensors_of
from segkd.segmentation.inference import padded, size_multiple
from segkd.step import Step, View
from segkd.stored import Stored

SIZE = "size"
"""The place of an image's size as the teacher saw it, int64 (4,): height and width, and both with what was padded."""


class Whole(Stored):
    """A live model of which is stored what it gives for whole images; see `segkd.teachers.Stored`.

    All that is read of it must be maps (C, h, w) of the image. A step needs ``crops`` beside its views.
    """

    whole = True

    def key(self, view: View) -> View:
        """Return the one view of the whole image."""
        return 0, view[1]

    def places(self, reads: Collection[str]) -> list[str]:
        """Return the places under which the values read at these are stored, the image's size among them."""
        return [*super().places(reads), SIZE]

    @torch.no_grad()
    def keep(self, images: Tensor, reads: Collection[str], target: Any = None) -> dict[str, Any]:
        """Run the model on whole images of any size; return the batch's values to store, by place.

        Raises:
            SegkdError: what is read at a place is no map of the image.
        """
        larger = padded(images, size_multiple(self.module))
        found = super().keep(larger, reads, target)
        for place, value in found.items():
            for x in tensors_of(value):
                if x.dim() != 4:
                    raise SegkdError(
                        f"teacher.store.whole: {place!r} gives {tuple(x.shape)}, not maps (B, C, h, w), of which a "
                        "view's part could be cut out: leave it out"
                    )
        size = torch.tensor([*images.shape[-2:], *larger.shape[-2:]])
        return {**found, SIZE: size.expand(len(images), -1)}

    def together(self, found: list[Any], step: Step, device: torch.device) -> dict[str, Any]:
        """Return the views' parts of what was read of their images, as a batch on a device."""
        if step.crops is None:
            raise SegkdError("a teacher that has seen whole images needs the crops of the views: distiller(crops=...)")
        size, parts = step.images.shape[-2:], []
        for of_image, crop in zip(found, step.crops.to(device), strict=True):
            whole = of_image.pop(SIZE).tolist()
            parts.append({place: _cut_all(value, crop, whole, size) for place, value in of_image.items()})
        return super().together(parts, step, device)


def _cut_all(value: Any, crop: Tensor, whole: list[int], size: torch.Size) -> Any:
    if isinstance(value, dict):
        return {key: _cut_all(each, crop, whole, size) for key, each in value.items()}
    if isinstance(value, list):
        return [_cut_all(each, crop, whole, size) for each in value]
    height, width, *larger = whole
    return cut(value.to(crop.device), crop * crop.new_tensor([width / larger[1], height / larger[0]] * 2), larger, size)


def cut(x: Tensor, crop: Tensor, whole: "tuple[int, int] | list[int]", view: "tuple[int, int] | torch.Size") -> Tensor:
    """Return the part of an image's map that a view shows, as large as the map of the view would be; bilinear.

    Beyond the image's border the nearest value is repeated.

    Args:
        x: (C, h, w), of the whole image.
        crop: (4,), where in the image the view lies, see `segkd.step.Step`.
        whole: height and width of the image, in pixels.
        view: those of the view.

    Returns:
        (C, h', w'), where h' is to the view's height as h to the image's.
    """
    height, width = (max(round(n * of / full), 1) for n, of, full in zip(x.shape[-2:], view, whole, strict=True))
    with full_precision(x, crop) as (wide, edges):  # autocast would round where the view lies
        first, last = edges.to(wide.dtype).view(2, 2)
        # Of the view's coordinates, from -1 to 1, the image's: the span of the crop times these, and its middle.
        affine = torch.cat([torch.diag(last - first), (first + last - 1)[:, None]], dim=1)
        grid = F.affine_grid(affine[None], [1, 1, height, width], align_corners=False)
        found = F.grid_sample(wide[None], grid, padding_mode="border", align_corners=False)
    return found[0].to(x.dtype)
