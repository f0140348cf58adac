"""Gradient-guided KD: features as they matter to each detector's own loss (Lan and Tian, arXiv 2303.04240)."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from segkd.detection.heads import DenseHead, check_heads
from segkd.detection.output import DenseOutput
from segkd.detection.targets import Targets
from segkd.errors import SegkdError, nearest
from segkd.losses._common import check_maps, full_precision
from segkd.losses.base import Loss

Variant = Literal["paper", "released"]
SCALE = 1024.0
"""What a loss is multiplied by for its gradient, which in float16 would vanish otherwise."""


def activation_map(features: Tensor, gradient: Tensor, variant: Variant = "paper") -> Tensor:
    """Return (B, h, w) in [0, 1]: how strong the features are, each channel weighed by a loss's mean gradient.

    |sum_k w_k F_k| with w_k = mean_hw of the gradient; less its minimum, over its maximum + 1e-7, of each image. w has
    no gradient.

    Args:
        features: (B, C, h, w).
        gradient: of the loss at the features, the same shape.
        variant: ``"released"`` takes the gradient's and the features' absolute values instead.
    """
    with full_precision(features, gradient.detach()) as (x, slope):
        if variant == "released":
            strength = torch.einsum("bchw,bc->bhw", x.abs(), slope.abs().mean((2, 3)))
        else:
            strength = torch.einsum("bchw,bc->bhw", x, slope.mean((2, 3))).abs()
        strength = strength - strength.amin((1, 2), keepdim=True)
        return strength / (strength.amax((1, 2), keepdim=True) + 1e-7)


@torch.compiler.disable
def gradients(output: DenseOutput, target: Targets) -> list[Tensor]:
    """Return the gradient of a detector's own loss, summed over images, at each of its FPN maps.

    A teacher's head, and a student's where there is no gradient, runs once more for that.
    """
    with torch.enable_grad():
        maps = list(output.maps.values())
        if all(x.requires_grad for x in maps):
            found = torch.autograd.grad(_scaled_loss(output, target), maps, retain_graph=True)
        else:
            predictions = {name: x.detach().requires_grad_() for name, x in output.predictions.items()}
            loss = _scaled_loss(replace(output, predictions=predictions, towers={}), target)
            slopes = torch.autograd.grad(loss, list(predictions.values()), materialize_grads=True)
            # Image by image, which no norm of a head mixes: all that a head keeps for backward is gigabytes.
            images = [zip(*(x.detach().split(1) for x in side), strict=True) for side in (maps, slopes)]
            each = [_head_backward(output.head, *of_image) for of_image in zip(*images, strict=True)]
            found = tuple(torch.cat(of_level) for of_level in zip(*each, strict=True))
    return [gradient.to(torch.promote_types(gradient.dtype, torch.float32)) / SCALE for gradient in found]


def _scaled_loss(output: DenseOutput, target: Targets) -> Tensor:
    return torch.stack(list(output.loss(target).values())).sum() * len(target) * SCALE


def _head_backward(head: DenseHead, maps: Sequence[Tensor], slopes: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return the gradients at a head's maps, of those at its predictions."""
    leaves = [x.requires_grad_() for x in maps]
    return torch.autograd.grad(list(head.run(leaves)[0].values()), leaves, list(slopes))


class GradientGuided(Loss):
    """Gradient-guided KD: maps of what matters to each detector's own loss are to be alike.

        M = |sum_k w_k F_k|, scaled to [0, 1]; w_k = mean_hw of the gradient of the detector's loss at channel k
        L = sum over the levels of the mean over B, h, w of |M_s - M_t|

    See `activation_map`. The loss is the detector's own on the labels; one that is a mean over images is taken times
    their number. The gradient of L flows through the student's features alone, not through the weights of the channels.
    It costs a backward pass through each head and a second run of the teacher's. For one-stage detectors, of any two
    families and widths: what the channels mean does not matter.

    Released code takes each detector's ten best detections for labels, resizes maps to the image and back, and computes
    in numpy: its term has no gradient. ``variant="released"`` has its formula of M, by absolute values, and none of
    that. The paper's second part, FGD's foreground term in boxes grown by a Gaussian, is not here. The weight of GFL is
    0.5, on KITTI 0.1; the published gain is of both parts.

    Args:
        variant: ``"paper"`` or ``"released"``.

    Shape:
        student, teacher: what `DetectionAdapter` reads as ``"head"``; target: the transformed targets. Returns a
        scalar.

    Raises:
        SegkdError: the variant does not exist.

    Reference: Lan, Tian, "Gradient-Guided Knowledge Distillation for Object Detectors", arXiv 2303.04240.

    Config:
        task: detection
        distill:
          terms:
            gradients: {loss: gradient_guided, variant: paper, weight: 0.5}

    Example:
        >>> from segkd.detection.methods import GradientGuided
        >>> x, slope = torch.randn(1, 4, 6, 6), torch.randn(1, 4, 6, 6)
        >>> GradientGuided().of_level(x, 3 * x, slope, slope).item() < 1e-6
        True
    """

    name = "gradient_guided"
    title = "Gradient-guided distillation"
    paper = "arXiv 2303.04240"
    reads = "head"
    takes = "the FPN of one-stage detectors, and boxes"
    default_weight = 0.5
    normalization = "mean over B * h * w, each level"
    published = "KITTI and COCO-Traffic: +5.1 mAP for one-stage detectors, with its second part"
    needs_live = True

    variant: Variant = "paper"

    def check(self) -> None:
        """Look at the variant."""
        if self.variant not in get_args(Variant):
            raise SegkdError(
                f"gradient_guided has no variant {self.variant!r}, {nearest(self.variant, get_args(Variant))}"
            )

    def check_heads(self, term: Any, student: Any, teacher: Any) -> None:
        """Raise `SegkdError` unless both detectors have the same classes and FPN strides."""
        check_heads("GradientGuided", term, student, teacher, same=["num_classes", "strides"])

    def forward(self, student: DenseOutput, teacher: DenseOutput, target: Targets) -> Tensor:
        """Return the loss, a scalar."""
        pairs = zip(student.maps.values(), teacher.maps.values(), strict=True)
        slopes = zip(gradients(student, target), gradients(teacher, target), strict=True)
        levels = [self.of_level(*maps, *both) for maps, both in zip(pairs, slopes, strict=True)]
        return torch.stack(levels).sum()

    def of_level(self, student: Tensor, teacher: Tensor, student_gradient: Tensor, teacher_gradient: Tensor) -> Tensor:
        """Return the loss of one level's features (B, C, h, w) and the gradients at them."""
        check_maps(self.name, student, teacher)
        of_teacher = activation_map(teacher.detach(), teacher_gradient, self.variant)
        return (activation_map(student, student_gradient, self.variant) - of_teacher).abs().mean()
