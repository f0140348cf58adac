"""What a config of a detection run may say beside what every config may."""

from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from segkd.common.values import HeightWidth, Pixels, Scale
from segkd.models.detectors import DetectorBlock
from segkd.training import schema


class DetectionData(schema.Data):
    """What is trained on, how it is augmented, and the size at which all models see it."""

    min_size: Pixels | list[Pixels] = Field(
        800, description="shorter side of what all models see; of several, training draws one for each image"
    )
    min_size_sampling: Literal["choice", "range"] = Field(
        "choice", description="what training draws of several sizes: one of them, or any from the first to the last"
    )
    max_size: Pixels = Field(1333, description="longest that the longer side may be")
    scale: Scale = Field((1.0, 1.0), description="[smallest, largest] random scale, before the crop")
    crop: HeightWidth | None = Field(None, description="[height, width] of a random crop; default none")

    @model_validator(mode="after")
    def _is_a_range(self) -> "DetectionData":
        size = self.min_size
        if self.min_size_sampling == "range" and not isinstance(size, int) and (len(size) != 2 or size[0] >= size[1]):
            raise ValueError(f"min_size_sampling: range needs min_size: [smallest, largest], got {size}")
        return self

    def sizes(self) -> int | list[int]:
        """Return the shorter sides to draw from, as `build_detector` takes them: the last is that of evaluation."""
        if isinstance(self.min_size, int) or self.min_size_sampling == "choice":
            return self.min_size
        return list(range(self.min_size[0], self.min_size[1] + 1))


class DetectionConfig(schema.Config):
    """A whole experiment."""

    places: ClassVar[tuple[str, ...]] = ("fpn", "pyramid", "head", "regions", "adversarial")

    task: Literal["detection"] = Field(description="what is trained")
    data: DetectionData
    student: DetectorBlock
    task_loss: None = Field(None, description="detectors bring their own losses: nothing else is taken")

    @field_validator("task_loss", mode="before")
    @classmethod
    def _of_the_detector(cls, task_loss: Any) -> None:
        if task_loss is not None:
            raise ValueError("is of segmentation: a detector brings its own losses")

    @model_validator(mode="after")
    def _inherits_of_one(self) -> "DetectionConfig":
        if not getattr(self.student, "inherit", False):
            return self
        names = list(self.named_teachers())
        if len(names) != 1:
            found = f"are {', '.join(names)}" if names else "is none"
            raise ValueError(f"student.inherit takes the weights of one teacher, and there {found}")
        if self.student.checkpoint is not None:
            raise ValueError("student.inherit and student.checkpoint both give weights: leave one of them out")
        return self

    @model_validator(mode="after")
    def _takes_unlabelled(self) -> "DetectionConfig":
        if self.data.unlabelled is not None and "rcnn" in self.student.arch:
            raise ValueError(
                f"data.unlabelled: {self.student.arch}, a two-stage detector, learns from whole batches of labelled "
                "images; detectors that take others: gfl, atss, fcos, retinanet"
            )
        return self
