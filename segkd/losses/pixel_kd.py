"""Pixel-wise knowledge distillation: the Hinton loss at each pixel."""

import torch
from torch import Tensor

from segkd.errors import SegkdError
from segkd.losses._common import check_pair, check_temperature, full_precision, pixel_mean, valid_pixels
from segkd.losses._kl import KL
from segkd.losses.base import Loss


def pixel_kl(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Return KL(teacher || student) over the classes at each pixel.

    Args:
        student: (B, C, h, w) logits.
        teacher: the same shape.
        temperature: divides both, above 0.

    Returns:
        (B, h, w) in nats, not multiplied by the squared temperature.
    """
    check_temperature(temperature)
    check_pair("pixel_kl", student, teacher)
    kl: Tensor = KL.apply(student, teacher, temperature, None)
    return kl


def standardized(name: str, logits: Tensor) -> Tensor:
    """Return (z - mean) / (std + 1e-7) over the classes of each pixel, with the unbiased deviation.

    Args:
        name: of the loss, for the error.
        logits: (B, C, h, w), C of at least 3: those of two classes become the same at every pixel, but for the sign.

    Returns:
        The same shape, in float32 (float64 for float64 logits). Logits that are all equal become zeros, with a slope of
        1e7.
    """
    if logits.shape[1] < 3:
        raise SegkdError(f"{name} with standardize needs at least 3 classes, got logits {tuple(logits.shape)}")
    with full_precision(logits) as (z,):
        # By hand: torch.std along the classes takes three times as long on the CPU.
        centred = z - z.mean(1, keepdim=True)
        variance = centred.square().sum(1, keepdim=True) / (z.shape[1] - 1)
        varies = variance > 0
        return centred / (torch.where(varies, variance, 1.0).sqrt() * varies + 1e-7)


class PixelKD(Loss):
    """Pixel-wise KD: T^2 * mean over B*h*w of KL(softmax_c(z_t / T) || softmax_c(z_s / T)).

    With ``standardize`` the logits first get mean 0 and deviation 1 over the classes of each pixel, so that the student
    copies their order and relations without their range: logit standardisation (Sun et al., arXiv 2403.01427), with
    temperature 2 and weight 9 there.

    The code released with AICSD averages over B*C*h*w and leaves T^2 out: its weight 10 is 10 / C here.

    Args:
        temperature: divides the logits, above 0.
        ignore_index: leave pixels with this label out, when labels are given; None (the field's habit) keeps them. In a
            distributed run their number is averaged over processes, so that each pixel counts alike.
        standardize: the logits over the classes, of which there are then at least 3.

    Shape:
        student, teacher: (B, C, h, w) logits; target: (B, H, W) labels, read only with ``ignore_index``.
        Returns a scalar.

    Raises:
        SegkdError: shapes differ, the temperature is not above 0, or there are too few classes to standardize.

    Reference: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", arXiv 1503.02531, per pixel.

    Example:
        >>> import torch
        >>> from segkd.losses import PixelKD
        >>> PixelKD(temperature=2.0)(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4)).item()
        0.0
    """

    name = "pixel_kd"
    title = "Pixel-wise KD"
    paper = "arXiv 1503.02531"
    default_weight = 1.0
    normalization = "T^2 * mean of KL over the B * h * w pixels"

    temperature: float = 1.0
    ignore_index: int | None = None
    standardize: bool = False

    def check(self) -> None:
        """Look at the temperature."""
        check_temperature(self.temperature)

    def forward(self, student: Tensor, teacher: Tensor, target: Tensor | None = None) -> Tensor:
        """Return the loss, a scalar."""
        check_pair(self.name, student, teacher)
        if self.standardize:
            student, teacher = standardized(self.name, student), standardized(self.name, teacher)
        kl = pixel_kl(student, teacher, self.temperature)
        return pixel_mean(kl, valid_pixels(target, self.ignore_index, student)) * self.temperature**2
