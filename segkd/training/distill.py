"""What a config may say of distillation: its terms, their schedule, the pixel weighting; and what is built from it."""

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from segkd.common.plain import Block
from segkd.common.values import AtLeast0
from segkd.errors import SegkdError
from segkd.registry import own_name, thing, things
from segkd.schedules import Schedule
from segkd.term import Size, Term
from segkd.training.options import check, make

if TYPE_CHECKING:
    from segkd.weighting import PixelWeighting

Named = str | dict[str, Any]
"""A name alone, or ``{name: options}``."""
by_name = BeforeValidator(lambda said: {said: {}} if isinstance(said, str) else said)
"""Reads a name alone as ``{name: {}}``, a name without options."""
NamedBlocks = Annotated[dict[str, Any] | None, by_name]


class TermBlock(Block):
    """One distillation term; keys that are not listed here are the loss's own options."""

    loss: str = Field(description="name of a loss, see below, or package.module:Name of one's own")
    weight: AtLeast0 = Field(1.0, description="multiplies the loss")
    share: AtLeast0 | None = Field(
        None,
        description="instead of the weight: the term's gradient on the student's parameters is kept at this share of "
        "the task loss's",
    )
    student: str | list[str] = Field(
        "", description="what it reads; default what the loss says, else logits; of a list the loss gets a list"
    )
    teacher: str | list[str] = Field("", description="what is read of the teacher; default likewise")
    connector: Named | None = Field(
        None,
        description="maps the student's channels to the teacher's and is trained with the student: a name, see below, "
        "{name: options}, or package.module:Name of one's own",
    )
    size: Size = Field("teacher", description="whose size both are brought to where they differ")
    options: dict[str, Any] = Field(
        default_factory=dict, description="the loss's options; a key that is not in this table goes there by itself"
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
    def _check(self) -> "TermBlock":
        if self.share is not None and self.weight != 1:
            raise ValueError("a term has a weight or a share, not both")
        for named in self.named():
            _check(*named)
        return self

    def named(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """Yield kind, name and options of the loss, and of the connector if there is one."""
        yield "loss", self.loss, self.options
        if self.connector is not None:
            yield "connector", *_one("connector", self.connector)

    def build(self) -> Term:
        """Return the term that this describes."""
        made = {kind: make(kind, name, options) for kind, name, options in self.named()}
        said = {key: getattr(self, key) for key in ("weight", "share", "student", "teacher", "size")}
        return Term(**made, **said)

    def misplaced(self, task: str, places: Collection[str]) -> str | None:
        """Return what is wrong where the loss reads another task's outputs, else None; the user's own is imported."""
        says = thing("loss", self.loss).says
        place = says.get("reads", "logits")
        named = [side if isinstance(side, list) else [side] for side in (self.student, self.teacher)]
        read = {where.rpartition(":")[2] or place for side in named for where in side}
        # The places that are no module paths: those that this package's losses read by default, of any task.
        of_tasks = {loss.says["reads"] for loss in things("loss").values()}
        if place in places or place not in read or place not in of_tasks:
            return None
        fitting = [loss.name for loss in things("loss").values() if loss.says["reads"] in places]
        hint = f"{', '.join(fitting)} read what it has"
        if ":" in self.loss or says.get("takes"):
            hint += f"; or say what this one reads, such as student: {(*places,)[0]}, teacher: {(*places,)[0]}"
        return f"loss {self.loss!r} reads {place!r}, which {task} does not have: {hint}"


class Distill(Block):
    """The terms, their schedule and the pixel weighting."""

    terms: dict[str, TermBlock | None] | None = Field(
        None, description="named terms; null takes one out that a base names, or all of them"
    )
    task_weight: AtLeast0 = Field(1.0, description="multiplies the task loss")
    schedule: NamedBlocks = Field(
        None,
        description="{alw: {rise: [...], fall: [...]}}, or for each named term {linear: {start: ..., end: ...}}; "
        "package.module:Name of one's own in either place",
    )
    pixel_weighting: NamedBlocks = Field(
        None, description="{rdd: {threshold: 0.7, ...}}, or package.module:Name of one's own"
    )

    @model_validator(mode="after")
    def _check(self) -> "Distill":
        for named in self._named():
            _check(*named)
        if not any(":" in name for _, name, _ in self._schedules()):
            self.build_schedule()
        return self

    def _named(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """Yield kind, name and options of all but the terms."""
        yield from (("schedule", name, options) for _, name, options in self._schedules())
        if self.pixel_weighting:
            yield "weighting", *_one("pixel_weighting", self.pixel_weighting)

    def named_terms(self) -> dict[str, TermBlock]:
        """Return the blocks of the terms by name."""
        return {name: block for name, block in (self.terms or {}).items() if block is not None}

    def scheduled(self) -> Iterator[str]:
        """Yield the terms that have a schedule, as far as that is known without importing the user's own."""
        for term, name, options in self._schedules():
            if term or ":" not in name:
                yield from [term] if term else make("schedule", name, options)

    def names_code(self) -> bool:
        """Whether any code of the user's own is named."""
        of_terms = (named for block in self.named_terms().values() for named in block.named())
        return any(":" in name for _, name, _ in (*of_terms, *self._named()))

    def parts(self) -> Iterator[tuple[tuple[str, ...], Callable[[], Any]]]:
        """Yield what is to be built: its keys in a config, and the function that builds it."""
        for name, block in self.named_terms().items():
            yield ("distill", "terms", name), block.build
        yield ("distill", "schedule"), self.build_schedule
        yield ("distill", "pixel_weighting"), self.build_weighting

    def misplaced(self, task: str, places: Collection[str], own: bool) -> Iterator[tuple[tuple[str, ...], str]]:
        """Yield what reads places that this task does not have: its keys in a config, and what is wrong.

        Losses of the user's own, which are imported for that, are looked at only if ``own``.
        """
        for name, block in self.named_terms().items():
            if (own or ":" not in block.loss) and (problem := block.misplaced(task, places)):
                yield ("distill", "terms", name), problem
        if self.pixel_weighting and "logits" not in places:
            yield ("distill", "pixel_weighting"), f"weighs pixels by their logits, which {task} does not have"

    def build_terms(self) -> dict[str, Term]:
        """Return the terms by name."""
        return {name: block.build() for name, block in self.named_terms().items()}

    def build_schedule(self) -> dict[str, Schedule]:
        """Return the schedule of each named term."""
        built: dict[str, Schedule] = {}
        for term, name, options in self._schedules():
            made = make("schedule", name, options)
            if not term and not isinstance(made, Mapping):
                raise SegkdError(f"the schedule {name!r} is one term's: write it after the term's name")
            built.update({term: made} if term else made)
        return built

    def build_weighting(self, ignore_index: int = 255) -> "PixelWeighting | None":
        """Return the pixel weighting, or None; one that has such an option gets the data set's ``ignore_index``."""
        if not self.pixel_weighting:
            return None
        name, options = _one("pixel_weighting", self.pixel_weighting)
        if "ignore_index" in thing("weighting", name).options():
            options = {"ignore_index": ignore_index, **options}
        weighting: PixelWeighting = make("weighting", name, options)
        return weighting

    def _schedules(self) -> list[tuple[str, str, dict[str, Any]]]:
        """Return each schedule's term, name and options; the term is empty for a schedule of several terms."""
        blocks = self.schedule or {}
        several = [name for name in blocks if is_of_terms(name)]
        if several and len(blocks) > 1:
            raise ValueError(f"a schedule is either {several[0]} or one entry for each term, not both")
        if several:
            return [("", *_one("schedule", blocks))]
        found = []
        for term, block in blocks.items():
            if not isinstance(block, dict | str) or (len(block) != 1 and isinstance(block, dict)):
                raise ValueError(f"the schedule of {term!r} is {{linear: {{start: ..., end: ...}}}}, got {block!r}")
            name, options = _one("schedule", block)
            if ":" not in name and is_of_terms(name):
                raise ValueError(f"{name} is a schedule of several terms, not of {term!r}: write {{{name}: {{...}}}}")
            found.append((term, name, options))
        return found


OptionalDistill = Annotated[Distill, BeforeValidator(lambda said: {} if said is None else said)]
"""A null is read as an empty block: nothing is distilled."""


def _one(key: str, block: Named) -> tuple[str, dict[str, Any]]:
    """Return name and options of what is written as a name, or as ``{name: options}``."""
    if isinstance(block, str):
        return block, {}
    if len(block) != 1:
        raise ValueError(f"{key} names one method, got {', '.join(block) or '{}'}")
    ((name, options),) = block.items()
    if options is not None and not isinstance(options, dict):
        raise ValueError(f"{key}: the options of {name} are keys and values, got {options!r:.80}")
    return name, options or {}


def _check(kind: str, name: str, options: dict[str, Any]) -> None:
    """Check a name and its options as far as can be without running the user's code."""
    if ":" in name:
        own_name(kind, name)
    else:
        check(thing(kind, name), options)


def is_of_terms(name: str) -> bool:
    """Return whether this key, which may also be a term's name, names a schedule of several terms."""
    known = things("schedule").get(name)
    return ":" in name or (known is not None and bool(known.says.get("of_terms")))
