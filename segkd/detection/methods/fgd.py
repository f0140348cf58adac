"""FGD: focal and global distillation of FPN maps (Yang et al., arXiv 2111.11837)."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from segkd.detection.output import DetectorOutput, shared_strides
from segkd.detection.targets import Targets
from segkd.errors import SegkdError, nearest
from segkd.losses._common import check_maps, check_temperature, full_precision
from segkd.losses.base import Loss

Variant = Literal["paper", "released"]


def spatial_attention(features: Tensor, temperature: float) -> Tensor:
    """Return h*w * softmax over positions of mean_c |F| / T, (B, h, w), of features (B, C, h, w)."""
    return features.shape[2:].numel() * (features.abs().mean(1).flatten(1) / temperature).softmax(1).unflatten(
        1, features.shape[2:]
    )


def channel_attention(features: Tensor, temperature: float) -> Tensor:
    """Return C * softmax over channels of mean_hw |F| / T, (B, C), of features (B, C, h, w)."""
    return features.shape[1] * (features.abs().mean((2, 3)) / temperature).softmax(1)


def foreground_mask(boxes: Tensor, image_size: tuple[int, int], map_size: tuple[int, int]) -> Tensor:
    """Return (h, w): in each box 1 over the number of cells that it covers, where boxes overlap the largest; 0 outside.

    A box covers the columns from the floor of its left side to the ceiling of its right one, both included, and rows
    alike. It is clipped to the image first; cells beyond the map count in its number.

    Args:
        boxes: (M, 4), xyxy in pixels; M may be 0.
        image_size: height and width in pixels that the map stands for.
        map_size: h and w.
    """
    sides = []
    for axis, (length, cells) in enumerate(zip(image_size[::-1], map_size[::-1], strict=True)):
        ends = boxes[:, axis::2].clamp(0, length) * cells / length
        first, last = ends[:, :1].floor(), ends[:, 1:].ceil()
        cell = torch.arange(cells, device=boxes.device)
        sides.append(((cell >= first) & (cell <= last)) / (last - first + 1))
    columns, rows = sides
    return (rows[:, :, None] * columns[:, None, :]).amax(0) if len(boxes) else boxes.new_zeros(map_size)


def background_mask(foreground: Tensor) -> Tensor:
    """Return (h, w): 1 over the number of cells that lie in no box, there; 0 in the boxes."""
    outside = (foreground == 0).to(foreground.dtype)
    return outside / outside.sum().clamp(min=1)


class GlobalContext(nn.Module):
    """What is added to each position of a map: its weighted mean over the positions through a bottleneck.

    expand(ReLU(LN(reduce(v)))), v = sum_x softmax_x(mask(F)) F; 0 at the start. (B, C, h, w) to (B, C, 1, 1).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(channels // 2, 1)
        self.mask, self.reduce = nn.Conv2d(channels, 1, 1), nn.Conv2d(channels, hidden, 1)
        self.norm, self.expand = nn.LayerNorm([hidden, 1, 1]), nn.Conv2d(hidden, channels, 1)
        nn.init.kaiming_normal_(self.mask.weight)
        for constant in (self.mask.bias, self.expand.weight, self.expand.bias):
            assert constant is not None
            nn.init.zeros_(constant)

    def forward(self, features: Tensor) -> Tensor:
        """Return what is added."""
        share = self.mask(features).flatten(2).softmax(2)
        context = (features.flatten(2) @ share.transpose(1, 2))[..., None]
        added: Tensor = self.expand(self.norm(self.reduce(context)).relu())
        return added


class FocalLevel(nn.Module):
    """FGD's trained layers and terms of one FPN level.

    Args:
        student_channels: where they are not the teacher's, a 1x1 convolution with bias maps the student's.
        teacher_channels: of both context blocks.
    """

    def __init__(self, student_channels: int, teacher_channels: int) -> None:
        super().__init__()
        same = student_channels == teacher_channels
        self.align = nn.Identity() if same else nn.Conv2d(student_channels, teacher_channels, 1)
        self.context_s, self.context_t = GlobalContext(teacher_channels), GlobalContext(teacher_channels)

    def forward(self, student: Tensor, teacher: Tensor, foreground: Tensor, temperature: float) -> dict[str, Tensor]:
        """Return the four terms, unweighted, of maps (B, C, h, w) and the foreground masks (B, h, w)."""
        with full_precision(student, teacher.detach()) as (s, t):
            s = self.align(s)
            batch, difference = s.shape[0], s - t
            spatial, channel = spatial_attention(t, temperature), channel_attention(t, temperature)
            background = torch.stack([background_mask(mask) for mask in foreground])
            # One map of errors for both masks: nothing else of the features' size is kept.
            error = spatial * torch.einsum("bchw,bc->bhw", difference.square(), channel)
            attention = (spatial_attention(s, temperature) - spatial).abs().sum()
            attention = attention + (channel_attention(s, temperature) - channel).abs().sum()
            relation = difference + (self.context_s(s) - self.context_t(t))
            return {
                "foreground": (foreground * error).sum() / batch,
                "background": (background * error).sum() / batch,
                "attention": attention / batch,
                "global": relation.square().sum() / batch,
            }


class FGD(Loss):
    """Focal and global distillation: FPN maps copied in the boxes and around them, where and in what the teacher looks.

        A_S = h * w * softmax_hw(mean_c |F| / T), A_C = C * softmax_c(mean_hw |F| / T), of each level
        focal = sum of (alpha * M + beta * N) * A_S^t * A_C^t * (F_s - F_t)^2
        attention = sum |A_S^s - A_S^t| + sum |A_C^s - A_C^t|
        global = sum of (R_s(F_s) - R_t(F_t))^2
        L = sum over the levels of (focal + gamma * attention + lam * global) / B

    M is the `foreground_mask`, in which each box counts as much as any other, N the `background_mask`; R adds a
    `GlobalContext`, of which both are trained. Each level has layers of its own, and a 1x1 convolution with bias where
    the student's channels are others; `prepare` makes them. For students with another head than the teacher's, and for
    two-stage detectors. The weights of each family of detectors:

    | student            | alpha  | beta   | gamma | lam  | T   |
    | ------------------ | ------ | ------ | ----- | ---- | --- |
    | RetinaNet, GFL     | 1e-3   | 5e-4   | 5e-4  | 5e-6 | 0.5 |
    | FCOS               | 1.6e-3 | 8e-4   | 8e-4  | 8e-6 | 0.8 |
    | Faster, Mask R-CNN | 5e-5   | 2.5e-5 | 5e-5  | 5e-7 | 0.5 |

    The released code takes boxes to the map by the image's own size, while the map covers what the batch is padded to:
    ``variant="released"`` does; and its slices wrap round where a box leaves the image, which this does not repeat.
    Published on COCO, 2x, also: RetinaNet X101 teaches R50 from 37.4 to 40.7 AP, FCOS R101 R50 from 38.5 to 42.7.

    Args:
        alpha: weight of the foreground.
        beta: weight of the background.
        gamma: weight of the attention.
        lam: weight of the global relation.
        temperature: T, above 0.
        variant: ``"paper"`` or ``"released"``.
        strides: of the levels that are compared; None: all that both have, of two-stage detectors without P6.

    Shape:
        student, teacher: what `DetectionAdapter` reads as ``"pyramid"``, maps (B, C, h, w) of as many images; target:
        the transformed targets. Returns a scalar.

    Raises:
        SegkdError: no level is shared, an option is out of its range, or it was not prepared for these maps.

    Reference: Yang et al., "Focal and Global Knowledge Distillation for Detectors", arXiv 2111.11837.

    Config:
        task: detection
        distill:
          terms:
            fgd:
              {loss: fgd, alpha: 0.001, beta: 0.0005, gamma: 0.0005,
               lam: 0.000005, temperature: 0.5, weight: 1.0}

    Example:
        >>> import torch
        >>> from torchvision.models.detection.image_list import ImageList
        >>> from segkd.detection.methods import FGD
        >>> images = ImageList(torch.zeros(1, 3, 64, 96), [(64, 96)])
        >>> student, teacher = (DetectorOutput(images, {8: torch.randn(1, 4, 8, 12)}) for _ in range(2))
        >>> loss = FGD()
        >>> loss.prepare(student, teacher)
        >>> loss(student, teacher, [{"boxes": torch.tensor([[8.0, 8.0, 40.0, 60.0]])}]).shape
        torch.Size([])
    """

    name = "fgd"
    title = "Focal and global distillation"
    paper = "arXiv 2111.11837"
    reads = "pyramid"
    takes = "the FPN of detectors, and boxes"
    default_weight = 1.0
    normalization = "sums / B of each level, times alpha to lam: those of RetinaNet and GFL"
    keeps = "in one size"
    trains = "context of both sides, 1x1 convolution"
    published = "COCO, GFL, R101 teaches R50: 40.2 to 43.5 AP"

    alpha: float = 1e-3
    beta: float = 5e-4
    gamma: float = 5e-4
    lam: float = 5e-6
    temperature: float = 0.5
    variant: Variant = "paper"
    strides: Sequence[int] | None = None

    def check(self) -> None:
        """Look at the options."""
        check_temperature(self.temperature)
        if self.variant not in get_args(Variant):
            raise SegkdError(f"fgd has no variant {self.variant!r}, {nearest(self.variant, get_args(Variant))}")
        self.levels = nn.ModuleDict()

    def prepare(self, student: DetectorOutput, teacher: DetectorOutput) -> None:
        """Make the layers of each level; those that are there stay."""
        for stride in shared_strides(self.name, student, teacher, self.strides):
            s, t = student.maps[stride], teacher.maps[stride]
            if str(stride) not in self.levels:
                self.levels[str(stride)] = FocalLevel(s.shape[1], t.shape[1]).to(s.device)

    def forward(self, student: DetectorOutput, teacher: DetectorOutput, target: Targets) -> Tensor:
        """Return the loss, a scalar."""
        if not self.levels:
            raise SegkdError("fgd has no layers yet: call prepare(student, teacher) first, as a Distiller does")
        weights = {"foreground": self.alpha, "background": self.beta, "attention": self.gamma, "global": self.lam}
        total = []
        for stride in map(int, self.levels):
            s, t = student.maps[stride], teacher.maps[stride]
            check_maps(self.name, s, t)
            terms = self.levels[str(stride)](s, t, self.foreground(student, target, stride), self.temperature)
            total += [weights[name] * value for name, value in terms.items()]
        return torch.stack(total).sum()

    def foreground(self, student: DetectorOutput, target: Targets, stride: int) -> Tensor:
        """Return the foreground masks (B, h, w) of a level."""
        sizes = student.images.image_sizes
        if self.variant == "paper":
            height, width = student.images.tensors.shape[-2:]
            sizes = [(height, width)] * len(sizes)
        shape = student.maps[stride].shape
        masks = [
            foreground_mask(of_image["boxes"], size, (shape[-2], shape[-1]))
            for of_image, size in zip(target, sizes, strict=True)
        ]
        return torch.stack(masks)
