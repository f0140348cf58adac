"""IKD: features compared on images that fool the teacher (Liang et al., arXiv 2209.09841)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from segkd.losses._layers import LayerLoss


def adversarial_images(
    images: Tensor,
    loss: Callable[[Tensor], Tensor],
    steps: int = 5,
    epsilon: float = 8 / 255,
    alpha: float = 2 / 255,
    decay: float = 1.0,
) -> Tensor:
    """Return images that a model is wrong about, by the sign of its loss's gradient with momentum (DI-FGSM).

    In each step g' = g / ||g||_1 + decay * g'_before and x moves by alpha * sign(g'), no further than epsilon from the
    image in all, both times the image's widest range of a channel, and not out of each channel's own range. The
    released code resizes the images at random in each step as well; this does not.

    Args:
        images: (B, C, h, w), as the model takes them; not changed.
        loss: of images of this shape a scalar, the sum (or mean) of what each image says of itself alone: a detector's
            classification loss on the ground truth.
        steps: how often it is taken.
        epsilon: of the range, at least 0.
        alpha: of the range, at least 0.
        decay: of the momentum.

    Returns:
        The same shape, without gradient.

    Reference: Liang et al., "Exploring Inconsistent Knowledge Distillation for Object Detection with Data
    Augmentation", arXiv 2209.09841.

    Example:
        >>> from segkd.detection.methods.inconsistent_kd import adversarial_images
        >>> x = torch.rand(1, 3, 4, 4)
        >>> bool(adversarial_images(x, lambda x: x.square().sum()).square().sum() >= x.square().sum())
        True
    """
    clean = images.detach()
    low, high = clean.amin((2, 3), keepdim=True), clean.amax((2, 3), keepdim=True)
    widest = (high - low).amax(1, keepdim=True)
    found, momentum = clean, torch.zeros_like(clean)
    for _ in range(steps):
        x = found.clone().requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(loss(x), x)
        length = gradient.abs().sum((1, 2, 3), keepdim=True)
        momentum = gradient / length.clamp(min=torch.finfo(length.dtype).tiny) + decay * momentum
        moved = found + alpha * widest * momentum.sign()
        moved = moved.clamp(clean - epsilon * widest, clean + epsilon * widest)
        found = moved.clamp(low, high)
    return found


class InconsistentKD(LayerLoss):
    """Inconsistent distillation: on images that fool the teacher its FPN maps are copied all the same.

    sum (F_s - F_t)^2 / B of each level, summed over levels, where both models saw the images of `adversarial_images`,
    beside FGD or MGD on the clean ones. A 1x1 convolution with bias maps the student's channels where they are others.
    The published weight is 1e-5, 2.5e-7 for two-stage detectors, for the first 16 of 24 epochs; it added at most 1.0 AP
    to the method beside it. The images are made once, by the teacher: run both models on them in a loop of your own. A
    config cannot name it, since training there shows both models the clean images.

    Shape:
        student: (B, C_s, h, w) features; teacher: (B, C_t, h, w), taken without gradient; or lists of such pairs.
        target is not read. Returns a scalar.

    Raises:
        SegkdError: batch or size differ, or the channels are not those that it was prepared for.

    Reference: Liang et al., "Exploring Inconsistent Knowledge Distillation for Object Detection with Data
    Augmentation", arXiv 2209.09841.

    Example:
        >>> from segkd.detection.methods import InconsistentKD
        >>> loss, x = InconsistentKD(), torch.randn(2, 5, 7, 9)
        >>> loss.prepare(x, x)
        >>> loss(x, x).item()
        0.0
    """

    default_weight = 1e-5
    normalization = "sum over C_t * h * w / B, each pair of maps; 2.5e-7 for two-stage detectors"

    def make(self, student_channels: int, teacher_channels: int) -> nn.Module:
        """Return the convolution where the channels differ, else nothing."""
        same = student_channels == teacher_channels
        return nn.Identity() if same else nn.Conv2d(student_channels, teacher_channels, 1)

    def compare(self, layers: nn.Module, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss of one pair, a scalar."""
        aligned: Tensor = layers(student)
        return (aligned - teacher).square().sum() / len(student)
