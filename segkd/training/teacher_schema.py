"""What a config may say of its teachers: where each comes from, whether it is stored, which are averaged."""

from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator

from segkd.common.plain import Block
from segkd.common.values import Above0, PathText, Switch
from segkd.errors import nearest
from segkd.models.family import ModelBlock
from segkd.store import Compression, Kept


class StoreBlock(Block):
    """How a teacher's outputs are kept."""

    dtype: Kept = Field("auto", description="of the values kept: as they arise, or narrower")
    compress: Compression = Field("none", description="zstd: lossless, needs the extra zstd")
    folder: PathText | None = Field(None, description="where; default `$SEGKD_STORE`, else `runs/store`")
    head: bool = Field(
        False,
        description="of a one-stage detector whose head is read too: its FPN maps are kept, and the head runs on them",
    )
    whole: bool = Field(
        False,
        description="segmentation: each image is seen once, as a whole, and each view reads its part of that: as many "
        "views as one likes for the price of one, near what the teacher says of them",
    )


StoreKey = Annotated[
    StoreBlock | None,
    Switch,
    Field(
        description="true, or a block: what the terms read of the teacher is kept for each view, and read instead of "
        "running it"
    ),
]


class TeacherBlock(ModelBlock):
    """A teacher: a config that trains it, a checkpoint, or a model whose family brings its weights."""

    # Set by `segkd.training.tasks` for the teacher's family.
    describing: ClassVar[tuple[str, ...]] = ()
    """Keys that describe the model; a run has them itself."""
    required: ClassVar[tuple[str, ...]] = ()
    """Those of them that have no default."""
    brings_weights: ClassVar[bool] = False
    """Whether the family's models come with trained weights."""

    config: PathText | None = Field(
        None, description="a config that trains it; its finished run is used, and made first where there is none"
    )
    overrides: dict[str, Any] = Field(default_factory=dict, description="changes to that config, nested as in it")
    checkpoint: PathText | None = Field(
        None, description="a run directory, which says all that its weights are of, or a file of weights"
    )
    class_map: list[int | None] | dict[str, str | None] | None = Field(
        None,
        description="student class of each teacher class, null for none: a list, or those by name whose names differ",
    )
    partial: bool = Field(False, description="it may lack classes of the student: pixel_kd's known leaves them out")
    store: StoreKey = None

    @model_validator(mode="after")
    def _one_source(self) -> "TeacherBlock":
        defaults = {key: type(self).model_fields[key].default for key in self.describing}
        said = [key for key, default in defaults.items() if getattr(self, key) not in (None, default)]
        said += ["options"] if self.options else []
        if self.config is None:
            brings_weights = self.brings_weights and said and getattr(self, "weights", "") is not None
            if self.checkpoint is None and not brings_weights:
                raise ValueError("a teacher needs a config, or a checkpoint: weights, or the run that they are of")
            if self.overrides:
                raise ValueError(
                    "overrides are changes to a config, and this teacher has none: nothing would read them"
                )
        elif self.checkpoint is not None:
            raise ValueError("config and checkpoint name two teachers: leave one of them out")
        elif said:
            raise ValueError(
                f"its config says what the teacher is, so {said[0]} counts for nothing here: change it by "
                f"teacher.overrides.student.{said[0]}, or name a checkpoint instead of a config"
            )
        return self


class AverageBlock(Block):
    """The mean of what other entries of ``teachers`` predict."""

    average: Annotated[list[str], Field(min_length=1)] = Field(description="names of other entries of teachers")
    weights: list[Above0] | None = Field(None, description="of each; default all alike")
    store: StoreKey = None

    @model_validator(mode="after")
    def _a_weight_for_each(self) -> "AverageBlock":
        if self.weights is not None and len(self.weights) != len(self.average):
            raise ValueError(f"averages {len(self.average)} teachers, but has {len(self.weights)} weights")
        return self


class Teachers(Block):
    """Several teachers by name: each as `teacher` is, or {average: [names of others], weights: [...], store: ...}."""

    def blocks(self) -> dict[str, TeacherBlock | AverageBlock]:
        """Return those that are not null."""
        return {name: block for name in type(self).model_fields if (block := getattr(self, name)) is not None}

    @model_validator(mode="after")
    def _averages_of_others(self) -> "Teachers":
        found = self.blocks()
        plain = [name for name, block in found.items() if isinstance(block, TeacherBlock)]
        for name, block in found.items():
            for other in block.average if isinstance(block, AverageBlock) else ():
                if other not in plain:
                    raise ValueError(f"{name} averages {other!r}, which is no other teacher, {nearest(other, plain)}")
        return self
