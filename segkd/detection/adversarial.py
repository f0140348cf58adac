"""Images that a detector is wrong about: made of its teacher's loss, and kept from one epoch to the next."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from segkd.detection.feature_maps import fpn_maps
from segkd.detection.heads import dense_head
from segkd.detection.output import DenseOutput
from segkd.detection.targets import Targets
from segkd.errors import SegkdError
from segkd.losses._common import full_precision
from segkd.reads import Route
from segkd.taps import inner

ADVERSARIAL = "adversarial"
"""The place at which terms read FPN maps of such images, and their key in a target."""


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
        >>> from segkd.detection.adversarial import adversarial_images
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


@torch.compiler.disable
def fooling_image(detector: Any, image: Tensor, target: Mapping[str, Tensor]) -> Tensor:
    """Return an image that a one-stage detector is wrong about, at its own size, in the 256 steps of an 8-bit image.

    See `adversarial_images`, of the detector's classification loss on the labels. It takes the image at the size at
    which it is measured, and the steps are taken in its own normalisation. The image alone decides, not its batch.

    Args:
        detector: in eval mode.
        image: float (3, H, W) in [0, 1].
        target: its boxes and labels.
    """
    model, dtype = inner(detector), next(detector.parameters()).dtype
    head, labels = dense_head(model), {key: target[key] for key in ("boxes", "labels")}
    mean, std = (
        torch.tensor(values, device=image.device)[:, None, None]
        for values in (model.transform.image_mean, model.transform.image_std)
    )

    def loss(x: Tensor) -> Tensor:
        images, targets = model.transform([x[0] * std + mean], [labels])
        images.tensors = images.tensors.to(dtype)
        maps = fpn_maps(model, images)[1]
        return DenseOutput(images, maps, head, *head.run(list(maps.values()))).loss(targets)["classification"]

    with full_precision(image) as (x,):
        found = adversarial_images(((x - mean) / std)[None], loss)[0] * std + mean
        return (found.clamp(0, 1) * 255).round() / 255


def fooling_images(detector: Any, images: Sequence[Tensor], targets: Targets) -> list[Tensor]:
    """Return the `fooling_image` of each: what its target has at ``"adversarial"``, else it is made now."""
    found = []
    for index, (image, target) in enumerate(zip(images, targets, strict=True)):
        given = target.get(ADVERSARIAL)
        if given is not None and given.shape != image.shape:
            raise SegkdError(
                f"targets[{index}][{ADVERSARIAL!r}] must be of images[{index}]'s shape {tuple(image.shape)}, got "
                f"{tuple(given.shape)}"
            )
        found.append(fooling_image(detector, image, target) if given is None else given)
    return found


def fooled(routes: Mapping[str, Route], dense: Collection[str], places: Collection[str]) -> list[str]:
    """Return the name of the teacher whose adversarial images terms read, if any.

    Args:
        routes: of the terms, by name.
        dense: names of the teachers that are one-stage detectors.
        places: that are no module's path.

    Raises:
        SegkdError: it is not one such teacher, or a term reads a module, which two runs would give something each.
    """
    read = {name: {*where.student, *(place for _, place in where.teacher)} for name, where in routes.items()}
    of = {teacher for where in routes.values() for teacher, place in where.teacher if place == ADVERSARIAL}
    for name in (name for name in read if ADVERSARIAL in read[name]):
        if len(of) != 1 or not of <= {*dense}:
            raise SegkdError(f"term {name!r} reads {ADVERSARIAL!r}: of one teacher, which is a one-stage detector")
        for module in sorted(set().union(*read.values()) - {*places}):
            raise SegkdError(f"term {name!r} reads {ADVERSARIAL!r}, for which {module!r} runs twice: read no module")
    return list(of)
