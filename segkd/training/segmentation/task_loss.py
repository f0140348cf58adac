"""The task loss that a segmentation config names: one, or the sum of several."""

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from segkd.errors import SegkdError
from segkd.registry import find, thing
from segkd.training.options import check, make

if TYPE_CHECKING:
    from torch import nn

Blocks = dict[str, dict[str, Any] | None]
"""The options of each task loss by its name; None takes one out that a base names."""


def check_task_loss(blocks: Blocks) -> None:
    """Check all that can be known without importing torch.

    Raises:
        SegkdError: there is no such task loss or option, or nothing is named.
    """
    if not _parts(blocks):
        raise SegkdError("names no loss: null takes one out, {} keeps its defaults")
    for name, _, options in _parts(blocks):
        if ":" not in name:
            check(thing("task_loss", name), options)


def build_task_loss(
    blocks: Blocks, ignore_index: int = 255, class_weights: Callable[[], list[float] | None] = lambda: None
) -> "nn.Module":
    """Return the task loss.

    Args:
        blocks: as in the config.
        ignore_index: label that all of them leave out.
        class_weights: called where a config says ``weight: auto``.

    Raises:
        SegkdError: see `check_task_loss`; or a value is out of range.
    """
    from segkd.segmentation.task_losses import Sum

    built = []
    for name, scale, options in _parts(blocks):
        if options.get("weight") == "auto":
            options["weight"] = class_weights()
        built.append((scale, _build(name, options, ignore_index)))
    return built[0][1] if len(built) == 1 and built[0][0] == 1 else Sum(built)


def _parts(blocks: Blocks) -> list[tuple[str, float, dict[str, Any]]]:
    """Return name, scale and options of each loss that is not taken out."""
    parts = []
    for name, block in blocks.items():
        if block is not None:
            options = dict(block)
            scale = options.pop("scale", 1.0)
            if isinstance(scale, bool) or not isinstance(scale, int | float) or not scale > 0:
                raise SegkdError(f"{name}: scale must be a number above 0, got {scale!r}")
            parts.append((name, float(scale), options))
    return parts


def _build(name: str, options: dict[str, Any], ignore_index: int) -> "nn.Module":
    library, _, kind = name.partition(":")
    if library == "smp" and kind:
        from segkd.segmentation.task_losses import OfSmp

        return OfSmp(kind, options, ignore_index)
    if not kind:
        loss: nn.Module = make("task_loss", name, {"ignore_index": ignore_index, **options})
        return loss
    return _own(name, options, ignore_index)


def _own(name: str, options: dict[str, Any], ignore_index: int) -> "nn.Module":
    from torch import nn

    build = find("task_loss", name)
    try:
        if "ignore_index" in inspect.signature(build).parameters:
            options = {"ignore_index": ignore_index, **options}
        loss = build(**options)
    except (TypeError, ValueError) as error:
        raise SegkdError(f"{name!r} cannot be made with {options}: {' '.join(str(error).split())}") from None
    if not isinstance(loss, nn.Module):
        raise SegkdError(f"{name!r} must be a torch.nn.Module, or give one, got {type(loss).__name__}")
    return loss
