"""What a config of a segmentation run may say beside what every config may."""

import functools
from collections.abc import Callable, Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from segkd.common.plain import Block
from segkd.common.values import Count, HeightWidth, Scale
from segkd.models.smp import SMPBlock
from segkd.training import schema
from segkd.training.segmentation.task_loss import Blocks, build_task_loss, check_task_loss


class SegmentationData(schema.Data):
    """What is trained on, and how it is augmented."""

    resize: HeightWidth | None = Field(None, description="[height, width] that every training pair is brought to first")
    crop: HeightWidth = Field(description="[height, width] of what the student trains on")
    scale: Scale = Field((0.5, 2.0), description="[smallest, largest] random scale, before the crop")


class AuxiliaryFit(Block):
    """How ``teacher.auxiliary: fit`` trains a head on the frozen teacher."""

    steps: Count = Field(300, description="optimiser steps")
    lr: Annotated[float, Field(gt=0)] = Field(1e-3, description="learning rate")


class SegmentationTeacher(schema.TeacherBlock):
    """A teacher: a config that trains it, a checkpoint, or a model whose family brings its weights."""

    auxiliary: bool | Literal["fit"] = Field(
        False, description="true: it has an FCN head, in its weights; fit: train one on the frozen teacher"
    )
    auxiliary_fit: AuxiliaryFit = AuxiliaryFit()


class SegmentationValidation(schema.Validation):
    """How the student is measured."""

    resize: HeightWidth | None = Field(None, description="[height, width] of the images; labels stay at their own")
    mode: Literal["whole", "sliding"] = Field("whole", description="the image at once, or a window over it")
    window: HeightWidth | None = Field(None, description="[height, width], of sliding; default data.crop")
    stride: HeightWidth | None = Field(None, description="[down, across], of sliding; default two thirds of the window")


class SegmentationConfig(schema.Config):
    """A whole experiment."""

    places: ClassVar[tuple[str, ...]] = ("logits", "aux")
    teacher_type: ClassVar[type[schema.TeacherBlock]] = SegmentationTeacher

    task: Literal["segmentation"] = Field("segmentation", description="what is trained")
    data: SegmentationData
    student: SMPBlock
    teacher: SegmentationTeacher | None = None
    validation: SegmentationValidation = SegmentationValidation()
    task_loss: dict[str, dict[str, Any] | None] | None = Field(
        None,
        description="what is learnt from the labels, default cross_entropy: a name such as ohem, {ohem: {threshold: "
        "0.7}}, or several, whose sum it is: {cross_entropy: {weight: auto}, dice: {scale: 0.5}}",
    )

    @field_validator("task_loss", mode="before")
    @classmethod
    def _by_name(cls, task_loss: Any) -> Any:
        return {task_loss: {}} if isinstance(task_loss, str) else task_loss

    @field_validator("task_loss")
    @classmethod
    def _check(cls, task_loss: Blocks | None) -> Blocks | None:
        if task_loss is not None:
            check_task_loss(task_loss)
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
