"""DualRelation: relations between pixels and between objects of FPN maps (Ni et al., arXiv 2302.05637)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import roi_align

from segkd.detection.output import DetectorOutput, shared_strides
from segkd.detection.targets import Targets
from segkd.errors import SegkdError
from segkd.losses._common import check_maps, full_precision, with_contiguous_gradient
from segkd.losses._generator import Draws
from segkd.losses.base import Loss

REGION = 3  # cells along each side of an object's region
INSTANCE_LEVELS = 2  # the finest ones

Filter = tuple[Tensor, Tensor]
"""A linear map's weight (n, 9C) and bias (n,)."""


class PixelGraph(nn.Module):
    """Adds to a map what its positions say as a small graph of nodes (GloRe); (B, C, h, w) to the same.

    The positions are gathered in nodes by `project`, each a vector of 2 * nodes that `state` gives; `nodes` mixes the
    nodes and `states` their values, and the same projection brings them back.
    """

    def __init__(self, channels: int, nodes: int) -> None:
        super().__init__()
        self.state, self.project = nn.Linear(channels, 2 * nodes), nn.Conv2d(channels, nodes, 1)
        self.nodes, self.states = nn.Linear(nodes, nodes), nn.Linear(2 * nodes, 2 * nodes, bias=False)
        self.extend = nn.Linear(2 * nodes, channels, bias=False)
        self.norm = nn.BatchNorm2d(channels, eps=1e-4, track_running_stats=False)

    def forward(self, features: Tensor) -> Tensor:
        """Return the map with what the graph adds."""
        share = self.project(features).flatten(2)
        # Both 1x1 convolutions to and from the states are applied to the nodes, of which there are fewer than pixels.
        gathered = share @ features.flatten(2).transpose(1, 2)
        values = gathered @ self.state.weight.T + share.sum(2, keepdim=True) * self.state.bias
        values = values.transpose(1, 2)
        mixed = (self.nodes(values) + values).relu()
        added = self.extend(self.states(mixed.transpose(1, 2))).transpose(1, 2) @ share
        # As in training mode always. nn.BatchNorm2d refuses a single value of a channel, which here becomes the bias.
        normed = torch.batch_norm(
            added.unflatten(2, features.shape[2:]),
            self.norm.weight,
            self.norm.bias,
            None,
            None,
            True,
            0.0,
            self.norm.eps,
            torch.backends.cudnn.enabled,
        )
        return features + with_contiguous_gradient(normed)


class PixelRelation(nn.Module):
    """The pixel relation of one FPN level: the norm of A(G_s(F_s)) - G_t(F_t), with A a 1x1 convolution."""

    def __init__(self, student_channels: int, teacher_channels: int, nodes: int) -> None:
        super().__init__()
        self.student, self.teacher = PixelGraph(student_channels, nodes), PixelGraph(teacher_channels, nodes)
        self.adapter = nn.Conv2d(student_channels, teacher_channels, 1)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the norm over maps (B, C, h, w) of the whole batch, a scalar."""
        with full_precision(student, teacher.detach()) as (s, t):
            return torch.linalg.vector_norm(self.adapter(self.student(s)) - self.teacher(t))


class ObjectRelation(nn.Module):
    """Adds to each region (n, C, 3, 3) of an image what the others that resemble it say (a non-local block)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        size, hidden = REGION**2 * channels, REGION**2 * channels // 2
        self.theta, self.phi, self.g = (nn.Linear(size, hidden) for _ in range(3))
        self.W = nn.Linear(hidden, size)

    def forward(self, regions: Tensor, drawn: Filter | None = None) -> Tensor:
        """Return the regions with what is added; ``drawn``: see `DualRelation.draw`."""
        x = regions.flatten(1)
        likeness = self.theta(x) @ self.phi(x).T
        if drawn is not None:
            likeness = likeness * F.linear(x, *drawn).softmax(1)
        added: Tensor = self.W(likeness.softmax(1) @ self.g(x))
        return regions + added.view_as(regions)


class InstanceRelation(nn.Module):
    """The relation of the objects of one FPN level: per image the norm of A(z_s) - z_t, summed."""

    def __init__(self, student_channels: int, teacher_channels: int) -> None:
        super().__init__()
        self.student, self.teacher = ObjectRelation(student_channels), ObjectRelation(teacher_channels)
        self.adapter = nn.Conv2d(student_channels, teacher_channels, 1)

    def forward(
        self,
        student: Sequence[Tensor],
        teacher: Sequence[Tensor],
        filters: Sequence[tuple[Filter | None, Filter | None]],
    ) -> Tensor:
        """Return the sum over images, of which each has regions (n, C, 3, 3) and both sides' filters."""
        return distance(
            self.adapter,
            [self.student(s, of_s) for s, (of_s, _) in zip(student, filters, strict=True)],
            [self.teacher(t, of_t) for t, (_, of_t) in zip(teacher, filters, strict=True)],
        )


def distance(adapter: nn.Module, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Return the sum over images of the norm of A(s) - t; of an image without regions 0."""
    norms = [torch.linalg.vector_norm(adapter(s) - t) for s, t in zip(student, teacher, strict=True)]
    return torch.stack(norms).sum()


class DualRelation(Draws, Loss):
    """Dual relation: of FPN maps how pixels relate to each other, how objects do, and the objects' regions themselves.

        L = sum over the levels of pixel * ||A G_s(F_s) - G_t(F_t)||
          + sum over the two finest levels and the images of relation * ||A z_s - z_t|| + region * ||A r_s - r_t||
        z = r + W (softmax(theta(r) phi(r)^T) g(r)), an image's regions r of the boxes, by RoIAlign of 3x3 cells

    G is a `PixelGraph`, z an `ObjectRelation`; the first norm is of the whole batch. Each A is a 1x1 convolution with
    bias, whatever the channels. All layers, on the teacher's side too, are trained with the student and made by
    `prepare`: the relation's hold 4 * (9C)^2 / 2 weights a side and level, at C = 256 42 million in all, which the
    optimiser holds too. What has weight 0 is left out, and its layers too. The norms are not squared, so that the pull
    does not fade as the student gets close, and grow with the root of the images per batch. For students with another
    head than the teacher's, and for two-stage detectors.

    Released code: two-stage detectors have relation at 4e-3, and there the likeness theta phi^T is multiplied by
    the softmax of a linear map that is drawn anew in each step, which ``relation_filter`` does. Not repeated: all
    images read image 0's map there. Published with a RetinaNet X101 or Faster R-CNN X101 as teacher, R50 as student,
    2x.

    Args:
        pixel: weight of the pixel relation.
        relation: weight of the relation of objects; 4e-3 for two-stage detectors.
        region: weight of the regions.
        nodes: of the graphs of the two finest levels, and of the others.
        relation_filter: whether likeness is multiplied by a map drawn in each step, see above.
        strides: of the levels that are compared; None: all that both have, of two-stage detectors without P6.

    Shape:
        student, teacher: what `DetectionAdapter` reads as ``"pyramid"``, maps (B, C, h, w) of as many images; target:
        the transformed targets. Returns a scalar.

    Raises:
        SegkdError: no level is shared, an option is out of its range, or it was not prepared for these maps.

    Reference: Ni, Yang, Wen, Zhang, "Dual Relation Knowledge Distillation for Object Detection", arXiv 2302.05637.

    Config:
        task: detection
        distill:
          terms:
            dual:
              {loss: dual_relation, pixel: 0.001, relation: 0.005,
               region: 0.0024, nodes: [64, 256], weight: 1.0}

    Example:
        >>> import torch
        >>> from torchvision.models.detection.image_list import ImageList
        >>> from segkd.detection.methods import DualRelation
        >>> images = ImageList(torch.zeros(1, 3, 64, 96), [(64, 96)])
        >>> student, teacher = (DetectorOutput(images, {8: torch.randn(1, 4, 8, 12)}) for _ in range(2))
        >>> loss = DualRelation(nodes=[8, 16])
        >>> loss.prepare(student, teacher)
        >>> loss(student, teacher, [{"boxes": torch.tensor([[8.0, 8.0, 40.0, 60.0]])}]).shape
        torch.Size([])
    """

    name = "dual_relation"
    title = "Dual relation distillation"
    paper = "arXiv 2302.05637"
    trains = "relations of pixels and objects, 1x1 convolutions"
    published = "COCO, RetinaNet, X101 teaches R50: 37.4 to 40.3 AP; Faster R-CNN: 38.4 to 41.6 AP"
    reads = "pyramid"
    takes = "the FPN of detectors, and boxes"
    default_weight = 1.0
    normalization = "norms of the batch and of each image, times pixel, relation and region: those of RetinaNet"
    keeps = "in one size"

    pixel: float = 1e-3
    relation: float = 5e-3
    region: float = 2.4e-3
    nodes: Sequence[int] = (64, 256)
    relation_filter: bool = False
    strides: Sequence[int] | None = None

    def check(self) -> None:
        """Look at the options."""
        if len(self.nodes) != 2 or min(self.nodes) < 1:
            raise SegkdError(f"dual_relation's nodes must be two numbers of at least 1, got {self.nodes}")
        weights = {name: getattr(self, name) for name in ("pixel", "relation", "region")}
        if min(weights.values()) < 0 or not any(weights.values()):
            raise SegkdError(f"dual_relation's weights must be at least 0 and not all 0, got {weights}")
        self.pixels, self.relations, self.adapters = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()

    def prepare(self, student: DetectorOutput, teacher: DetectorOutput) -> None:
        """Make the layers of each level; those that are there stay."""
        for rank, stride in enumerate(sorted(shared_strides(self.name, student, teacher, self.strides))):
            channels, device = (
                (student.maps[stride].shape[1], teacher.maps[stride].shape[1]),
                student.maps[stride].device,
            )
            fine, level = rank < INSTANCE_LEVELS, str(stride)
            if self.pixel and level not in self.pixels:
                self.pixels[level] = PixelRelation(*channels, self.nodes[0 if fine else 1]).to(device)
            if self.relation and fine and level not in self.relations:
                self.relations[level] = InstanceRelation(*channels).to(device)
            if self.region and fine and level not in self.adapters:
                self.adapters[level] = nn.Conv2d(*channels, 1, device=device)

    def forward(self, student: DetectorOutput, teacher: DetectorOutput, target: Targets) -> Tensor:
        """Return the loss, a scalar."""
        terms = self.terms(student, teacher, target)
        return torch.stack([getattr(self, name) * sum(terms[name]) for name in terms if terms[name]]).sum()

    def terms(self, student: DetectorOutput, teacher: DetectorOutput, target: Targets) -> dict[str, list[Tensor]]:
        """Return ``"pixel"``, ``"relation"`` and ``"region"``, unweighted, of each level that has them."""
        if not any((self.pixels, self.relations, self.adapters)):
            raise SegkdError(
                "dual_relation has no layers yet: call prepare(student, teacher) first, as a Distiller does"
            )
        found: dict[str, list[Tensor]] = {"pixel": [], "relation": [], "region": []}
        for level, layers in self.pixels.items():
            s, t = (output.maps[int(level)] for output in (student, teacher))
            check_maps(self.name, s, t)
            found["pixel"].append(layers(s, t))
        for level in self.relations or self.adapters:
            s, t = (output.maps[int(level)] for output in (student, teacher))
            check_maps(self.name, s, t)
            width = student.images.tensors.shape[-1]
            with full_precision(s, t.detach()) as maps:
                of_s, of_t = (regions(x, target, width) for x in maps)
                if level in self.relations:
                    filters = [(self.draw(x), self.draw(y)) for x, y in zip(of_s, of_t, strict=True)]
                    found["relation"].append(self.relations[level](of_s, of_t, filters))
                if level in self.adapters:
                    found["region"].append(distance(self.adapters[level], of_s, of_t))
        return found

    def draw(self, of_image: Tensor) -> Filter | None:
        """Return for an image's regions (n, C, 3, 3) a linear map to n, as torch draws one; None without filter.

        It comes from torch's global generator, or from a `torch.Generator` that is set as ``generator``.
        """
        if not self.relation_filter:
            return None
        count, size = len(of_image), of_image.shape[1:].numel()
        weight, bias = of_image.new_empty(count, size), of_image.new_empty(count)
        for drawn in (weight, bias):
            drawn.uniform_(-(size**-0.5), size**-0.5, generator=self.generator)
        return weight, bias


def regions(features: Tensor, target: Targets, width: int) -> list[Tensor]:
    """Return per image the boxes' regions (n, C, 3, 3) of a map (B, C, h, w) that ``width`` pixels stand across."""
    boxes = [of_image["boxes"].to(features.dtype) for of_image in target]
    found: Tensor = roi_align(features, boxes, REGION, spatial_scale=features.shape[-1] / width)
    return list(found.split([len(of_image) for of_image in boxes]))
