"""Pixel-wise knowledge distillation: the Hinton loss at each pixel."""

import torch
from torch import Tensor

from segkd.errors import SegkdError
from segkd.losses._common import (
    UNKNOWN,
    check_pair,
    check_temperature,
    full_precision,
    labelled_pixels,
    pixel_mean,
    valid_pixels,
)
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
    """Pixel-wise KD: the student's probabilities at each pixel are to be the teacher's.

        L = T^2 * mean over B * h * w of KL(softmax_c(z_t / T) || softmax_c(z_s / T))

    Cheap and hard to get wrong: the first to try, what every other method has to beat, and what many papers have beside
    their own. The code released with AICSD averages over B * C * h * w and leaves T^2 out: its weight 10 is 10 / C
    here, 0.53 for the 19 classes of Cityscapes. CIRKD's code is the formula above.

    With ``standardize`` the logits first get mean 0 and deviation 1 over the classes of each pixel, so that the student
    copies their order and relations without their range: logit standardisation (Sun et al., "Logit Standardization in
    Knowledge Distillation", arXiv 2403.01427), with temperature 2 and weight 9 there.

    With ``known`` the teacher may lack classes of the student (``partial: true`` beside its ``class_map`` in a config,
    `segkd.network.Network` with ``student_classes``). A pixel then counts where those that it has get a probability of
    at least ``known`` and its label, if there is one, is among them; both models' softmax is taken over these alone.

    Args:
        temperature: divides the logits, above 0.
        ignore_index: leave pixels with this label out, when labels are given; None (the field's habit) keeps them. In a
            distributed run their number is averaged over processes, so that each pixel counts alike.
        standardize: the logits over the classes, of which there are then at least 3.
        known: probability in [0, 1], 0.5 to begin with; None: the teacher knows all classes.

    Shape:
        student, teacher: (B, C, h, w) logits; target: (B, H, W) labels, read only with ``ignore_index``.
        Returns a scalar.

    Raises:
        SegkdError: shapes differ, the temperature is not above 0, or there are too few classes to standardize.

    Reference: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", arXiv 1503.02531, per pixel.

    Config:
        distill:
          terms:
            kd: {loss: pixel_kd, temperature: 1.0, weight: 1.0}
        ---
        distill:
          terms:
            kd: {loss: pixel_kd, standardize: true, temperature: 2.0, weight: 9.0}

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
    published = "VOC, DeepLabV3+, R101 teaches R18: 67.50 to 69.13 mIoU"

    temperature: float = 1.0
    ignore_index: int | None = None
    standardize: bool = False
    known: float | None = None

    def check(self) -> None:
        """Look at temperature and known."""
        check_temperature(self.temperature)
        if self.known is not None and (self.standardize or not 0 <= self.known <= 1):
            raise SegkdError(f"pixel_kd has known in [0, 1], without standardize, got {self.known}")

    def forward(self, student: Tensor, teacher: Tensor, target: Tensor | None = None) -> Tensor:
        """Return the loss, a scalar."""
        check_pair(self.name, student, teacher)
        teacher = teacher.detach()
        if self.standardize:
            student, teacher = standardized(self.name, student), standardized(self.name, teacher)
        valid = valid_pixels(target, self.ignore_index, student)
        if self.known is None:
            kl = pixel_kl(student, teacher, self.temperature)
        else:
            has_class = teacher > UNKNOWN / 2
            kl = KL.apply(student, teacher, self.temperature, has_class)
            taught = teacher.logsumexp(1).exp() >= self.known
            if target is not None:
                labels, has_label = labelled_pixels(self.name, target, -1, student)
                taught = taught & (has_class.gather(1, labels[:, None])[:, 0] | ~has_label)
            valid = taught if valid is None else taught & valid
        return pixel_mean(kl, valid) * self.temperature**2
