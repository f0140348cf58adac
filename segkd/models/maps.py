"""What models take and return, made alike: images of a size that they take; tokens, masks with classes, as maps."""

from collections.abc import Collection
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Taken:
    """Makes of normalised images what a model takes, before its forward: a hook, so that module paths stay its own.

    They are resized, to its one size or to the next multiples, and not padded: so that maps, which are compared with
    others, show the whole image and no more. ``reverse``: its channels are blue, green, red.
    """

    def __init__(self, size: tuple[int, int] | None = None, multiple: int = 1, reverse: bool = False) -> None:
        self.size, self.multiple, self.reverse = size, multiple, reverse

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the model's inputs, of which images (B, C, H, W) are the first."""
        images = inputs[0].flip(1) if self.reverse else inputs[0]
        given = images.shape[-2], images.shape[-1]
        if all(type(side) is int for side in given):  # in a file of any size sides are symbols: it takes what fits
            wanted = self.of(given)
            if wanted != given:
                images = F.interpolate(images, size=wanted, mode="bilinear", align_corners=False)
        return (images, *inputs[1:])

    def of(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the size that images of a size are given."""
        height, width = (-(-side // self.multiple) * self.multiple for side in size)
        return self.size or (height, width)

    @staticmethod
    def by(module: nn.Module, size: tuple[int, int]) -> tuple[int, int]:
        """Return the size that a module gives images of a size, whether it has this hook or not."""
        hooks = [hook for hook in module._forward_pre_hooks.values() if isinstance(hook, Taken)]
        return hooks[0].of(size) if hooks else size


def to_map(
    output: Tensor, size: tuple[int, int], *, step: int = 1, prefixes: Collection[int] = (), channels_last: bool = False
) -> Tensor:
    """Return tokens (B, N, C), row by row, or a map in either order as a map (B, C, h, w); what is none as it is.

    Tokens lie ``step`` pixels apart, in later stages of a network 2, 4, 8... times as many, and there may be so many
    ``prefixes`` before them, such as 1 for a class token. ``channels_last``: how a map is taken that could be either.
    """
    if output.dim() == 4:
        is_last = _is_grid(output.shape[1:3], size) and (channels_last or not _is_grid(output.shape[2:], size))
        return output.permute(0, 3, 1, 2) if is_last else output
    if output.dim() != 3:
        return output
    while step <= max(size):
        height, width = (-(-side // step) for side in size)
        prefix = output.shape[1] - height * width
        if prefix in (0, *prefixes):
            return output[:, prefix:].transpose(1, 2).unflatten(2, (height, width))
        step *= 2
    return output


def _is_grid(grid: tuple[int, ...], size: tuple[int, int]) -> bool:
    """Whether a map of this height and width can be one of images of that size: of one stride down and across."""
    steps = {side // cells for side, cells in zip(size, grid, strict=True) if cells}
    strides = [step for step in (*steps, *(step + 1 for step in steps)) if step]
    return any(tuple(-(-side // stride) for side in size) == tuple(grid) for stride in strides)


class PerPixel(nn.Module):
    """A model that finds masks and a class for each, as one that gives scores of each pixel's classes.

    The score of a class is the sum over all masks of its probability there times the mask's: softmax without the class
    that stands for nothing, times sigmoid. Its logarithm is returned, so that a softmax over classes gives each one's
    share of the scores, which cross-entropy and the distillation of logits work with. ``task`` (1, N) is what OneFormer
    is told to find, its ``task_inputs``.
    """

    #: Scores below are taken for this: finite logarithms, and no gradient where no mask is near.
    least = 1e-6

    def __init__(self, model: nn.Module, task: Tensor | None = None) -> None:
        super().__init__()
        self.model = model
        self.task: Tensor | None
        self.register_buffer("task", task, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, C, h, w), in float32, at the size of the masks."""
        told = {} if self.task is None else {"task_inputs": self.task.expand(len(images), -1)}
        found: Any = self.model(pixel_values=images, **told)
        classes = found.class_queries_logits.float().softmax(-1)[..., :-1]
        masks = found.masks_queries_logits.float().sigmoid()
        return torch.einsum("bqc,bqhw->bchw", classes, masks).float().clamp_min(self.least).log()
