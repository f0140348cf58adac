"""Segmentations that provably hold around an image: SegCertify (Fischer, Baader and Vechev, arXiv 2107.00228)."""

import math
from statistics import NormalDist
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from segkd.errors import SegkdError, nearest
from segkd.network import Network, unit
from segkd.outputs import read_logits

ABSTAIN = -1
Correction = Literal["holm", "bonferroni"]


class Certified(NamedTuple):
    """The class of each pixel, int64, `ABSTAIN` where none is certain, and how far around the image they hold."""

    classes: Tensor
    radius: float
    """L2 distance, in units of images in [0, 1]: within it all classes that are not abstained from stay together."""


class Certainty(NamedTuple):
    """How much of some images is certified, and rightly; shares in [0, 1], (C,) in float64, NaN where there is none.

    A class whose values fall between two models, while the others stay, has been tampered with or forgotten.
    """

    miou: float
    """Mean of `iou` over the classes that are labelled or certified anywhere; NaN without any."""
    iou: Tensor
    """Of each class: pixels rightly certified, of those labelled with it or certified as it."""
    abstained: Tensor
    """Of the pixels labelled with each class, those that nothing is certain of."""


def certainty(classes: Tensor, target: Tensor, num_classes: int, ignore_index: int = 255) -> Certainty:
    """Measure certified segmentations against labels: certified IoU and abstention of each class.

    Abstaining counts as a wrong answer: the IoU is what no perturbation within the radius takes away.

    Args:
        classes: (...), int64, of `certify`: of one image, or of many stacked.
        target: the same shape, labels.
        num_classes: C.
        ignore_index: of pixels that are left out.

    Raises:
        SegkdError: shapes differ, or a class is out of its range.
    """
    if classes.shape != target.shape:
        raise SegkdError(f"certainty needs labels for {tuple(classes.shape)} pixels, got {tuple(target.shape)}")
    valid = target != ignore_index
    found, labels = classes[valid].long(), target[valid].long()
    for what, values, least in (("a certified class", found, ABSTAIN), ("a label", labels, 0)):
        if values.numel() and (int(values.min()) < least or int(values.max()) >= num_classes):
            raise SegkdError(
                f"certainty: {what} is {int(values.min())} or {int(values.max())}, of {num_classes} classes"
            )
    # The last column is where nothing is certain.
    columns = torch.where(found == ABSTAIN, num_classes, found)
    counts = torch.bincount(labels * (num_classes + 1) + columns, minlength=num_classes * (num_classes + 1))
    counts = counts.view(num_classes, num_classes + 1).double()
    right, of_class = counts.diagonal(), counts.sum(1)
    iou = right / (of_class + counts[:, :num_classes].sum(0) - right)
    return Certainty(float(iou.nanmean()), iou, counts[:, -1] / of_class)


@torch.no_grad()
def certify(
    model: nn.Module,
    images: Tensor,
    sigma: float = 0.25,
    n0: int = 100,
    n: int = 1000,
    tau: float = 0.75,
    alpha: float = 1e-4,
    correction: Correction = "holm",
    generator: torch.Generator | None = None,
) -> Certified:
    """Return what a model certainly predicts for images under Gaussian noise, for each image on its own.

    Of a model that was not trained with such noise little is left. It runs n0 + n times; counts alone are kept. Noise
    makes no model robust: a certificate is of this image's prediction, not of its truth, nor of the training data.

    Args:
        model: in the mode it is in; a `Network`, or a module that takes images in [0, 1].
        images: (B, channels, H, W), uint8 or in [0, 1].
        sigma: the noise's deviation, above 0.
        n0: passes that choose each pixel's class.
        n: further passes that test it.
        tau: how often noise must leave the class as it is, in [0.5, 1).
        alpha: probability that any class of an image is certified by chance, in (0, 1).
        correction: for the many pixels, ``"holm"`` or the stricter ``"bonferroni"``.
        generator: of the noise, on the images' device; None: the global one.

    Returns:
        Classes (B, h, w) at the logits' size, and the radius.

    Raises:
        SegkdError: an option is out of its range.
    """
    clean = unit(images)
    chosen, tested = None, None
    for number in range(n0 + n):
        noise = torch.randn(clean.shape, generator=generator, device=clean.device, dtype=clean.dtype)
        logits = read_logits(model(clean + sigma * noise))
        logits = model.map_classes(logits) if isinstance(model, Network) else logits
        votes = torch.zeros_like(logits, dtype=torch.int32).scatter_(1, logits.argmax(1, keepdim=True), 1)
        if number < n0:
            chosen = votes if chosen is None else chosen + votes
        else:
            tested = votes if tested is None else tested + votes
    if chosen is None or tested is None:
        raise SegkdError(f"certify needs passes that choose and that test: n0 and n of at least 1, got {n0} and {n}")
    each = [certify_counts(c, t, sigma, tau, alpha, correction) for c, t in zip(chosen, tested, strict=True)]
    return Certified(torch.stack([found.classes for found in each]), each[0].radius)


def certify_counts(
    chosen: Tensor,
    tested: Tensor,
    sigma: float = 0.25,
    tau: float = 0.75,
    alpha: float = 1e-4,
    correction: Correction = "holm",
) -> Certified:
    """Return the classes of one image that are certain by how often each was predicted under noise, see `certify`.

    The class is the most frequent of ``chosen``; it stands where the binomial test on ``tested`` rejects, corrected for
    the number of pixels, that noise leaves it as it is with a probability of at most tau.

    Args:
        chosen: (C, ...) counts of the first passes, for each class and pixel.
        tested: the same shape, of the others.
        sigma: as for `certify`, as are the following.
        tau: likewise.
        alpha: likewise.
        correction: likewise.

    Returns:
        Classes (...), and the radius.
    """
    if not (sigma > 0 and 0.5 <= tau < 1 and 0 < alpha < 1):
        raise SegkdError(
            f"certify has sigma above 0, tau in [0.5, 1) and alpha in (0, 1), got {sigma}, {tau} and {alpha}"
        )
    if correction not in get_args(Correction):
        raise SegkdError(f"certify has no correction {correction!r}, {nearest(correction, get_args(Correction))}")
    # Of equally frequent classes the first; `argmax` alone does not promise that.
    order = torch.arange(len(chosen), device=chosen.device).view(-1, *[1] * (chosen.dim() - 1))
    classes = (chosen.long() * len(chosen) - order).argmax(0)
    hits = tested.gather(0, classes[None])[0].long()
    n = int(tested.sum(0).max())
    # P(Bin(n, tau) >= hits), the small terms added first.
    k = torch.arange(n + 1, dtype=torch.float64)
    log_p = torch.lgamma(k.new_tensor(n + 1.0)) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)
    at_least = (log_p + k * math.log(tau) + (n - k) * math.log1p(-tau)).exp().flip(0).cumsum(0).flip(0)
    p, places = at_least.to(hits.device)[hits].flatten().sort()
    tests = torch.arange(p.numel(), 0, -1, device=p.device) if correction == "holm" else p.numel()
    rejected = (p <= alpha / tests).long().cumprod(0).bool()  # Holm stops at the first that is not
    certain = torch.zeros_like(rejected).scatter(0, places, rejected).view(classes.shape)
    return Certified(classes.where(certain, ABSTAIN), sigma * NormalDist().inv_cdf(tau))
