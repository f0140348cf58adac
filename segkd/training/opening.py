"""Opening what a person names as a model: a run, a student's folder, or a config."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from segkd.common.student import STUDENT_FILE, student_dir
from segkd.common.yaml_file import read_yaml
from segkd.data.description import MAX_VALUES, is_spec_path
from segkd.errors import SegkdError
from segkd.models import saved
from segkd.models.saved import OwnCode
from segkd.network import Network
from segkd.training.config import check_named, find_config, load_config
from segkd.training.layers import Layer, changes_of, leaves, merge, read_layers
from segkd.training.run import Run
from segkd.training.schema import Config
from segkd.training.task import Task
from segkd.training.tasks import names_code, task_of


@dataclass
class OpenedModel:
    """A model, the name that it was asked for by, and where it comes from."""

    name: str
    network: Network
    weights: Path
    home: Path
    """The run's directory, or the student's folder."""
    config: Config | None = None
    """The run's, with the changes that were asked for; None for a student's folder alone."""

    @functools.cached_property
    def task(self) -> Task | None:
        """The task of the config, which has the data; None where there is no config."""
        return None if self.config is None else task_of(self.config)


def open_model(
    target: str | Path, overrides: Sequence[str] | Mapping[str, Any] = (), needs_config: bool = True
) -> OpenedModel:
    """Open what a person names as a model.

    Args:
        target: the directory of a finished run, the folder of a saved student, or a config: the student of its finished
            run, or where there is none that of ``student.checkpoint``.
        overrides: changes to the config, see `load_config`, such as where the data lie now.
        needs_config: whether a run's config is read; it is read anyway where the user's own code builds the student.

    Raises:
        SegkdError: there is no such model; the run is not finished; there are changes, but no config, or they are of
            the student that a run has trained; or the model cannot be opened.
    """
    name, path = str(target), Path(target)
    run = run_at(path)
    if run is None:
        if not path.exists() or (path.is_file() and path.suffix in (".yaml", ".yml")):
            return _of_config(name, overrides)
        if overrides:
            raise SegkdError(
                f"{next(iter(overrides))}: {path} is a student without a run, so there is no config to change"
            )
        folder = student_dir(path)
        return OpenedModel(name, saved.load_student(folder), folder / STUDENT_FILE, folder)
    if not run.finished:
        raise SegkdError(f"{run.directory} is not finished: go on with 'segkd train --resume {run.directory}' first")
    config = run.config(overrides) if needs_config or overrides else None
    if config is not None:
        run.check_student(config, overrides)
    return _of_run(name, run, config)


def load_student(path: str | Path, build: str | Callable[..., nn.Module] | None = None, **own: str | None) -> Network:
    """Open a student: a run directory, the ``student`` folder in it, or a config: that of its finished run.

    Args:
        path: a folder, which may be a stranger's: nothing in it can name code or a place to fetch something from; or
            a config, which can.
        build: makes the module of a student in a folder that is built by the user's own code, which the folder cannot
            name: ``package.module:name`` or the function itself.
        own: ``family`` and ``task``, where these are the user's own.

    Returns:
        The network in eval mode.

    Raises:
        OwnCode: a folder's student is built by the user's own code, and that is not given.
        SegkdError: there is no student, its files are unreadable or do not belong together, or a value in them is
            none that a student has.
    """
    if build is None and not own and not Path(path).is_dir():
        return open_model(path, needs_config=False).network
    return saved.load_student(path, build, **own)


def run_at(path: Path) -> Run | None:
    """Return the run in a directory, or the run whose student lies there; None where it is neither.

    A student's folder may be a stranger's: a run around it whose config names code counts as none.
    """
    is_student = (path / STUDENT_FILE).is_file()
    run = Run(path.resolve().parent if is_student else path)
    if not run.config_file.is_file() or (
        is_student and (path.name != run.student.name or _names_code(run.config_file))
    ):
        return None
    return run


def _names_code(path: Path, changes: Mapping[str, Any] | None = None, pupils: tuple[Path, ...] = ()) -> bool:
    """Whether opening a config would import code that it, its data set or its teachers' configs name; imports none.

    A config that cannot be read counts as one that would.
    """
    try:
        layers = [*read_layers(path), Layer("teacher.overrides", dict(changes or {}), Path())]
        if path in pupils or names_code(merge(layers)):
            return True
        config = load_config(str(path), changes=changes, build=False)
        if is_spec_path(config.data.dataset):
            described = read_yaml(Path(config.data.dataset), MAX_VALUES)
            if not isinstance(described, Mapping) or ":" in str(described.get("format")):
                return True
        taught = config.trained_teachers().values()
        return any(_names_code(find_config(str(of.config)), of.overrides, (*pupils, path)) for of in taught)
    except SegkdError:
        return True


def config_of_student(
    folder: str | Path, network: Network, overrides: Sequence[str] | Mapping[str, Any] = ()
) -> Config:
    """Return a config by which a saved student without a run can be measured: over the data set that it was trained on.

    Args:
        folder: of the student.
        network: what was opened from there.
        overrides: further keys, such as ``data.dataset`` where the student does not say it.

    Raises:
        SegkdError: there is no such data set, it has other classes, or another student is asked for.
    """
    if asked := changes_of(overrides)[-1].keys.get("student"):
        key = next(iter(leaves(asked, dict, "student")), "student")
        raise SegkdError(f"{key}: {folder} is a saved student, which is used as it is")
    size, recorded = network.preprocess.size, network.recorded
    content: dict[str, Any] = {
        "task": network.task,
        "name": "student",
        "data": {"dataset": recorded["dataset"]} if "dataset" in recorded else {},
        "student": {"family": network.family, **network.settings},
    }
    if network.task == "segmentation":
        content["data"]["crop"] = list(recorded.get("window") or size or (512, 512))
        content["validation"] = {"resize": size and list(size)}
    try:
        config = load_config(content, overrides, build=False)
    except SegkdError as error:
        if "data.dataset" not in str(error) or "dataset" in recorded:
            raise
        raise SegkdError(
            f"{folder} does not say what data it is of: name a data set, as in data.dataset=camvid, or a path"
        ) from None
    try:
        theirs = task_of(config).class_names
    except SegkdError:
        if config.data.dataset != recorded.get("dataset"):  # another was asked for
            raise
        raise SegkdError(
            f"{folder} is of data set {config.data.dataset!r}, which is none of those shipped: name the file that "
            "describes it, as in data.dataset=my_set.yaml"
        ) from None
    if theirs != network.classes:
        raise SegkdError(
            f"{folder} tells other classes apart ({_few(network.classes)}) than {config.data.dataset} "
            f"({_few(theirs)}): it cannot be measured on that"
        )
    return config


def _few(names: Sequence[str]) -> str:
    return f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''}: {len(names)}"


def _of_run(name: str, run: Run, config: Config | None) -> OpenedModel:
    try:
        network = saved.load_student(run.student)
    except OwnCode:
        config = config or run.config()  # which may name code, as a student's folder may not
        own = {"family": config.student.family, "task": config.task}
        network = saved.load_student(run.student, getattr(config.student, "build", None), **own)
    return OpenedModel(name, network, run.student / STUDENT_FILE, run.directory, config)


def _of_config(name: str, overrides: Sequence[str] | Mapping[str, Any]) -> OpenedModel:
    check_named(name)
    config = load_config(name, overrides, build=False)
    run = Run.of(config)
    if run.finished:
        run.check_student(config, overrides)
        return _of_run(name, run, config)
    if config.student.checkpoint is None:
        raise SegkdError(
            f"{name}: its student is not trained: 'segkd train {name}' makes {run.directory}, or name weights as "
            "student.checkpoint"
        )
    student = task_of(config).student().eval()
    return OpenedModel(name, student, Path(config.student.checkpoint), run.directory, config)
