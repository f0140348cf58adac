"""Task losses of segmentation: what a student learns from the labels, besides what its teacher teaches it."""

import copy
import inspect
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkd.errors import SegkdError, nearest
from segkd.losses._common import class_ids, full_precision, share_of_all
from segkd.supervision import mean_over_labelled


def class_weights(counts: Sequence[float] | np.ndarray) -> list[float]:
    """Return a weight for each class that is higher the rarer it is: 1 / ln(1.02 + p), with p its share of the pixels.

    Scaled so that a pixel weighs 1 on average, which keeps the loss on the scale of the unweighted one. A class that
    does not occur weighs most, about 50 times as much as one that covers everything.

    Args:
        counts: labelled pixels of each class, or their share, (C,).

    Raises:
        SegkdError: there is no pixel.

    Reference: Paszke et al., "ENet", arXiv 1606.02147.
    """
    pixels = np.asarray(counts, dtype=np.float64)
    if not pixels.sum() > 0:
        raise SegkdError("class weights need labelled pixels, and there are none")
    shares = pixels / pixels.sum()
    weights = 1 / np.log(1.02 + shares)
    return [float(weight) for weight in weights / (shares * weights).sum()]


class CrossEntropy(nn.CrossEntropyLoss):
    """Cross-entropy: torch's own, with the class weights as numbers.

    Args:
        weight: one number for each class, at least 0; ``auto`` (in a config): from how often each class occurs in up
            to 1000 training masks, 1 / ln(1.02 + share), so that a pixel weighs 1 on average. None: all classes alike.
        label_smoothing: share of the target that is spread over all classes, in [0, 1].
        ignore_index: label to leave out.

    Raises:
        SegkdError: a value is out of range.
    """

    name, title, paper, reads = "cross_entropy", "Cross-entropy", "", "logits"

    def __init__(
        self, weight: list[float] | Literal["auto"] | None = None, label_smoothing: float = 0.0, ignore_index: int = 255
    ) -> None:
        if weight == "auto":
            raise SegkdError("weight 'auto' is for configs; in Python give it class_weights(pixels of each class)")
        if weight is not None and not (all(0 <= w < math.inf for w in weight) and any(weight)):
            raise SegkdError(f"class weights are finite numbers of at least 0, one of them above it, got {weight}")
        if not 0 <= label_smoothing <= 1:
            raise SegkdError(f"label_smoothing is a share in [0, 1], got {label_smoothing}")
        of_classes = None if weight is None else torch.tensor(weight, dtype=torch.float32)
        super().__init__(of_classes, ignore_index=ignore_index, label_smoothing=label_smoothing)


class _OfPixels(nn.Module):
    """The mean of a loss over the pixels that count; in a distributed run, over those of all processes.

    ``reduction``: ``"counted"`` is that mean, 0 where no pixel counts; ``"none"`` the map (B, H, W), as a pixel
    weighting needs it.
    """

    def __init__(self, ignore_index: int) -> None:
        super().__init__()
        self.ignore_index, self.reduction = ignore_index, "counted"

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of logits (B, C, H, W) against labels (B, H, W)."""
        target = class_ids(target)
        with full_precision(logits) as (z,):
            losses = F.cross_entropy(z, target, ignore_index=self.ignore_index, reduction="none")
        losses, counted = self.of_pixels(losses, target != self.ignore_index)
        if self.reduction == "none":
            return losses
        count = counted.sum()
        return losses.sum() / count.clamp(min=1) * share_of_all(count)

    def of_pixels(self, losses: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Return each pixel's loss, and which ones count, of their cross-entropies and which ones are labelled."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        """Show the settings in ``print``."""
        names = [name for name in inspect.signature(type(self)).parameters if name != "ignore_index"]
        return ", ".join(f"{name}={getattr(self, name)}" for name in names)


class OHEM(_OfPixels):
    """Cross-entropy over the hard pixels alone: online hard example mining.

    A pixel is hard where its true class has a probability of at most ``threshold``, or of at most the ``min_kept``-th
    smallest of the batch, if that is higher.

    Args:
        threshold: on the probability, in [0, 1].
        min_kept: keep at least so many pixels of a batch; below 1, that share of all its pixels. With fewer labelled
            ones all are kept.
        ignore_index: label to leave out.

    Raises:
        SegkdError: a value is out of range.

    Reference: Shrivastava, Gupta, Girshick, arXiv 1604.03540; per pixel as in released code of PSPNet and CIRKD.
    """

    name, title, paper, reads = "ohem", "Online hard example mining", "arXiv 1604.03540", "logits"

    def __init__(self, threshold: float = 0.7, min_kept: float = 0.0625, ignore_index: int = 255) -> None:
        super().__init__(ignore_index)
        if not 0 <= threshold <= 1:
            raise SegkdError(f"ohem's threshold is a probability in [0, 1], got {threshold}")
        if not 0 <= min_kept < math.inf:
            raise SegkdError(f"ohem's min_kept is a number or a share of pixels, at least 0, got {min_kept}")
        self.threshold, self.min_kept = threshold, min_kept

    def of_pixels(self, losses: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Keep the hard pixels."""
        # Above any probability, so that ignored pixels are the last that would be kept.
        probability = (-losses.detach()).exp().masked_fill(~valid, 2.0)
        least = min(int(self.min_kept if self.min_kept >= 1 else self.min_kept * valid.numel()), valid.numel())
        limit = probability.new_tensor(self.threshold)
        if least > 0:
            limit = torch.maximum(limit, probability.flatten().kthvalue(least).values)
        kept = (probability <= limit) & valid
        return losses * kept, kept


class Focal(_OfPixels):
    """Focal loss of the softmax: cross-entropy times (1 - p)^gamma, with p the probability of the true class.

    Args:
        gamma: how much less a pixel counts that is right already, at least 0; 0 is cross-entropy.
        ignore_index: label to leave out.

    Raises:
        SegkdError: gamma is below 0.

    Reference: Lin et al., arXiv 1708.02002.
    """

    name, title, paper, reads = "focal", "Focal loss", "arXiv 1708.02002", "logits"

    def __init__(self, gamma: float = 2.0, ignore_index: int = 255) -> None:
        super().__init__(ignore_index)
        if not 0 <= gamma < math.inf:
            raise SegkdError(f"focal's gamma is a finite number of at least 0, got {gamma}")
        self.gamma = gamma

    def of_pixels(self, losses: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Weigh each pixel; all labelled ones count."""
        # At p = 1 a gamma below 1 has no finite slope.
        return losses * (-torch.expm1(-losses)).clamp(min=1e-6) ** self.gamma, valid


class Dice(nn.Module):
    """1 - Dice of the probabilities over the whole batch, as the mean over the classes that occur in its labels.

    A measure of regions, not a mean over pixels: no pixel weighting goes with it, and in a distributed run it is the
    mean of what each process has.

    Args:
        smooth: added to numerator and denominator, at least 0.
        ignore_index: label to leave out.

    Raises:
        SegkdError: smooth is below 0.

    Reference: Milletari, Navab, Ahmadi, "V-Net", arXiv 1606.04797.
    """

    name, title, paper, reads = "dice", "Dice loss", "arXiv 1606.04797", "logits"

    def __init__(self, smooth: float = 0.0, ignore_index: int = 255) -> None:
        super().__init__()
        if not 0 <= smooth < math.inf:
            raise SegkdError(f"dice's smooth is a finite number of at least 0, got {smooth}")
        self.smooth, self.ignore_index = smooth, ignore_index

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of logits (B, C, H, W) against labels (B, H, W)."""
        target = class_ids(target)
        valid = target != self.ignore_index
        index = target.masked_fill(~valid, 0)
        with full_precision(logits) as (z,):
            probability = z.softmax(1) * valid[:, None]
            of_true = probability.gather(1, index[:, None])[:, 0]
            zeros = z.new_zeros(z.shape[1])
            common = zeros.scatter_add(0, index.flatten(), of_true.flatten())
            pixels = zeros.scatter_add(0, index.flatten(), valid.flatten().to(z))
            both = probability.sum((0, 2, 3)) + pixels
            dice = (2 * common + self.smooth) / (both + self.smooth).clamp(min=1e-7)
            occurs = pixels > 0
            return ((1 - dice) * occurs).sum() / occurs.sum().clamp(min=1)


class Sum(nn.Module):
    """The sum of several task losses, each times its scale.

    Args:
        parts: (scale, loss) pairs.
    """

    def __init__(self, parts: Sequence[tuple[float, nn.Module]]) -> None:
        super().__init__()
        self.scales, self.parts = [scale for scale, _ in parts], nn.ModuleList(loss for _, loss in parts)
        ignored = {getattr(part, "ignore_index", None) for part in self.parts}
        if len(ignored) == 1:
            (self.ignore_index,) = ignored
            """The label that all parts leave out; a sum has this where they agree."""
        if all(hasattr(part, "reduction") for part in self.parts):
            self.reduction = "sum"
            """Or ``"none"``: the map (B, H, W); a sum has this where each part has."""

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of logits (B, C, H, W) against labels (B, H, W)."""
        is_map = getattr(self, "reduction", "") == "none"
        losses = []
        for scale, part in zip(self.scales, self.parts, strict=True):
            if is_map:
                unreduced: Any = copy.copy(part)
                unreduced.reduction = "none"
                losses.append(scale * unreduced(logits, target))
            else:
                losses.append(scale * mean_over_labelled(part, logits, target))
        return torch.stack(losses).sum(0)


class OfSmp(nn.Module):
    """A loss of segmentation-models-pytorch over several classes; 0 where no pixel is labelled.

    Args:
        kind: the class's name in ``segmentation_models_pytorch.losses``, such as ``"LovaszLoss"``.
        options: its further options; ``mode`` is ``"multiclass"``.
        ignore_index: label to leave out.

    Raises:
        SegkdError: there is no such loss or option, or the loss is not of several classes.
    """

    def __init__(self, kind: str, options: dict[str, Any] | None = None, ignore_index: int = 255) -> None:
        super().__init__()
        from segmentation_models_pytorch import losses

        fixed = {"mode", "ignore_index"}
        takes = {name: inspect.signature(getattr(losses, name)).parameters for name in losses.__all__ if "Loss" in name}
        fitting = {name: [*parameters] for name, parameters in takes.items() if fixed <= parameters.keys()}
        if kind not in fitting:
            raise SegkdError(f"segmentation-models-pytorch has no loss {kind!r} of classes, {nearest(kind, fitting)}")
        own = [name for name in fitting[kind] if name not in fixed]
        for key in options or {}:
            if key not in own:
                raise SegkdError(f"task loss 'smp:{kind}' has no option {key!r}, {nearest(key, own)}")
        self.ignore_index = ignore_index
        try:
            self.loss = getattr(losses, kind)(mode="multiclass", ignore_index=ignore_index, **(options or {}))
        except (TypeError, ValueError, AssertionError) as error:
            raise SegkdError(f"task loss 'smp:{kind}': {' '.join(str(error).split()) or options}") from None

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of logits (B, C, H, W) against labels (B, H, W)."""
        target = class_ids(target)
        with full_precision(logits) as (z,):
            z = z.float()  # some take nothing else
            # Some give no number, or no scalar, where nothing is labelled.
            value: Tensor = self.loss(z, target) if (target != self.ignore_index).any() else z.sum() * 0
        return value
