"""What a config file of any task may say: names, types, ranges and defaults of every key."""

from collections.abc import Callable, Iterator
from typing import Annotated, Any, ClassVar, Literal, cast

from pydantic import Field, model_validator

from segkd.common.plain import Block, ReadWhere
from segkd.common.reading import MAX_PIXELS
from segkd.common.values import Above0, AtLeast0, BatchSize, Count, Devices, Natural, PathText, RunName, Share
from segkd.errors import nearest
from segkd.models.family import ModelBlock
from segkd.training.distill import Distill, OptionalDistill, TermBlock
from segkd.training.stages import Stage, filled, stage_configs
from segkd.training.teacher_schema import AverageBlock, TeacherBlock, Teachers


class Unlabelled(Block):
    """Images without labels: the terms learn from what a teacher says of them."""

    images: PathText | list[PathText] = Field(
        description="pattern such as `extra/*.jpg`, or several, relative to where the data lie, or absolute"
    )
    share: Annotated[float, Field(ge=0, lt=1)] = Field(0.5, description="how much of each batch they are")


class Data(Block):
    """What is trained on; a task adds how it is augmented."""

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
    unlabelled: Unlabelled | None = Field(None, description="images without labels, mixed into the batches")
    views: Count | None = Field(
        None, description="so many augmented views of each image, which come again; default a new one each epoch"
    )
    view_seed: Natural | None = Field(
        None, description="draws the views; default the run's seed. Runs with the same one see the same views"
    )

    @model_validator(mode="after")
    def _both_kinds(self) -> "Data":
        self.without_label()
        return self

    def without_label(self) -> int:
        """Return how many images of a batch have no label; raises ValueError where all have one, or none has."""
        if self.unlabelled is None:
            return 0
        count = round(self.batch_size * self.unlabelled.share)
        if not 0 < count < self.batch_size:
            raise ValueError(
                f"unlabelled.share: {self.unlabelled.share:g} of batch_size {self.batch_size} is {count} images: at "
                f"least 1 must have a label, and 1 none"
            )
        return count


class Optimizer(Block):
    """The optimiser, and the learning-rate schedule."""

    read_where: ClassVar[ReadWhere] = {
        "momentum": ("name", ("sgd",)),
        "power": ("schedule", ("poly",)),
        "milestones": ("schedule", ("multistep",)),
        "warmup_steps": ("schedule", ("poly", "cosine", "multistep")),
    }

    name: Literal["sgd", "adamw"] = Field("sgd", description="SGD with momentum, or AdamW")
    lr: Above0 = Field(0.01, description="of the decoder, heads and connectors")
    encoder_lr: Above0 | None = Field(None, description="of the encoder, or of the backbone below the FPN; default lr")
    momentum: Share = Field(0.9, description="of sgd")
    weight_decay: AtLeast0 = Field(1e-4, description="of all parameters")
    bias_lr_factor: Above0 = Field(
        1.0, description="multiplies the rate of the biases of convolutions and linear layers, not of norms"
    )
    bias_weight_decay: AtLeast0 | None = Field(None, description="of those biases; default weight_decay")
    schedule: Literal["poly", "cosine", "onecycle", "multistep"] = Field(
        "poly", description="the learning rate's course over the steps"
    )
    power: Above0 = Field(0.9, description="of poly")
    milestones: list[Count] = Field(
        default_factory=list, description="of multistep: after these steps a tenth of the rate before"
    )
    warmup_steps: Natural = Field(0, description="linear warm-up before all but onecycle")

    @model_validator(mode="after")
    def _steps_of_multistep(self) -> "Optimizer":
        if self.schedule == "multistep" and not self.milestones:
            raise ValueError("schedule multistep needs milestones, the steps after which the rate falls to a tenth")
        return self


class Validation(Block):
    """When the student is measured; a task adds how."""

    every: Count | None = Field(None, description="steps between two validations; default a tenth of all")
    batch_size: BatchSize = Field(1, description="images at once; above 1, those of segmentation must have one size")
    pictures: Natural = Field(4, description="images shown in TensorBoard")


class Trainer(Block):
    """What PyTorch Lightning's Trainer is told."""

    max_steps: Count = Field(40000, description="optimiser steps")
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = Field(
        "32-true", description="mixed: autocast, in validation too"
    )
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps", "tpu"] = Field("auto", description="kind of device")
    devices: Devices = Field("auto", description="how many, or which")
    num_nodes: Annotated[int, Field(ge=1, le=1024)] = Field(1, description="machines")
    strategy: str = Field("auto", description="such as ddp")
    sync_batchnorm: bool = Field(True, description="batch statistics over all processes, on GPUs")
    accumulate: Count = Field(1, description="batches per optimiser step")
    gradient_clip: Above0 | None = Field(None, description="largest gradient norm")
    ema: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None,
        description="decay of a moving average of the student's weights, such as 0.999, which is measured and saved in "
        "their place",
    )
    recalibrate: Count | None = Field(
        None,
        description="training batches, such as 100, over which the saved student's batch norms are estimated anew in "
        "float32, in which it is then measured: for mixed precision",
    )
    checkpoint_every: Count | None = Field(
        None, description="steps between two checkpoints; one is also written after each validation"
    )
    log_every: Count = Field(10, description="steps between two entries in TensorBoard")
    compile: bool = Field(False, description="torch.compile the distiller")
    channels_last: bool = Field(
        False,
        description="maps lie pixel by pixel in memory: faster convolutions on CPUs, and in mixed precision on GPUs",
    )
    threads: Annotated[int, Field(ge=1, le=1024)] | None = Field(None, description="CPU threads; default torch's")


class Config(Block):
    """A whole experiment."""

    places: ClassVar[tuple[str, ...]] = ()
    """Names that terms can read of the outputs of the task's models; any other name is a module path."""

    task: str = Field(description="what is trained")
    name: RunName = Field(description="of the run directory")
    runs: PathText = Field("runs", description="where run directories are made")
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = Field(0, description="of weights, order and augmentation")
    python_path: list[PathText] | None = Field(
        None,
        description="folders where modules that this config names are looked for, after the working directory; default "
        "those of this file and of its bases",
    )
    data: Data
    student: ModelBlock
    teacher: TeacherBlock | None = None
    teachers: Teachers | None = Field(None, description="several by name, in place of teacher")
    distill: OptionalDistill = Distill()
    optimizer: Optimizer = Optimizer()
    validation: Validation = Validation()
    trainer: Trainer = Trainer()
    stages: list[Stage] | None = Field(
        None, description="[{steps: 2000, distill: {...}, task: 0}, {steps: 4000}]: one after the other"
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_stages(cls, content: Any) -> Any:
        return filled(content)

    @model_validator(mode="after")
    def _stages_fit(self) -> "Config":
        for number, config in enumerate(stage_configs(self) if self.stages else (), 1):
            try:
                cast(Any, config)._terms_fit()
                if not (config.distill.named_terms() or config.distill.task_weight):
                    raise ValueError("nothing teaches: it has no terms, and the task loss counts for nothing")
            except ValueError as error:
                raise ValueError(f"stage {number}: {error}") from None
        return self

    @model_validator(mode="after")
    def _terms_fit(self) -> "Config":
        if self.teacher is not None and self.teachers is not None:
            raise ValueError("teacher names one, teachers several: leave one of them out")
        named, terms = self.named_teachers(), self.distill.named_terms()
        if not named and (terms or self.distill.pixel_weighting):
            raise ValueError("distill names terms or a pixel weighting, but there is no teacher block")
        for name in self.distill.scheduled():
            if name not in ("task", *terms):
                raise ValueError(f"distill.schedule names no term: {name!r}; terms: {', '.join(('task', *terms))}")
        for name, term in terms.items():
            for place in _places(term):
                teacher, colon, path = place.rpartition(":")
                if colon and teacher not in named:
                    raise ValueError(f"distill.terms.{name} names no teacher: {teacher!r}, {nearest(teacher, named)}")
                if not colon and len(named) > 1:
                    raise ValueError(
                        f"distill.terms.{name} must say which teacher it reads, as in teacher: {next(iter(named))}:"
                        f"{path or 'logits'}; teachers: {', '.join(named)}"
                    )
        return self

    def parts(self) -> Iterator[tuple[tuple[str, ...], Callable[[], Any]]]:
        """Yield what is to be built: its keys in a config, and the function that builds it."""
        yield from self.distill.parts()
        for stage in self.stages or ():
            yield from ((("stages",), make) for _, make in stage.distill.parts())

    def without_effect(self) -> list[str]:
        """Return a line for each setting that has no effect, or not its full one, so that the user is told."""
        blocks = {"optimizer": self.optimizer, "validation": self.validation}
        found = [
            f"{name}.{key} has no effect: it counts where {name}.{where}"
            for name, block in blocks.items()
            for key, where in block.unread().items()
        ]
        warmup, steps = self.optimizer.warmup_steps, self.trainer.max_steps
        if warmup >= steps and self.optimizer.schedule != "onecycle":
            found.append(f"optimizer.warmup_steps: the run's {steps} steps end before a warm-up of {warmup}")
        return found

    def names_code(self) -> bool:
        """Whether any code of the user's own is named."""
        return any(each.names_code() for each in (self.distill, *(stage.distill for stage in self.stages or ())))

    def named_teachers(self) -> dict[str, TeacherBlock | AverageBlock]:
        """Return the teachers' blocks by name; the name of a single one is ``teacher``."""
        if self.teachers is not None:
            return self.teachers.blocks()
        return {} if self.teacher is None else {"teacher": self.teacher}

    def teacher_key(self, name: str) -> str:
        """Return the key under which a teacher's block stands."""
        return name if self.teachers is None else f"teachers.{name}"

    def trained_teachers(self) -> dict[str, TeacherBlock]:
        """Return by name the blocks of the teachers that a config trains."""
        blocks = {name: block for name, block in self.named_teachers().items() if isinstance(block, TeacherBlock)}
        return {name: block for name, block in blocks.items() if block.config is not None}

    def read_teachers(self) -> set[str]:
        """Return the names of the teachers that a term or the pixel weighting reads."""
        named = set(self.named_teachers())
        weighting = next(iter((self.distill.pixel_weighting or {}).values()), None) or {}
        if len(named) < 2 or (self.distill.pixel_weighting and "teacher" not in weighting):
            return named
        places = (place for term in self.distill.named_terms().values() for place in _places(term))
        return {place.rpartition(":")[0] for place in places} | ({weighting["teacher"]} if weighting else set())


def _places(term: TermBlock) -> list[str]:
    return [term.teacher] if isinstance(term.teacher, str) else term.teacher
