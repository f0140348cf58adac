"""The teachers of a run: the configs that train them, and their models, built, loaded and matched with the student."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segkd import registry
from segkd.common.plain import written
from segkd.common.student import CONFIG_FILE, STUDENT_FILE, student_dir
from segkd.errors import SegkdError
from segkd.training.classes import check_same, match_classes
from segkd.training.config import find_config, load_config, same_dataset
from segkd.training.run import Run
from segkd.training.schema import Config
from segkd.training.teacher_schema import AverageBlock, TeacherBlock

if TYPE_CHECKING:
    from segkd.distiller import Distiller
    from segkd.models.family import Family
    from segkd.network import Network
    from segkd.training.task import Task


def teacher_configs(config: Config, pupils: tuple[Path, ...] = ()) -> dict[str, Config]:
    """Return by name the configs that train a config's teachers; ``pupils`` are the runs that the config teaches.

    A teacher that is given by weights has none.

    Raises:
        SegkdError: such a config is not there or cannot be read, or a run would be its own teacher.
    """
    pupils = (*pupils, Run.of(config).directory)
    return {
        name: _teacher_config(config, f"{config.name}: {config.teacher_key(name)}.config", block, pupils)
        for name, block in config.trained_teachers().items()
    }


def _teacher_config(config: Config, where: str, block: TeacherBlock, pupils: tuple[Path, ...]) -> Config:
    assert block.config is not None
    try:
        found = find_config(block.config)
    except SegkdError as error:
        raise SegkdError(f"{where}: {error}") from None
    run = Run(found.parent)
    # The config that a run keeps names that run, wherever it was moved to.
    is_kept = found.name == run.config_file.name and (run.last.parent.is_dir() or run.student.is_dir())
    own = load_config(
        block.config, changes=block.overrides if is_kept else {"runs": config.runs, **block.overrides}, build=False
    )
    if is_kept:
        own = own.model_copy(update={"runs": str(found.parent.parent), "name": found.parent.name})
    if Run.of(own).directory in pupils:
        raise SegkdError(f"{where}: {block.config} is its own teacher ({Run.of(own).directory})")
    if own.task != config.task:
        raise SegkdError(f"{where}: {own.name} is no {config.task} config")
    teacher_configs(own, pupils)
    if config.data.root is not None and own.data.root is None and same_dataset(own.data.dataset, config.data.dataset):
        own = own.model_copy(update={"data": own.data.model_copy(update={"root": config.data.root})})
    return own


class TeacherOf:
    """One teacher of a run, and the config that trains it, if it has one: built now, its weights loaded later.

    Attributes:
        network: the model, whose logits are read in the student's classes.
        checkpoint: where its weights are loaded from; None where its family brings them.
        lacks_head: whether its auxiliary head is still to be trained.
        remarks: what the user should know of it.

    Raises:
        SegkdError: the model cannot be built, its classes differ and the config does not say which is which, or the
            config says something else of it than its run.
    """

    def __init__(self, task: "Task", name: str, own: Config | None) -> None:
        block = task.config.named_teachers()[name]
        assert isinstance(block, TeacherBlock)
        self.name, self.key, self.block = name, task.config.teacher_key(name), block
        self.checkpoint: str | None = block.checkpoint
        self.lacks_head = False
        self.remarks: list[str] = []
        try:
            self.network = self._of_block(task) if own is None else self._of_config(task, own)
            self._match(task, (self.checkpoint or name) if own is None else own.name)
        except SegkdError as error:
            raise SegkdError(f"{task.config.name}: {error}") from None
        if self.network.note:
            self.remarks.append(f"the teacher {name}: {self.network.note}")

    def _of_config(self, task: "Task", own: Config) -> "Network":
        theirs = task.read_dataset(own.data.dataset).class_names
        block = own.student.model_copy(update={"checkpoint": None, **self._head_of(own.student)})
        self.checkpoint = str(Run.of(own).student)
        return task.network(block, theirs, weights=False)

    def _of_block(self, task: "Task") -> "Network":
        from segkd.common.weights import WEIGHT_SUFFIXES

        path = None if self.checkpoint is None else Path(self.checkpoint)
        if path is not None:
            if path.is_dir() or (not path.exists() and path.suffix not in WEIGHT_SUFFIXES):
                return self._of_folder(task, student_dir(path))
            if path.name == STUDENT_FILE and (path.parent / CONFIG_FILE).is_file():
                return self._of_folder(task, path.parent)
        said = {key: value for key in self.block.model_fields_set if (value := getattr(self.block, key)) is not None}
        if missing := [key for key in self.block.required if key not in said]:
            reason = f"its family {self.block.family} must be told"
            if path is not None:
                way_out = f"a run directory as {self.key}.checkpoint does"
                reason = f"{path} alone does not say what its weights are of; {way_out}"
            raise SegkdError(f"{self.key}.{missing[0]} is missing: {reason}")
        kind = registry.find("family", self.block.family).block
        own = ("checkpoint", "auxiliary")  # which mean other things of a teacher
        given = {key: value for key, value in said.items() if key in kind.model_fields and key not in own}
        block = kind.model_validate({**given, "family": self.block.family})
        block = block.model_copy(update=self._head_of(block))
        if self.block.brings_weights:
            return task.network(block, None, weights=self.checkpoint is None)
        # A file of weights does not name its classes.
        count = self.block.class_map
        classes = task.class_names if count is None else [str(number) for number in range(len(count))]
        return task.network(block, classes, weights=False)

    def _head_of(self, block: Any) -> dict[str, bool]:
        """Return the setting that gives a model the auxiliary head, where the config asks for one."""
        if not getattr(self.block, "auxiliary", False):
            return {}
        if not hasattr(block, "auxiliary"):
            raise SegkdError(f"{self.key}.auxiliary: models of the family {block.family!r} get no auxiliary head")
        return {"auxiliary": True}

    def _of_folder(self, task: "Task", folder: Path) -> "Network":
        """Return a saved student; raise where the config says something else of it than its folder."""
        from segkd.models.saved import OwnCode, read_network
        from segkd.models.smp_files import AUXILIARY_FILE

        changes = {**task.sizes(), "task": task.config.task, "build": getattr(self.block, "build", None)}
        if ":" in self.block.family:
            changes["family"] = self.block.family
        if getattr(self.block, "auxiliary", False) or (folder / AUXILIARY_FILE).is_file():
            changes["auxiliary"] = True
        try:
            _, network = read_network(folder, **changes)
        except OwnCode as error:
            reason = str(error).partition(": load_student(")[0]
            raise SegkdError(f"{reason}: name it as {self.key}.build or {self.key}.family, with its options") from None
        held = network.settings
        said = {key: getattr(self.block, key) for key in self.block.required}
        pairs = {key: (value, held.get(key)) for key, value in said.items() if value is not None}
        if (given := getattr(self.block, "normalization", None)) is not None:
            seen = {"mean": list(network.preprocess.mean), "std": list(network.preprocess.std)}
            pairs["normalization"] = (given.model_dump(), seen)
        options = held.get("options", {})
        pairs |= {f"options.{key}": (value, options.get(key)) for key, value in self.block.options.items()}
        for key, (given, there) in pairs.items():
            if _comparable(given) != _comparable(there):
                raise SegkdError(
                    f"{self.key}.{key}: {self.checkpoint} has {written(there)}, not {written(given)}: leave "
                    f"{self.key}.{key} out, the checkpoint says it"
                )
        return network

    def _match(self, task: "Task", what: str) -> None:
        """Have the teacher's logits read in the student's classes."""
        from segkd.adapter import merged_classes

        theirs, ours, said = self.network.classes, task.class_names, self.block.class_map
        teacher = "the teacher" if what == "teacher" else f"the teacher {what}"
        if not theirs:  # its features alone are read
            return
        if not task.maps_classes:
            for key in ("class_map", "partial"):
                if getattr(self.block, key):
                    raise SegkdError(
                        f"{self.key}.{key}: in {task.name} a teacher has the student's classes: leave it out"
                    )
            check_same(teacher, theirs, ours, f"{task.name} needs the same, in the same order")
            return
        for number, place in enumerate(said if isinstance(said, list) else ()):
            if place is not None and not 0 <= place < len(ours):
                key = f"{self.key}.class_map.{number}"
                raise SegkdError(f"{key}: the student's classes are 0 to {len(ours) - 1}, got {place}")
        if isinstance(said, list) and not self.block.partial and (left := sorted({*range(len(ours))} - {*said})):
            raise SegkdError(
                f"{self.key}.class_map names no class of the teacher for {', '.join(ours[place] for place in left)}: "
                f"where it lacks classes say {self.key}.partial=true"
            )
        found = match_classes(teacher, f"{self.key}.class_map", theirs, ours, said, self.block.partial)
        if found is None:
            return
        self.network.class_map = merged_classes(found, len(ours) if self.block.partial else None)
        if not isinstance(said, list):
            self.remarks.append(f"the classes of {teacher}, and what they are the student's:")
            pairs = list(zip(theirs, found, strict=True))
            self.remarks += [f"  {name} -> {ours[place]}" for name, place in pairs if place is not None]
            if left := [name for name, place in pairs if place is None]:
                self.remarks.append(f"  {', '.join(left)} -> none")
        if lacking := [name for place, name in enumerate(ours) if place not in found]:
            self.remarks.append(f"{teacher} lacks {', '.join(lacking)}: the terms leave these classes out")

    def load(self, to_measure: bool = False) -> None:
        """Load the weights; raise if an auxiliary head is missing, except to fit it or to measure predictions alone."""
        if self.checkpoint is None:
            return
        family: type[Family] = registry.find("family", self.network.family or "")
        self.lacks_head = not family.load(self.network.module, self.checkpoint)
        if self.lacks_head and not to_measure and getattr(self.block, "auxiliary", "fit") != "fit":
            raise SegkdError(f"{self.checkpoint} holds no auxiliary head: set {self.key}.auxiliary=fit to train one")


class TeachersOf:
    """The teachers of a run by name, see `TeacherOf`, with the configs that `teacher_configs` found.

    Attributes:
        each: the `TeacherOf` of each that is no average, by name.
        networks: the model of each by name, averages too.
        remarks: what the user should know of them.
    """

    def __init__(self, task: "Task", configs: Mapping[str, Config]) -> None:
        blocks = task.config.named_teachers()
        plain = [name for name, block in blocks.items() if isinstance(block, TeacherBlock)]
        self.averages = {name: block for name, block in blocks.items() if isinstance(block, AverageBlock)}
        self.each = {name: TeacherOf(task, name, configs.get(name)) for name in plain}
        self.networks = {
            name: self.each[name].network if name in self.each else self._average(task, block)
            for name, block in blocks.items()
        }
        for network in self.networks.values():  # those too that no distiller takes: they are drawn and measured
            network.eval().requires_grad_(False)
        self.remarks = [remark for teacher in self.each.values() for remark in teacher.remarks]

    def _average(self, task: "Task", block: Any) -> "Network":
        from segkd.network import Network
        from segkd.teachers import Average

        members = [self.each[name].network for name in block.average]
        multiple = math.lcm(*(member.preprocess.multiple for member in members))
        model = Average(members, block.weights)
        return Network(model, multiple=multiple, classes=task.class_names, task=task.config.task)

    @property
    def predicting(self) -> "dict[str, Network]":
        """The models that predict classes, by name; of others only features can be read."""
        return {name: network for name, network in self.networks.items() if network.classes}

    def unread(self, distillers: "Sequence[Distiller]") -> list[str]:
        """Return the names of those that no stage reads, neither themselves nor through an average."""
        read = {name for each in distillers for name, places in each.reads.items() if places}
        for name, block in self.averages.items():
            read |= set(block.average) if name in read else set()
        return [name for name in (*self.each, *self.averages) if name not in read]

    def load(self, to_measure: bool = False) -> None:
        """Load the weights of all, see `TeacherOf.load`."""
        for teacher in self.each.values():
            teacher.load(to_measure)


def _comparable(value: Any) -> Any:
    if isinstance(value, str):
        return value.lower()
    if isinstance(value, Mapping):
        return {key: _comparable(inner) for key, inner in value.items()}
    return [_comparable(inner) for inner in value] if isinstance(value, list | tuple) else value
