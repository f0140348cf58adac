"""What a config file may say: names, types, ranges and defaults of every key."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from segkd.schedules import Schedule
from segkd.term import Size, Term
from segkd.training.methods import LOSSES, SCHEDULES, WEIGHTINGS, make
from segkd.weighting import RelativeDifficulty

Pixels = Annotated[int, Field(ge=1)]
HeightWidth = tuple[Pixels, Pixels]
Share = Annotated[float, Field(ge=0, le=1)]


class Block(BaseModel):
    """A block of a config: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", validate_default=True)


class Data(Block):
    """What is trained on, and how it is augmented."""

    dataset: str = Field(description="name of a shipped data set, or path of a description of one's own")
    root: str | None = Field(None, description="where it lies; default $SEGKD_DATA/<name>, else datasets/<name>")
    train_split: str = "train"
    val_split: str = "val"
    resize: HeightWidth | None = Field(None, description="size that every training pair is brought to first")
    crop: HeightWidth = Field(description="size of what the student trains on")
    scale: tuple[float, float] = Field((0.5, 2.0), description="range of the random scale")
    flip: Share = Field(0.5, description="probability of a horizontal flip")
    color_jitter: Share = 0.0
    batch_size: Annotated[int, Field(ge=1)] = Field(8, description="images per step and process")
    workers: Annotated[int, Field(ge=0)] = 2

    @field_validator("scale")
    @classmethod
    def _ordered(cls, scale: tuple[float, float]) -> tuple[float, float]:
        if not 0 < scale[0] <= scale[1]:
            raise ValueError("expected [smallest, largest] with 0 < smallest <= largest")
        return scale


class Normalization(Block):
    """Mean and standard deviation of each channel of images in 0 to 1."""

    mean: tuple[float, float, float]
    std: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]


class Model(Block):
    """A model of segmentation-models-pytorch."""

    arch: str
    encoder: str
    encoder_weights: str | None = Field(None, description="hub name such as imagenet, a local file, or null")
    auxiliary: bool = Field(False, description="add a FCN head on encoder stage 4")
    auxiliary_weight: Annotated[float, Field(ge=0)] = Field(0.4, description="weight of that head's loss in training")
    options: dict[str, Any] = Field(default_factory=dict, description="further arguments of the architecture")
    normalization: Normalization | None = Field(None, description="default: what the encoder was trained with")
    checkpoint: str | None = Field(None, description="weights to start from: a file or a run directory")


class AuxiliaryFit(Block):
    """How ``teacher.auxiliary: fit`` trains a head on the frozen teacher."""

    steps: Annotated[int, Field(ge=1)] = 300
    lr: Annotated[float, Field(gt=0)] = 1e-3


class Teacher(Block):
    """The teacher: a config of its own, or an architecture and its weights."""

    config: str | None = Field(
        None, description="a config that trains it; its finished run is used, and made first where there is none"
    )
    overrides: dict[str, Any] = Field(default_factory=dict, description="changes to that config, nested as in it")
    arch: str | None = Field(None, description="this and the next keys are read where no config is named")
    encoder: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    normalization: Normalization | None = None
    checkpoint: str | None = Field(None, description="its weights: a file or a run directory")
    auxiliary: bool | Literal["fit"] = Field(
        False, description="true: it has a FCN head, in its weights; fit: train one on the frozen teacher"
    )
    auxiliary_fit: AuxiliaryFit = AuxiliaryFit()
    class_map: list[int | None] | None = Field(None, description="student class of each teacher class, null for none")

    @model_validator(mode="after")
    def _complete(self) -> "Teacher":
        if self.config is None:
            missing = [key for key in ("arch", "encoder", "checkpoint") if getattr(self, key) is None]
            if missing:
                raise ValueError(f"a teacher needs a config, or arch, encoder and checkpoint: {missing[0]} is missing")
        return self


class TermBlock(Block):
    """One distillation term; keys that are not listed here are the loss's own options."""

    loss: str
    weight: Annotated[float, Field(ge=0)] = 1.0
    student: str = "logits"
    teacher: str = "logits"
    connector: Literal["conv1x1"] | None = None
    size: Size = "teacher"
    options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, block: Any) -> Any:
        if not isinstance(block, dict):
            return block
        own = {key: value for key, value in block.items() if key in cls.model_fields}
        rest = {key: value for key, value in block.items() if key not in cls.model_fields}
        return {**own, "options": {**own.get("options", {}), **rest}}

    @model_validator(mode="after")
    def _try(self) -> "TermBlock":
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
    schedule: dict[str, Any] | None = Field(
        None, description="{alw: {rise: [...], fall: [...]}}, or for each named term {linear: {start: ..., end: ...}}"
    )
    pixel_weighting: dict[str, dict[str, Any] | None] | None = Field(None, description="{rdd: {threshold: 0.7, ...}}")

    @model_validator(mode="after")
    def _try(self) -> "Distill":
        self.build_schedule()
        self.build_weighting()
        return self

    def build_terms(self) -> dict[str, Term]:
        """Return the terms by name."""
        return {name: block.build() for name, block in (self.terms or {}).items() if block is not None}

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

    def build_weighting(self, ignore_index: int = 255) -> RelativeDifficulty | None:
        """Return the pixel weighting, or None."""
        if not self.pixel_weighting:
            return None
        if len(self.pixel_weighting) != 1:
            raise ValueError(f"pixel_weighting names one method, got {', '.join(self.pixel_weighting)}")
        (name, options), *_ = self.pixel_weighting.items()
        weighting: RelativeDifficulty = make(
            "pixel weighting", WEIGHTINGS, name, {"ignore_index": ignore_index, **(options or {})}
        )
        return weighting


class Optimizer(Block):
    """The optimiser, and the learning rate's course."""

    name: Literal["sgd", "adamw"] = "sgd"
    lr: Annotated[float, Field(gt=0)] = Field(0.01, description="of the decoder, heads and connectors")
    encoder_lr: Annotated[float, Field(gt=0)] | None = Field(None, description="of the encoder; default lr")
    momentum: Share = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    schedule: Literal["poly", "cosine", "onecycle"] = "poly"
    power: Annotated[float, Field(gt=0)] = Field(0.9, description="of poly")
    warmup_steps: Annotated[int, Field(ge=0)] = Field(0, description="linear warm-up before poly and cosine")


class Validation(Block):
    """How the student is measured."""

    every: Annotated[int, Field(ge=1)] | None = Field(None, description="steps between two; default a tenth of all")
    resize: HeightWidth | None = Field(None, description="size of the images; labels stay at their own")
    mode: Literal["whole", "sliding"] = "whole"
    window: HeightWidth | None = Field(None, description="of sliding; default data.crop")
    stride: HeightWidth | None = Field(None, description="of sliding; default two thirds of the window")
    batch_size: Annotated[int, Field(ge=1)] = Field(1, description="above 1 all images must have one size")
    pictures: Annotated[int, Field(ge=0)] = Field(4, description="images shown in TensorBoard")


class Trainer(Block):
    """What PyTorch Lightning's Trainer is told."""

    max_steps: Annotated[int, Field(ge=1)] = 40000
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps", "tpu"] = "auto"
    devices: int | str | list[int] = "auto"
    num_nodes: Annotated[int, Field(ge=1)] = 1
    strategy: str = "auto"
    sync_batchnorm: bool = True
    accumulate: Annotated[int, Field(ge=1)] = Field(1, description="batches per optimiser step")
    gradient_clip: Annotated[float, Field(gt=0)] | None = Field(None, description="largest gradient norm")
    checkpoint_every: Annotated[int, Field(ge=1)] | None = Field(
        None, description="steps; last.ckpt is also written after each validation"
    )
    log_every: Annotated[int, Field(ge=1)] = 10
    compile: bool = Field(False, description="torch.compile the distiller")
    threads: Annotated[int, Field(ge=1)] | None = Field(None, description="CPU threads; default torch's")


class Config(Block):
    """A whole experiment."""

    name: Annotated[str, Field(pattern=r"^\w[\w.-]*$", description="of the run directory")]
    runs: str = Field("runs", description="where run directories are made")
    seed: Annotated[int, Field(ge=0)] = 0
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
    def _consistent(self) -> "Config":
        if self.teacher is None and (self.distill.build_terms() or self.distill.pixel_weighting):
            raise ValueError("distill names terms or a pixel weighting, but there is no teacher block")
        window, stride = self.validation.window or self.data.crop, self.validation.stride
        if stride is not None and (stride[0] > window[0] or stride[1] > window[1]):
            raise ValueError(f"validation.stride must not be beyond the window {list(window)}, got {list(stride)}")
        names = ["task", *self.distill.build_terms()]
        for name in self.distill.build_schedule():
            if name not in names:
                raise ValueError(f"distill.schedule names no term: {name!r}; terms: {', '.join(names)}")
        return self
