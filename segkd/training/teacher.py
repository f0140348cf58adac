"""The teachers of a run as models: built of a run, weights or a family, loaded, and matched with their student."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segkd import registry
from segkd.common.plain import written
from segkd.errors import SegkdError
from segkd.training.classes import check_same, match_classes
from segkd.training.run import Run
from segkd.training.schema import AverageBlock, Config, TeacherBlock
from segkd.training.teacher_runs import key_of

if TYPE_CHECKING:
    from segkd.models.family import Family
    from segkd.network import Network
    from segkd.training.task import Task


class TeacherOf:
    """One teacher of a run: built when this is made, its weights loaded when they are there.

    Args:
        task: of the run.
        name: of the teacher.
        own: the config that trains it, if it has one.

    Attributes:
        network: reads its logits in the student's classes.
        checkpoint: where its weights lie, until they are loaded and after; None where its family brought them.
        lacks_head: whether its auxiliary head is still to be trained.
        remarks: what a person should know of it.

    Raises:
        SegkdError: the model cannot be built, its classes are others and it is not said which is which, or the config
            says something else of it than its run.
    """

    network: "Network"

    def __init__(self, task: "Task", name: str, own: Config | None) -> None:
        block = task.config.named_teachers()[name]
        assert isinstance(block, TeacherBlock)
        self.name, self.key, self.block = name, key_of(task.config, name), block
        self.checkpoint: str | None = block.checkpoint
        self.lacks_head = False
        self.remarks: list[str] = []
        try:
            if own is not None:
                self._of_config(task, own)
            else:
                self._of_block(task)
        except SegkdError as error:
            raise SegkdError(f"{task.config.name}: {error}") from None
        if self.network.note:
            self.remarks.append(f"the teacher {name}: {self.network.note}")

    def _of_config(self, task: "Task", own: Config) -> None:
        theirs = task.read_dataset(own.data.dataset).class_names
        block = own.student.model_copy(update={"checkpoint": None, **self._head_of(own.student)})
        self.network = task.network(block, theirs, weights=False)
        self.checkpoint = str(Run.of(own).student)
        self._match(task, own.name)

    def _of_block(self, task: "Task") -> None:
        from segkd.common.student import CONFIG_FILE, STUDENT_FILE, student_dir
        from segkd.common.weights import WEIGHT_SUFFIXES
        from segkd.models.saved import read_network

        path = None if self.checkpoint is None else Path(self.checkpoint)
        folder = None
        if path is not None and (path.is_dir() or (not path.exists() and path.suffix not in WEIGHT_SUFFIXES)):
            folder = student_dir(path)
        elif path is not None and path.name == STUDENT_FILE and (path.parent / CONFIG_FILE).is_file():
            folder = path.parent
        if folder is not None:
            _, self.network = read_network(folder, **self._changes(task, folder))
            self._check_said()
        else:
            missing = [key for key in self.block.required if getattr(self.block, key) is None]
            if missing:
                raise SegkdError(
                    f"{self.key}.{missing[0]} is missing: "
                    + (
                        f"{path} alone does not say what its weights are of; a run directory as {self.key}.checkpoint "
                        "does"
                        if path is not None
                        else f"its family {self.block.family} must be told"
                    )
                )
            self.network = self._built(task)
        self._match(task, self.checkpoint or self.name)

    def _head_of(self, block: Any) -> dict[str, bool]:
        """Return the setting by which a model gets the auxiliary head that the config asks for, if it does."""
        if not getattr(self.block, "auxiliary", False):
            return {}
        if not hasattr(block, "auxiliary"):
            raise SegkdError(f"{self.key}.auxiliary: models of the family {block.family!r} get no auxiliary head")
        return {"auxiliary": True}

    def _changes(self, task: "Task", folder: Path) -> dict[str, Any]:
        """Return the settings of a saved student that are others for a teacher."""
        from segkd.models.smp_files import AUXILIARY_FILE

        changes = {**task.sizes(), "task": task.config.task}
        if ":" in self.block.family:
            changes["family"] = self.block.family
        if (build := getattr(self.block, "build", None)) is not None:
            changes["build"] = build
        has_head = getattr(self.block, "auxiliary", False) or (folder / AUXILIARY_FILE).is_file()
        return changes | ({"auxiliary": True} if has_head else {})

    def _built(self, task: "Task") -> "Network":
        """Return a model of which the config itself says what it is."""
        said = {key: value for key in self.block.model_fields_set if (value := getattr(self.block, key)) is not None}
        kind = registry.find("family", self.block.family).block
        own = ("checkpoint", "auxiliary")  # which mean other things of a teacher
        given = {key: value for key, value in said.items() if key in kind.model_fields and key not in own}
        block = kind.model_validate({**given, "family": self.block.family})
        block = block.model_copy(update=self._head_of(block))
        count = self.block.class_map
        if not self.block.brings_weights:
            # A file of weights does not name its classes.
            classes = task.class_names if count is None else [str(number) for number in range(len(count))]
            return task.network(block, classes, weights=False)
        return task.network(block, None, weights=self.checkpoint is None)

    def _check_said(self) -> None:
        """Raise a SegkdError where the config says of the teacher what its saved student says otherwise."""
        held = self.network.settings
        seen = {"mean": list(self.network.preprocess.mean), "std": list(self.network.preprocess.std)}
        said = {key: getattr(self.block, key) for key in self.block.required}
        pairs = {key: (value, held.get(key)) for key, value in said.items() if value is not None}
        if (given := getattr(self.block, "normalization", None)) is not None:
            pairs["normalization"] = (given.model_dump(), seen)
        options = held.get("options", {})
        pairs |= {f"options.{key}": (value, options.get(key)) for key, value in self.block.options.items()}
        for key, (given, there) in pairs.items():
            if _comparable(given) != _comparable(there):
                raise SegkdError(
                    f"{self.key}.{key}: {self.checkpoint} has {written(there)}, not {written(given)}: leave "
                    f"{self.key}.{key} out, the checkpoint says it"
                )

    def _match(self, task: "Task", what: str) -> None:
        """Have the teacher's logits read in the student's classes."""
        from segkd.adapter import merged_classes

        theirs, ours = self.network.classes, task.class_names
        if not theirs:  # its features alone are read
            return
        if not task.maps_classes:
            check_same(f"the teacher {what}", theirs, ours, f"{task.name} needs the same, in the same order")
            return
        found = match_classes(f"the teacher {what}", f"{self.key}.class_map", theirs, ours, self.block.class_map)
        if found is not None:
            self.network.class_map = merged_classes(found)
        if found is not None and isinstance(self.block.class_map, dict | None):
            self.remarks.append(f"the classes of the teacher {what}, and what they are the student's:")
            pairs = list(zip(theirs, found, strict=True))
            self.remarks += [f"  {name} -> {ours[place]}" for name, place in pairs if place is not None]
            if left := [name for name, place in pairs if place is None]:
                self.remarks.append(f"  {', '.join(left)} -> none")

    def load(self, to_measure: bool = False) -> None:
        """Load the weights.

        Args:
            to_measure: where its predictions alone are asked for, an auxiliary head may lack.

        Raises:
            SegkdError: they do not fit, or hold no auxiliary head where one is asked for.
        """
        if self.checkpoint is None:
            return
        family: type[Family] = registry.find("family", self.network.family or "")
        self.lacks_head = not family.load(self.network.module, self.checkpoint)
        if self.lacks_head and not to_measure and getattr(self.block, "auxiliary", "fit") != "fit":
            raise SegkdError(f"{self.checkpoint} holds no auxiliary head: set {self.key}.auxiliary=fit to train one")


class TeachersOf:
    """The teachers of a run by name: built when this is made, their weights loaded when they are there.

    Args:
        task: of the run.
        configs: those that train some of them, see `teacher_configs`.

    Attributes:
        networks: each of them, averages too.
        remarks: what a person should know of them.

    Raises:
        SegkdError: see `TeacherOf`.
    """

    def __init__(self, task: "Task", configs: Mapping[str, Config]) -> None:
        blocks = task.config.named_teachers()
        self.each = {
            name: TeacherOf(task, name, configs.get(name))
            for name, block in blocks.items()
            if isinstance(block, TeacherBlock)
        }
        networks = {name: teacher.network for name, teacher in self.each.items()}
        for name, block in blocks.items():
            if isinstance(block, AverageBlock):
                networks[name] = _average(task, [networks[other] for other in block.average], block.weights)
        self.networks = {name: networks[name] for name in blocks}
        self.remarks = [remark for teacher in self.each.values() for remark in teacher.remarks]

    @property
    def predicting(self) -> "dict[str, Network]":
        """Return those whose features are not all that can be read of them."""
        return {name: network for name, network in self.networks.items() if network.classes}

    def load(self, to_measure: bool = False) -> None:
        """Load the weights of all, see `TeacherOf.load`."""
        for teacher in self.each.values():
            teacher.load(to_measure)


def _average(task: "Task", members: "list[Network]", weights: list[float] | None) -> "Network":
    from segkd.network import Network
    from segkd.teachers import Average

    multiple = math.lcm(*(member.preprocess.multiple for member in members))
    return Network(Average(members, weights), multiple=multiple, classes=task.class_names, task=task.config.task)


def _comparable(value: Any) -> Any:
    if isinstance(value, str):
        return value.lower()
    if isinstance(value, Mapping):
        return {key: _comparable(inner) for key, inner in value.items()}
    return [_comparable(inner) for inner in value] if isinstance(value, list | tuple) else value
