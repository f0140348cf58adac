"""From a config's content to its task, and to the class of the config, which depends on its models' families."""

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from os.path import isfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from pydantic import create_model
from pydantic.fields import FieldInfo

from segkd import registry
from segkd.common.plain import Block
from segkd.common.yaml_file import read_yaml
from segkd.data.description import MAX_VALUES, DatasetSpec, read_spec
from segkd.errors import SegkdError, nearest
from segkd.models.family import Family
from segkd.resources import resource_dir
from segkd.training.schema import Config
from segkd.training.teacher_schema import AverageBlock, TeacherBlock, Teachers

if TYPE_CHECKING:
    from segkd.training.task import Task

# Keys of a model's block that only count for a student.
_OF_STUDENTS = ("encoder_weights", "backbone_weights", "auxiliary_weight", "norm", "inherit")


def task_type(name: Any, where: str = "the config: task") -> "type[Task]":
    """Return the task of a name; raises a SegkdError where there is none."""
    try:
        if not isinstance(name, str):
            raise SegkdError(f"there is no task {name!r:.80}, {nearest(name, registry.things('task'))}")
        found: type[Task] = registry.find("task", name)
        if not hasattr(found, "config_type"):
            raise SegkdError(f"{name!r} is no class that derives from segkd.training.task.Task")
        if lacking := sorted(getattr(found, "__abstractmethods__", ())):
            raise SegkdError(f"{name!r} lacks {', '.join(lacking)}, which segkd.training.task.Task describes")
    except SegkdError as error:
        raise SegkdError(f"{where}: {error}") from None
    return found


def task_of(config: Config) -> "Task":
    """Return the task of a config; raises a SegkdError where its data set's description cannot be read."""
    return task_type(config.task)(config)


def bare_dataset(name: str) -> DatasetSpec | None:
    """Return the data set that a file or a shipped name describes; None where it is a config, or nothing."""
    path = Path(name)
    if not isfile(path):  # unlike Path.is_file, of a name that no disk can have too
        path = resource_dir("datasets") / f"{path.name}.yaml"
        if path.stem != name or not isfile(path):
            return None
    try:
        content = read_yaml(path, MAX_VALUES)
    except SegkdError:
        return None  # what is wrong with it is told when it is read as a config
    return read_spec(path) if isinstance(content, dict) and "splits" in content else None


def models_in(content: Mapping[str, Any]) -> dict[tuple[str, ...], Any]:
    """Return a config's blocks of models, as yet unchecked, by their keys."""
    found: dict[tuple[str, ...], Any] = {("student",): content.get("student"), ("teacher",): content.get("teacher")}
    several = content.get("teachers")
    found |= {("teachers", name): block for name, block in (several.items() if isinstance(several, dict) else ())}
    return {keys: block for keys, block in found.items() if isinstance(block, dict)}


def names_code(content: Mapping[str, Any]) -> bool:
    """Whether a config names a task or model of the user's own, which must be imported before it can be checked."""
    named = [block.get(key) for block in models_in(content).values() for key in ("family", "build")]
    return any(isinstance(name, str) and ":" in name for name in (content.get("task"), *named))


def config_type(content: dict[str, Any], where: Callable[[Sequence[str]], str] = ".".join) -> Any:
    """Return the class of the config with this content, and write the families of its models into the content.

    The content is as yet unchecked; ``where`` returns how messages name the place of some keys.

    Raises:
        SegkdError: there is no such task or family, or a family has no models for the task.
    """
    task = task_type(content.get("task", "segmentation"), where(["task"]))
    several = content["teachers"] if isinstance(content.get("teachers"), dict) else {}
    for name in several:
        if not str(name).isidentifier() or name == "student":
            raise SegkdError(
                f"{where(['teachers'])}: a teacher's name is letters, digits and _, other than 'student', got "
                f"{str(name)!r:.80}"
            )
    base, teacher = task.config_type, _teacher_type(task.config_type, task.family)
    blocks: dict[tuple[str, ...], type[Block]] = {("student",): _family(task.family).block, ("teacher",): teacher}
    blocks |= {("teachers", name): teacher for name in several}
    for keys, block in models_in(content).items():
        if len(keys) > 1 and "average" in block:
            blocks[keys] = AverageBlock
            continue
        name = block.get("family") or ("python" if "build" in block else task.family)
        try:
            _check_family(name, task.name, is_student=keys == ("student",))
        except SegkdError as error:
            raise SegkdError(f"{where([*keys, 'family'])}: {error}") from None
        block["family"] = name
        blocks[keys] = _family(name).block if keys == ("student",) else _teacher_type(base, name)
    return _config_type(base, tuple(blocks.items()))


@functools.cache  # so that configs of the same families are of one class, and can be compared
def _config_type(base: type[Config], blocks: tuple[tuple[tuple[str, ...], Any], ...]) -> type[Config]:
    (_, student), (_, teacher), *several = blocks
    teachers: dict[str, Any] = {name: (kind | None, None) for (_, name), kind in several}
    types = {
        "student": student,
        "teacher": teacher | None,
        "teachers": create_model("Teachers", __base__=Teachers, __doc__=Teachers.__doc__, **teachers) | None,
    }
    fields = {name: (kind, copy.copy(base.model_fields[name])) for name, kind in types.items()}
    make: Any = create_model  # mypy takes what it returns for another class
    found: type[Config] = make("Config", __base__=base, __doc__=base.__doc__, **fields)
    return found


def _check_family(name: Any, task: str, is_student: bool) -> None:
    if not isinstance(name, str):
        raise SegkdError(f"expected the name of a family, got {name!r:.80}")
    tasks = _family(name).tasks
    if task in registry.things("task") and tasks and task not in tasks:
        fitting = [each for each in registry.things("family") if task in (_family(each).tasks or tasks)]
        raise SegkdError(
            f"{name!r} has no models for {task}, but for {', '.join(tasks)}; those that have: {', '.join(fitting)}"
        )
    if is_student and _family(name).only_features:
        raise SegkdError(f"models of {name!r} have no classes: they teach by their features, and are no students")


def _family(name: str) -> type[Family]:
    found = registry.find("family", name)
    if not (isinstance(found, type) and issubclass(found, Family)):
        raise SegkdError(f"{name!r} is no class that derives from segkd.models.family.Family")
    return found


@functools.cache
def _teacher_type(config: type[Config], family: str) -> type[TeacherBlock]:
    """Return the block of a family's teacher: keys that describe the model are optional, since a run has them too."""
    base = get_args(config.model_fields["teacher"].annotation)[0]
    fields = _family(family).block.model_fields
    own = {name: field for name, field in fields.items() if name not in (*base.model_fields, *_OF_STUDENTS)}
    required = tuple(name for name, field in own.items() if field.is_required())
    optional: dict[str, Any] = {name: (field.annotation, field) for name, field in own.items()}
    for name in required:
        kind: Any = own[name].annotation
        optional[name] = kind | None, FieldInfo(default=None, description=own[name].description)
    make: Any = create_model
    block: type[TeacherBlock] = make("Teacher", __base__=base, __doc__=base.__doc__, **optional)
    block.describing, block.required = tuple(own), required
    block.brings_weights = family not in ("smp", "detectors")
    return block
