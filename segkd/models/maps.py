"""What models return, turned into maps: tokens of transformers, channels that come last, masks with their classes."""

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn


def to_map(
    output: Tensor,
    size: tuple[int, int],
    *,
    step: int = 1,
    prefixes: Collection[int] = (),
    channels_last: bool = False,
) -> Tensor:
    """Return a module's output as a map (B, C, h, w); what is none, such as a pooled vector, as it is.

    Args:
        output: (B, N, C) tokens, row by row, or a map (B, C, h, w) or (B, h, w, C).
        size: (height, width) of the images.
        step: pixels from one token to the next; later stages of a network may have 2, 4, 8... times as many.
        prefixes: how many tokens there may be before those of the image, such as 1 for a class token.
        channels_last: how a map is taken whose shape could be either.
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
    share of the scores, which cross-entropy and the distillation of logits work with.

    Args:
        model: a model of transformers that returns ``class_queries_logits`` and ``masks_queries_logits``.
        task: (1, N) numbers that it takes as ``task_inputs``: what OneFormer is told to find.
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
