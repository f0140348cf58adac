"""What a config file of any task may say: names, types, ranges and defaults of every key."""

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from segkd.common.pixels import MAX_PIXELS
from segkd.common.plain import Block
from segkd.common.values import BatchSize, Count, Devices, ModelName, Natural, PathText, RunName, Share
from segkd.schedules import Schedule
from segkd.term import Size, Term
from segkd.training.methods import LOSSES, SCHEDULES, WEIGHTINGS, check, make

if TYPE_CHECKING:
    from segkd.weighting import RelativeDifficulty

WITHOUT_TORCH = {"without_torch": True}
"""Pydantic's context that leaves out what only building a loss or weighting tells, such as the range of its options."""


class Data(Block):
    """What is trained on; how it is augmented is the task's."""

    dataset: PathText = Field(description="name of a shipped data set, or path of a description of one's own")
    root: PathText | None = Field(
        None, description="where it lies; default `$SEGKD_DATA/<name>`, else `datasets/<name>`"
    )
    train_split: str = Field("train", description="split that is trained on")
    val_split: str = Field("val", description="split that is measured")
    limit: Count | None = Field(None, description="train on so many images; default all")
    max_pixels: Annotated[int, Field(ge=1, le=2**62)] = Field(
        MAX_PIXELS, description="an image of more pixels is refused: it may be meant to fill the memory"
    )
    flip: Share = Field(0.5, description="probability of a horizontal flip")
    color_jitter: Share = Field(0.0, description="largest change of brightness, contrast and saturation; 0: none")
    blur: Share = Field(0.0, description="probability of a Gaussian blur, its sigma from 0 to 1 pixels")
    batch_size: BatchSize = Field(8, description="images per step and process")
    workers: Annotated[int, Field(ge=0, le=512)] = Field(2, description="loader processes; 0 loads in the main one")


class Normalization(Block):
    """Mean and standard deviation of each channel of images in 0 to 1."""

    mean: tuple[float, float, float] = Field(description="of red, green and blue")
    std: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = Field(
        description="likewise"
    )


class Model(Block):
    """The student; what model that is, is the task's."""

    normalization: Normalization | None = Field(None, description="default: what the pretrained part was trained with")
    checkpoint: PathText | None = Field(None, description="weights to start from: a file or a run directory")
    options: dict[str, Any] = Field(default_factory=dict, description="further arguments of the architecture")


class Teacher(Block):
    """The teacher: a config of its own, or a checkpoint."""

    of_weights: ClassVar[tuple[str, ...]] = ()
    """What describes a file of weights; a run says it itself."""

    config: PathText | None = Field(
        None, description="a config that trains it; its finished run is used, and made first where there is none"
    )
    overrides: dict[str, Any] = Field(default_factory=dict, description="changes to that config, nested as in it")
    arch: ModelName | None = Field(
        None, description="its architecture, where its checkpoint is a file; options and normalization go with it"
    )
    options: dict[str, Any] = Field(default_factory=dict, description="further arguments of the architecture")
    normalization: Normalization | None = Field(None, description="default: what its architecture's weights expect")
    checkpoint: PathText | None = Field(
        None, description="a run directory, which says all that its weights are of, or a file of weights"
    )

    @model_validator(mode="after")
    def _one_teacher(self) -> "Teacher":
        if self.config is None and self.checkpoint is None:
            raise ValueError("a teacher needs a config, or a checkpoint: weights, or the run that they are of")
        if self.config is not None:
            said = [key for key in (*self.of_weights, "options", "normalization") if getattr(self, key)]
            if "checkpoint" in said:
                raise ValueError("config and checkpoint name two teachers: leave one of them out")
            if said:
                raise ValueError(
                    f"its config says what the teacher is, so {said[0]} counts for nothing here: change it by "
                    f"teacher.overrides.student.{said[0]}, or name a checkpoint instead of a config"
                )
        return self


class TermBlock(Block):
    """One distillation term; keys that are not listed here are the loss's own options."""

    loss: str = Field(description="name of a loss, see below")
    weight: Annotated[float, Field(ge=0)] = Field(1.0, description="multiplies the loss")
    student: str = Field("", description="what it reads; default what the loss says, else logits")
    teacher: str = Field("", description="what is read of the teacher; default likewise")
    connector: Literal["conv1x1"] | None = Field(
        None, description="maps the student's channels to the teacher's; trained with the student"
    )
    size: Size = Field("teacher", description="whose size both are brought to where they differ")
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="the loss's options; a key that is not in this table goes there by itself",
    )

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, block: Any) -> Any:
        if not isinstance(block, dict):
            return block
        own = {key: value for key, value in block.items() if key in cls.model_fields}
        rest = {key: value for key, value in block.items() if key not in cls.model_fields}
        return {**own, "options": {**own.get("options", {}), **rest}}

    @model_validator(mode="after")
    def _try(self, info: ValidationInfo) -> "TermBlock":
        check("loss", LOSSES, self.loss, self.options)
        if info.context != WITHOUT_TORCH:
            self.build()
        return self

    def build(self) -> Term:
        """Return the term that this describes."""
        return Term(
            make("loss", LOSSES, self.loss, self.options),
            weight=self.weight,
            student=self.student,
            teacher=self.teacher,
            connector=self.connector,
            size=self.size,
        )


class Distill(Block):
    """The terms, their schedule and the pixel weighting."""

    terms: dict[str, TermBlock | None] | None = Field(
        None, description="named terms; null takes one out that a base names, or all of them"
    )
    task_weight: Annotated[float, Field(ge=0)] = Field(1.0, description="multiplies the task loss")
    schedule: dict[str, Any] | None = Field(
        None, description="{alw: {rise: [...], fall: [...]}}, or for each named term {linear: {start: ..., end: ...}}"
    )
    pixel_weighting: dict[str, dict[str, Any] | None] | None = Field(None, description="{rdd: {threshold: 0.7, ...}}")

    @model_validator(mode="after")
    def _try(self, info: ValidationInfo) -> "Distill":
        self.build_schedule()
        self._check_weighting()
        if info.context != WITHOUT_TORCH:
            self.build_weighting()
        return self

    def named_terms(self) -> dict[str, TermBlock]:
        """Return the blocks of the terms by name."""
        return {name: block for name, block in (self.terms or {}).items() if block is not None}

    def build_terms(self) -> dict[str, Term]:
        """Return the terms by name."""
        return {name: block.build() for name, block in self.named_terms().items()}

    def build_schedule(self) -> dict[str, Schedule]:
        """Return the schedule of each named term."""
        if not self.schedule:
            return {}
        if "alw" in self.schedule:
            if len(self.schedule) > 1:
                raise ValueError("a schedule is either alw or one entry for each term, not both")
            schedules: dict[str, Schedule] = make("schedule", SCHEDULES, "alw", self.schedule["alw"] or {})
            return schedules
        built: dict[str, Schedule] = {}
        for name, block in self.schedule.items():
            if not isinstance(block, dict) or len(block) != 1:
                raise ValueError(f"the schedule of {name!r} is {{linear: {{start: ..., end: ...}}}}, got {block!r}")
            (kind, options), *_ = block.items()
            built[name] = make("schedule", {"linear": SCHEDULES["linear"]}, kind, options or {})
        return built

    def build_weighting(self, ignore_index: int = 255) -> "RelativeDifficulty | None":
        """Return the pixel weighting, or None."""
        if not self.pixel_weighting:
            return None
        (name, options), *_ = self.pixel_weighting.items()
        weighting: RelativeDifficulty = make(
            "pixel weighting", WEIGHTINGS, name, {"ignore_index": ignore_index, **(options or {})}
        )
        return weighting

    def _check_weighting(self) -> None:
        if self.pixel_weighting and len(self.pixel_weighting) != 1:
            raise ValueError(f"pixel_weighting names one method, got {', '.join(self.pixel_weighting)}")
        for name, options in (self.pixel_weighting or {}).items():
            check("pixel weighting", WEIGHTINGS, name, options or {})


class Optimizer(Block):
    """The optimiser, and the learning rate's course."""

    name: Literal["sgd", "adamw"] = Field("sgd", description="SGD with momentum, or AdamW")
    lr: Annotated[float, Field(gt=0)] = Field(0.01, description="of the decoder, heads and connectors")
    encoder_lr: Annotated[float, Field(gt=0)] | None = Field(
        None, description="of the encoder, or of the backbone below the FPN; default lr"
    )
    momentum: Share = Field(0.9, description="of sgd")
    weight_decay: Annotated[float, Field(ge=0)] = Field(1e-4, description="of all parameters")
    bias_lr_factor: Annotated[float, Field(gt=0)] = Field(
        1.0, description="multiplies the rate of the biases of convolutions and linear layers, not of norms"
    )
    bias_weight_decay: Annotated[float, Field(ge=0)] | None = Field(
        None, description="of those biases; default weight_decay"
    )
    schedule: Literal["poly", "cosine", "onecycle", "multistep"] = Field(
        "poly", description="the learning rate's course over the steps"
    )
    power: Annotated[float, Field(gt=0)] = Field(0.9, description="of poly")
    milestones: list[Count] = Field(
        default_factory=list, description="of multistep: after these steps a tenth of the rate before"
    )
    warmup_steps: Natural = Field(0, description="linear warm-up before all but onecycle")


class Validation(Block):
    """When the student is measured; how is the task's."""

    every: Count | None = Field(None, description="steps between two validations; default a tenth of all")
    batch_size: BatchSize = Field(1, description="images at once; above 1, those of segmentation must have one size")
    pictures: Natural = Field(4, description="images shown in TensorBoard")


class Trainer(Block):
    """What PyTorch Lightning's Trainer is told."""

    max_steps: Count = Field(40000, description="optimiser steps")
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = Field("32-true", description="mixed: autocast")
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps", "tpu"] = Field("auto", description="kind of device")
    devices: Devices = Field("auto", description="how many, or which")
    num_nodes: Annotated[int, Field(ge=1, le=1024)] = Field(1, description="machines")
    strategy: str = Field("auto", description="such as ddp")
    sync_batchnorm: bool = Field(True, description="batch statistics over all processes, on GPUs")
    accumulate: Count = Field(1, description="batches per optimiser step")
    gradient_clip: Annotated[float, Field(gt=0)] | None = Field(None, description="largest gradient norm")
    checkpoint_every: Count | None = Field(
        None, description="steps between two checkpoints; one is also written after each validation"
    )
    log_every: Count = Field(10, description="steps between two entries in TensorBoard")
    compile: bool = Field(False, description="torch.compile the distiller")
    threads: Annotated[int, Field(ge=1, le=1024)] | None = Field(None, description="CPU threads; default torch's")


class Config(Block):
    """A whole experiment."""

    task: str = Field(description="what is trained")
    name: RunName = Field(description="of the run directory")
    runs: PathText = Field("runs", description="where run directories are made")
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = Field(0, description="of weights, order and augmentation")
    data: Data
    student: Model
    teacher: Teacher | None = None
    distill: Distill = Distill()
    optimizer: Optimizer = Optimizer()
    validation: Validation = Validation()
    trainer: Trainer = Trainer()

    @field_validator("distill", mode="before")
    @classmethod
    def _none_is_nothing(cls, distill: Any) -> Any:
        return {} if distill is None else distill

    @model_validator(mode="after")
    def _terms_fit(self) -> "Config":
        if self.teacher is None and (self.distill.named_terms() or self.distill.pixel_weighting):
            raise ValueError("distill names terms or a pixel weighting, but there is no teacher block")
        names = ["task", *self.distill.named_terms()]
        for name in self.distill.build_schedule():
            if name not in names:
                raise ValueError(f"distill.schedule names no term: {name!r}; terms: {', '.join(names)}")
        return self
