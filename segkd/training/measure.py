"""Measuring models: the measures that a task has, and models on a config's validation split."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segkd.common.student import STUDENT_FILE, no_folder
from segkd.errors import SegkdError
from segkd.training.config import check_named, load_config
from segkd.training.run import Run
from segkd.training.schema import Config
from segkd.training.tasks import task_of

if TYPE_CHECKING:
    import torch
    from rich.console import Console

    from segkd.network import Network
    from segkd.training.task import Task


@dataclass(frozen=True)
class Measure:
    """One of the values that a task's metrics compute.

    Attributes:
        key: under which the metrics return it.
        label: what a person calls it.
        of_classes: whether it is a list with a value for each class.
        unit: ``%`` for a fraction of 1, which is shown in per cent; else the unit that headings show.
        higher_is_better: whether a larger value is better.
    """

    key: str
    label: str
    of_classes: bool = False
    unit: str = "%"
    higher_is_better: bool = True

    @property
    def heading(self) -> str:
        """Return the label, with the unit where values are no fractions."""
        return self.label if self.unit == "%" else f"{self.label}, {self.unit}" if self.unit else self.label

    @property
    def factor(self) -> float:
        """Return what a value is multiplied by to be shown."""
        return 100.0 if self.unit == "%" else 1.0

    def shown(self, value: float | None, sign: str = "") -> str:
        """Return a value as text, a dash where nothing was measured; ``sign="+"`` shows the sign of all values."""
        if value is None or math.isnan(value):
            return "-"
        return format(self.factor * value, f"{sign}.{2 if self.unit == '%' else 3}f")


def evaluate(
    target: str,
    overrides: Sequence[str] | Mapping[str, Any],
    device: str | None = None,
    console: "Console | None" = None,
) -> dict[str, Any]:
    """Measure the models of a run directory, or those of a config: teachers, and its student where it is trained.

    The folder of a saved student works too: it is measured on the data set that it names, or on the overrides'
    ``data.dataset``.

    Returns:
        ``classes``, and for each of ``teacher`` and ``student`` that exists what was measured, ``teachers`` by name
        where there are several; ``name``, ``task`` and ``split``.

    Raises:
        SegkdError: there is nothing to measure, or no such device.
    """
    alone: Network | None = None
    if Path(target).is_dir():
        from segkd.training.opening import config_of_student, load_student, run_at

        around = run_at(Path(target))
        run = around or Run(target)
        if around or not (Path(target) / STUDENT_FILE).is_file():
            config = run.config(overrides)
        else:
            alone = load_student(target)
            config = config_of_student(target, alone, overrides)
    else:
        check_named(target)
        if Path(target).suffix in (".safetensors", ".ckpt"):
            raise no_folder(target)
        config = load_config(target, overrides, build=False)
        run = Run.of(config)
    is_trained = run.student.is_dir()
    if is_trained:
        run.check_student(config, overrides)
    task = task_of(config)
    # Imported here, since they load torch: a wrong key is told without waiting for that.
    from segkd.common.devices import find_device
    from segkd.common.progress import say
    from segkd.training.teacher import TeachersOf, teacher_configs

    place = device_of(config) if device is None else find_device(device)
    result: dict[str, Any] = {"name": config.name, "task": config.task}
    result |= {"split": config.data.val_split, "classes": task.class_names}
    configs, measured = teacher_configs(config), {}
    if all(Run.of(own).finished for own in configs.values()):
        teachers = TeachersOf(task, configs)
        teachers.load(to_measure=True)
        measured = {name: measure(task, each, name, place, console) for name, each in teachers.predicting.items()}
    result |= measured if config.teachers is None else {"teachers": measured}
    if alone is not None or is_trained or config.student.checkpoint is not None:
        student = alone or (task.load_student(run.student) if is_trained else task.student())
        own = None if alone or not is_trained else run.config().trainer
        if console is not None and own and own.precision != "32-true" and not own.recalibrate:
            text = (
                f"the student is measured in float32, as it is exported; its run's own figures are of {own.precision}"
            )
            say(console, f"{config.name}: {text}")
        result["student"] = measure(task, student, "student", place, console)
    if not measured and "student" not in result:
        raise SegkdError(f"{target}: nothing to measure: no finished run {run.directory}, and no checkpoint is named")
    return result


def measure(
    task: "Task",
    network: "Network",
    name: str = "student",
    device: "torch.device | None" = None,
    console: "Console | None" = None,
) -> dict[str, Any]:
    """Return the task's metrics of a model on the validation split; ``name`` is ``student`` or the teacher's.

    It runs where ``trainer.accelerator`` says unless a device is given. Progress is shown on the console, if any.
    """
    import torch
    from pytorch_lightning.utilities import move_data_to_device

    from segkd.common.progress import shown

    device = device or device_of(task.config)
    network = network.to(device).eval()
    # Not synchronised: this process measures alone, also where others run beside it.
    metrics = task.metrics(sync_on_compute=False).to(device)
    with torch.no_grad():
        loader = task.val_loader(task.val_set())
        for batch in shown(loader, len(loader), name, console):
            task.count(metrics, network, move_data_to_device(seen_by(name, batch), device))
    measured: dict[str, Any] = metrics.compute()
    return measured


def seen_by(name: str, batch: dict[str, Any]) -> dict[str, Any]:
    """Return a batch, or an item, with the images that the model of this name sees: a teacher may have its own."""
    has_own = name != "student" and "image_teacher" in batch
    return {**batch, "image": batch["image_teacher"]} if has_own else batch


def device_of(config: Config) -> "torch.device":
    """Return the device that a config's ``trainer`` block names, the first of several; raises where it is not here."""
    import torch

    from segkd.common.devices import find_device

    kind, chosen = config.trainer.accelerator, config.trainer.devices
    if kind == "tpu":  # outside of Lightning's trainer nothing here runs on one
        return torch.device("cpu")
    device = find_device(kind, f"{config.name}: trainer.accelerator")
    if device.type == "cuda" and isinstance(chosen, list) and chosen:
        return find_device(f"cuda:{chosen[0]}", f"{config.name}: trainer.devices")
    return device
