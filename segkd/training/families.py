"""Which blocks a config has: its task's, with those of its models by the families that it names."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import create_model
from pydantic.fields import FieldInfo

from segkd import registry
from segkd.errors import SegkdError, nearest
from segkd.models.family import Family
from segkd.training.schema import AverageBlock, Config, TeacherBlock, Teachers

if TYPE_CHECKING:
    from segkd.training.task import Task

# Of a model's keys those that only count for one that is trained.
_OF_STUDENTS = ("encoder_weights", "backbone_weights", "auxiliary_weight", "norm")


def config_type(content: dict[str, Any], source: Callable[[Sequence[str]], str] = lambda keys: "the config") -> Any:
    """Return the class of the config that has this content, and write into it which families its models are of.

    Args:
        content: what a config says, as yet unchecked.
        source: the name of the file that says what stands under some keys, for messages.

    Raises:
        SegkdError: there is no such task or family (with the nearest), a family has no models for the task, or
            teachers are named twice or in a way that no key is.
    """
    found = task_type(content.get("task", "segmentation"), source)

    def family(keys: Sequence[str], block: Any) -> str:
        if not isinstance(block, dict):
            return found.family
        name = block.get("family") or ("python" if "build" in block else found.family)
        try:
            if not isinstance(name, str):
                raise SegkdError(f"expected the name of a family, got {name!r:.80}")
            tasks = _family(name).tasks
            if found.name in registry.things("task") and tasks and found.name not in tasks:
                fitting = [each for each in registry.things("family") if found.name in (_family(each).tasks or tasks)]
                raise SegkdError(
                    f"{name!r} has no models for {found.name}, but for {', '.join(tasks)}; those that have: "
                    f"{', '.join(fitting)}"
                )
            if keys == ["student"] and _family(name).only_features:
                raise SegkdError(
                    f"models of {name!r} have no classes: they teach by their features, and are no students"
                )
        except SegkdError as error:
            raise SegkdError(f"{source([*keys, 'family'])}: {'.'.join(keys)}.family: {error}") from None
        block["family"] = name
        return name

    student = family(["student"], content.get("student"))
    teacher = family(["teacher"], content.get("teacher"))
    several = content.get("teachers")
    named: list[tuple[str, str | None]] = []
    for name, block in several.items() if isinstance(several, dict) else ():
        if not str(name).isidentifier() or name == "student":
            raise SegkdError(
                f"{source(['teachers'])}: teachers: a teacher's name is letters, digits and _, other than 'student', "
                f"got {str(name)!r:.80}"
            )
        is_average = isinstance(block, dict) and "average" in block
        named.append((name, None if is_average else family(["teachers", name], block)))
    return _config_type(found, student, teacher, tuple(named))


def names_code(content: Mapping[str, Any]) -> bool:
    """Whether a config names a task or a model of the user's own: that must be imported before it can be checked."""
    several = content.get("teachers")
    blocks = [content.get("student"), content.get("teacher"), *(several.values() if isinstance(several, dict) else ())]
    named = [content.get("task"), *(block.get("family") for block in blocks if isinstance(block, dict))]
    named += [block.get("build") for block in blocks if isinstance(block, dict)]
    return any(isinstance(name, str) and ":" in name for name in named)


def _family(name: str) -> type[Family]:
    found = registry.find("family", name)
    if not (isinstance(found, type) and issubclass(found, Family)):
        raise SegkdError(f"{name!r} is no class that derives from segkd.models.family.Family")
    return found


def task_type(name: Any, source: Callable[[Sequence[str]], str] = lambda keys: "the config") -> "type[Task]":
    """Return the task of a name; raises a SegkdError where there is none."""
    try:
        if not isinstance(name, str):
            raise SegkdError(f"there is no task {name!r:.80}, {nearest(name, registry.things('task'))}")
        found = registry.find("task", name)
        if not hasattr(found, "config_type"):
            raise SegkdError(f"{name!r} is no class that derives from segkd.training.task.Task")
    except SegkdError as error:
        raise SegkdError(f"{source(['task'])}: task: {error}") from None
    of_task: type[Task] = found
    return of_task


@functools.cache  # of one class are configs that can be compared
def _config_type(
    task: "type[Task]", student: str, teacher: str, teachers: tuple[tuple[str, str | None], ...]
) -> type[Config]:
    base = task.config_type
    blocks: dict[str, Any] = {
        name: (AverageBlock | None if family is None else _teacher_type(base, family) | None, None)
        for name, family in teachers
    }
    several = create_model("Teachers", __base__=Teachers, __doc__=Teachers.__doc__, **blocks)
    fields: dict[str, Any] = {
        "student": (_family(student).block, _with(base, "student")),
        "teacher": (_teacher_type(base, teacher) | None, _with(base, "teacher", None)),
        "teachers": (several | None, _with(base, "teachers", None)),
    }
    make: Any = create_model  # mypy takes what it returns for another class
    found: type[Config] = make("Config", __base__=base, __doc__=base.__doc__, **fields)
    return found


def _with(base: type[Config], name: str, *default: Any) -> Any:
    """Return a field as a class of configs has it, for another type."""
    field = base.model_fields[name]
    return FieldInfo(description=field.description, default=default[0] if default else field.default)


def _optional(annotation: Any) -> Any:
    return annotation | None


@functools.cache
def _teacher_type(config: type[Config], family: str) -> type[TeacherBlock]:
    """Return the block of a teacher of a family: what describes such a model is optional, since a run says it too."""
    base, fields = config.teacher_type, _family(family).block.model_fields
    own = {name: field for name, field in fields.items() if name not in (*base.model_fields, *_OF_STUDENTS)}
    optional: dict[str, Any] = {
        name: (
            (_optional(field.annotation), FieldInfo(default=None, description=field.description))
            if field.is_required()
            else (field.annotation, field)
        )
        for name, field in own.items()
    }
    make: Any = create_model
    block: type[TeacherBlock] = make("Teacher", __base__=base, __doc__=base.__doc__, **optional)
    block.describing = tuple(own)
    block.required = tuple(name for name, field in own.items() if field.is_required())
    block.brings_weights = family not in ("smp", "detectors")
    return block
