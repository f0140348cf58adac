"""What a config of a segmentation run may say beside what every config may, and the task loss that it names."""

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from segkd.common.plain import Block, ReadWhere
from segkd.common.values import Above0, Count, HeightWidth, Scale
from segkd.errors import SegkdError
from segkd.models.smp import SMPBlock
from segkd.registry import find, thing
from segkd.training import schema
from segkd.training.distill import by_name
from segkd.training.options import check, make

if TYPE_CHECKING:
    from torch import nn

Blocks = dict[str, dict[str, Any] | None]
"""The options of each task loss by its name; None takes one out that a base names."""


class SegmentationData(schema.Data):
    """What is trained on, and how it is augmented."""

    resize: HeightWidth | None = Field(None, description="[height, width] that every training pair is brought to first")
    crop: HeightWidth = Field(description="[height, width] of what the student trains on")
    scale: Scale = Field((0.5, 2.0), description="[smallest, largest] random scale, before the crop")
    jitter_seen_by: Literal["all", "student"] = Field(
        "all",
        description="who sees `color_jitter` and `blur`: all models, or the student alone, new ones in each epoch also "
        "where `views` come again, and its teachers the image before them",
    )


class AuxiliaryFit(Block):
    """How ``teacher.auxiliary: fit`` trains a head on the frozen teacher."""

    steps: Count = Field(300, description="optimiser steps")
    lr: Above0 = Field(1e-3, description="learning rate")


class SegmentationTeacher(schema.TeacherBlock):
    """A teacher: a config that trains it, a checkpoint, or a model whose family brings its weights."""

    auxiliary: bool | Literal["fit"] = Field(
        False, description="true: it has an FCN head, in its weights; fit: train one on the frozen teacher"
    )
    auxiliary_fit: AuxiliaryFit = AuxiliaryFit()


class SegmentationValidation(schema.Validation):
    """How the student is measured."""

    read_where: ClassVar[ReadWhere] = {"window": ("mode", ("sliding",)), "stride": ("mode", ("sliding",))}

    resize: HeightWidth | None = Field(None, description="[height, width] of the images; labels stay at their own")
    mode: Literal["whole", "sliding"] = Field("whole", description="the image at once, or a window over it")
    window: HeightWidth | None = Field(None, description="[height, width], of sliding; default data.crop")
    stride: HeightWidth | None = Field(None, description="[down, across], of sliding; default two thirds of the window")


class SegmentationConfig(schema.Config):
    """A whole experiment."""

    places: ClassVar[tuple[str, ...]] = ("logits", "aux")

    task: Literal["segmentation"] = Field("segmentation", description="what is trained")
    data: SegmentationData
    student: SMPBlock
    teacher: SegmentationTeacher | None = None
    validation: SegmentationValidation = SegmentationValidation()
    task_loss: Annotated[Blocks | None, by_name] = Field(
        None,
        description="what is learnt from the labels, default cross_entropy: a name such as ohem, {ohem: {threshold: "
        "0.7}}, or several, whose sum it is: {cross_entropy: {weight: auto}, dice: {scale: 0.5}}",
    )

    @field_validator("task_loss")
    @classmethod
    def _check(cls, task_loss: Blocks | None) -> Blocks | None:
        if task_loss is not None and not _parts(task_loss):
            raise SegkdError("names no loss: null takes one out, {} keeps its defaults")
        for name, _, options in _parts(task_loss or {}):
            if ":" not in name:
                check(thing("task_loss", name), options)
        return task_loss

    def parts(self) -> Iterator[tuple[tuple[str, ...], Callable[[], Any]]]:
        """Yield what is to be made: its keys in a config, and what makes it."""
        yield from super().parts()
        if self.task_loss is not None:
            yield ("task_loss",), functools.partial(build_task_loss, self.task_loss)

    def names_code(self) -> bool:
        """Whether anything of the user's own is named."""
        return super().names_code() or any(":" in name and not name.startswith("smp:") for name in self.task_loss or {})

    @model_validator(mode="after")
    def _window_fits(self) -> "SegmentationConfig":
        window, stride = self.validation.window or self.data.crop, self.validation.stride
        if stride is not None and (stride[0] > window[0] or stride[1] > window[1]):
            raise ValueError(f"validation.stride must not be beyond the window {list(window)}, got {list(stride)}")
        return self


def build_task_loss(
    blocks: Blocks, ignore_index: int = 255, class_weights: Callable[[], list[float] | None] = lambda: None
) -> "nn.Module":
    """Return the task loss.

    Args:
        blocks: as in the config.
        ignore_index: label that all of them leave out.
        class_weights: called where a config says ``weight: auto``.
    """
    from segkd.segmentation.task_losses import OfSmp, Sum

    built: list[tuple[float, nn.Module]] = []
    for name, scale, options in _parts(blocks):
        if options.get("weight") == "auto":
            options["weight"] = class_weights()
        if ":" not in name:
            loss = make("task_loss", name, {"ignore_index": ignore_index, **options})
        elif name.startswith("smp:"):
            loss = OfSmp(name.removeprefix("smp:"), options, ignore_index)
        else:
            loss = _own(name, options, ignore_index)
        built.append((scale, loss))
    return built[0][1] if len(built) == 1 and built[0][0] == 1 else Sum(built)


def _parts(blocks: Blocks) -> list[tuple[str, float, dict[str, Any]]]:
    """Return name, scale and options of each loss that is not taken out."""
    parts = []
    for name, options in blocks.items():
        if options is not None:
            scale = options.get("scale", 1.0)
            if isinstance(scale, bool) or not isinstance(scale, int | float) or not scale > 0:
                raise SegkdError(f"{name}: scale must be a number above 0, got {scale!r}")
            parts.append((name, float(scale), {key: value for key, value in options.items() if key != "scale"}))
    return parts


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
