"""DSD: how attention changes from place to place, and which classes look alike (Feng et al., arXiv 2107.08591)."""

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

from segkd.errors import SegkdError
from segkd.losses._common import check_maps, check_pair, check_temperature, full_precision, pooled, resize, soften, unit
from segkd.losses.at import attention
from segkd.losses.base import Loss


def residual_attention(maps: Sequence[Tensor]) -> Tensor:
    """Return (P, B, n): of each pair of maps (B, C_k, h, w) how attention at their n positions differs, of length 1.

    It is `segkd.losses.at.attention` of the later map less that of the earlier.
    """
    pairs = combinations(map(attention, maps), 2)
    return unit(torch.stack([later - earlier for earlier, later in pairs]), 2)


def category_similarity(logits: Tensor, temperature: float = 4.0) -> Tensor:
    """Return (B, C, C): products of the softmaxes over positions of logits (B, C, h, w), averaged over 2x2 pixels."""
    p = soften(pooled(logits, 2).flatten(2), temperature).softmax(2)
    return p @ p.transpose(1, 2)


class DSD(Loss):
    """Double similarity: how attention changes between places along the network, and which classes lie alike.

        r = (q_m - q_n) / ||q_m - q_n|| of two places, q their attention
        G = p p^T, p the softmax over positions of the logits, averaged over 2x2 pixels, at T
        L = pixel_weight * mean of (r_s - r_t)^2 + category_weight * mean of (G_s - G_t)^2

    See `residual_attention` and `category_similarity`. The places, three in CIRKD's code, are the auxiliary logits, the
    map before the classifier and, last, the logits; without auxiliary head two will do. In models with auxiliary logits
    the other modules are ``model.``'s. No authors' code is known: this is the form in CIRKD, whose weights are the
    defaults, without pixel KD beside it.

    Args:
        temperature: divides the logits, above 0.
        pixel_weight: of the residual attention, at least 0.
        category_weight: of the similarity of classes, at least 0.

    Shape:
        student, teacher: lists of as many maps (B, C_k, h, w), at least two, logits of the same classes last; channels
        of the others may differ. Of several sizes attention is taken at the smallest. target is not read. Returns a
        scalar.

    Raises:
        SegkdError: no lists are given, or batch, sizes or classes differ.

    Reference: Feng et al., "Double Similarity Distillation for Semantic Image Segmentation", arXiv 2107.08591.

    Config:
        student: {auxiliary: true}
        teacher: {auxiliary: fit}
        distill:
          terms:
            dsd:
              {loss: dsd, student: [aux, model.decoder, logits],
               teacher: [aux, model.decoder, logits], weight: 1.0}

    Example:
        >>> import torch
        >>> from segkd.losses import DSD
        >>> student, teacher = ([torch.randn(2, c, 7, 9) for c in channels] for channels in ((5, 4, 5), (5, 7, 5)))
        >>> DSD()(student, teacher).shape
        torch.Size([])
    """

    name = "dsd"
    title = "Double similarity distillation"
    paper = "arXiv 2107.08591"
    takes = "a list of places, logits last"
    default_weight = 1.0
    normalization = "1000 * mean over pairs * B * n of attention + 10 * mean over B * C * C of classes"
    any_channels = True

    temperature: float = 4.0
    pixel_weight: float = 1000.0
    category_weight: float = 10.0

    def check(self) -> None:
        """Look at the options."""
        check_temperature(self.temperature)
        for option in ("pixel_weight", "category_weight"):
            if not (weight := getattr(self, option)) >= 0:
                raise SegkdError(f"{option} must be at least 0, got {weight}")

    def prepare(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> None:
        """Raise unless these are lists of as many places, at least two."""
        is_list = not isinstance(student, Tensor) and not isinstance(teacher, Tensor)
        if not is_list or len(student) != len(teacher) or len(student) < 2:
            raise SegkdError(
                "dsd compares two places or more of each model: give lists, such as [aux, decoder, logits], logits last"
            )

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor], target: Tensor | None = None) -> Tensor:
        """Return the loss, a scalar."""
        pixel, category = self.parts(student, teacher).values()
        return self.pixel_weight * pixel + self.category_weight * category

    def parts(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return what the loss is the weighted sum of: ``pixel`` of the attention, ``category`` of the classes."""
        self.prepare(student, teacher)
        for s, t in zip(student, teacher, strict=True):
            check_maps(self.name, s, t)
        check_pair(self.name, student[-1], teacher[-1])
        height, width = min((x.shape[2:] for x in student), key=lambda size: size[0] * size[1])
        with full_precision(*student, *(x.detach() for x in teacher)) as maps:
            sides = maps[: len(student)], maps[len(student) :]
            r_s, r_t = (residual_attention([resize(x, (height, width)) for x in side]) for side in sides)
            g_s, g_t = (category_similarity(side[-1], self.temperature) for side in sides)
            return {"pixel": (r_s - r_t).square().mean(), "category": (g_s - g_t).square().mean()}
