"""What the commands do, from Python: train, compare, tune, evaluate, predict, export. Each returns its results.

All show their progress: a bar in a terminal and in a notebook (which needs ipywidgets for it), else lines;
``quiet=True`` shows nothing. Errors are `segkd.errors.SegkdError`; an interrupt raises `segkd.errors.Interrupted`,
which says how to go on. Settings of the whole process, such as the number of threads, are restored at the end.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segkd.errors import SegkdError

if TYPE_CHECKING:
    from rich.console import Console

    from segkd.comparison.compare import Outcome
    from segkd.deployment.export import Export
    from segkd.deployment.predict import Summary
    from segkd.training.schema import Config
    from segkd.tuning.tune import Tuned

    AnyConfig = str | PathLike[str] | Mapping[str, Any] | Config
    """A config: a file or the name of a shipped one, keys and values as in a file, or what `load_config` returned."""


def train(
    config: "AnyConfig | None" = None,
    *,
    resume: "str | PathLike[str] | None" = None,
    quiet: bool = False,
    **overrides: Any,
) -> dict[str, Any]:
    """Train what a config says, its teacher first, as ``segkd train`` does.

    Args:
        config: a file, the name of a shipped config, or a mapping of keys and values as in a file.
        resume: instead of a config, the directory of a run to resume.
        overrides: changes to the config: blocks (``trainer={"max_steps": 10}``) are merged key by key;
            ``**{"trainer.max_steps": 10}`` is the same.

    Returns:
        What ``result.json`` holds, see `segkd.training.train.train`; the student is in ``result["run"]``/student.

    Raises:
        SegkdError: something does not fit; nothing that exists is overwritten.

    Example:
        ``segkd.train("quickstart", name="short", trainer={"max_steps": 100})["student"]["miou"]``
    """
    if (config is None) == (resume is None):
        raise SegkdError("segkd.train takes a config, or resume=<run directory>")
    loaded = None if config is None else _load(config, overrides)
    from segkd.training import train as training

    with _guest(quiet) as console:
        if loaded is None:
            return training.resume(Path(str(resume)), console, overrides)
        return training.train(loaded, console)


def compare(
    configs: "Sequence[AnyConfig]",
    *,
    seeds: int = 3,
    budget: str = "steps",
    out: "str | PathLike[str] | None" = None,
    baseline: str | None = None,
    same_time: bool = False,
    pooled: bool = False,
    pictures: int = 3,
    report_only: bool = False,
    on: str | None = None,
    quiet: bool = False,
    **overrides: Any,
) -> "Outcome":
    """Train configs with several seeds under one budget and report what helped, as ``segkd compare`` does.

    Args:
        configs: as `train` takes them; with ``report_only`` run directories, or folders of them.
        seeds: how many seeds each config is trained with: 0, 1, ...
        budget: what each run may spend: ``"steps"``, ``"minutes"``, or a number of them, such as ``"700steps"``.
        out: the comparison's directory; default ``comparison`` in the ``runs`` folder of the first config.
        baseline: name of the config that the others are compared to; default one that distils nothing.
        same_time: train the baseline also for as many steps as each method's time buys, the filling of its teacher's
            store charged once in full and once divided by the runs that read it; the budget must be of steps.
        pooled: take one scatter for all methods, see `segkd.comparison.differences.pooled_scatter`.
        pictures: how many validation images the report shows.
        report_only: train nothing.
        on: ``"ray"`` or ``"ray=ADDRESS"``: train on a Ray cluster, see `segkd.comparison.cluster.cluster`.
        overrides: changes to all configs, see `train`.

    Returns:
        Where the report is, each method's results by seed, and which runs failed.

    Raises:
        SegkdError: the configs cannot be compared.
    """
    configs = [configs] if isinstance(configs, str | PathLike | Mapping) else list(configs)
    if "seed" in overrides:
        raise SegkdError("seed: a comparison gives each config the seeds 0, 1, ..., as many as seeds= says")
    loaded = [] if report_only else [_load(config, overrides) for config in configs]
    from segkd.comparison import compare as comparison

    shown: dict[str, Any] = {"baseline": baseline, "pooled": pooled, "pictures": pictures}
    shown["out"] = None if out is None else Path(out)
    with _guest(quiet) as console:
        if report_only:
            return comparison.report_only(list(map(str, configs)), console, **shown)
        options: dict[str, Any] = {"seeds": seeds, "budget": budget, "same_time": same_time, "on": on}
        return comparison.compare(loaded, (), console, **options, **shown)


def tune(
    config: "AnyConfig",
    space: "Mapping[str, str | Sequence[Any]]",
    *,
    trials: int = 20,
    minutes: float | None = None,
    hold_out: float = 0.2,
    seed: int | None = None,
    storage: str | None = None,
    on: str | None = None,
    quiet: bool = False,
    **overrides: Any,
) -> "Tuned":
    """Search for the values of a config's keys that help most, as ``segkd tune`` does.

    Args:
        config: see `train`; the search goes to ``tune/<name>`` in its ``runs`` folder.
        space: what is searched over, by dotted key: ``"0.1..3"``, ``"1,2,4"``, or a list of choices.
        trials: how many are to be finished in all, those of earlier calls included.
        minutes: when to stop, the teacher's training not counted; a trial that then runs is resumed by the next call.
        hold_out: the share of the training split that trials are measured on; the teacher is trained on all of it.
        seed: of all trials; default the config's.
        storage: URL of Optuna's database; default a file beside the trials.
        on: ``"ray"`` or ``"ray=ADDRESS"``: run the trials on a Ray cluster.
        quiet: show nothing.
        overrides: changes to the config, see `train`.

    Returns:
        The best values, their score, all trials, and where ``best.yaml`` is.

    Raises:
        SegkdError: something does not fit, and nothing is trained; or no trial is finished.

    Example:
        ``segkd.tune("camvid_kd", {"distill.terms.kd.weight": "0.1..3"}, trials=10).values``
    """
    from segkd.tuning.space import make_knob

    knobs = []
    for key, given in space.items():
        knob = make_knob(key, given)
        if knob is None:
            raise SegkdError(f"{key}: {given!r} is neither a range (0.1..3) nor a choice (1,2,4)")
        knobs.append(knob)
    loaded = _load(config, overrides)
    from segkd.tuning import tune as tuning

    name = str(config) if isinstance(config, str | PathLike) else None
    base = tuning.base_of(loaded, name, overrides)
    options: dict[str, Any] = {"trials": trials, "minutes": minutes, "share": hold_out, "seed": seed}
    with _guest(quiet) as console:
        return tuning.tune(loaded, knobs, console, base=base, storage=storage, on=on, **options)


def evaluate(
    target: "str | PathLike[str]", *, device: str | None = None, quiet: bool = False, **overrides: Any
) -> dict[str, Any]:
    """Measure student and teacher on the validation split, as ``segkd eval`` does.

    Args:
        target: a run directory, a saved student's folder, or a config.
        device: where to run; default what ``trainer.accelerator`` says.
        overrides: changes to the config, see `train`.

    Returns:
        ``name``, ``split``, ``classes``, and what was measured of ``teacher`` and ``student``, where they exist.

    Raises:
        SegkdError: there is nothing to measure.
    """
    from segkd.training.measure import evaluate

    with _guest(quiet) as console:
        return evaluate(str(target), overrides, device, console)


def predict(
    student: "str | PathLike[str]",
    inputs: "str | PathLike[str] | Sequence[str | PathLike[str]]",
    out: "str | PathLike[str]",
    *,
    quiet: bool = False,
    **options: Any,
) -> "Summary":
    """Run a student on images and videos and write what it finds, as ``segkd predict`` does.

    Args:
        student: a run, the folder of a saved student, or a config.
        inputs: images, videos, folders of them, or patterns.
        out: the folder to write, which must be empty or absent.
        options: see `segkd.deployment.predict.predict`, such as ``flip=True`` and ``device="cpu"``.

    Returns:
        What was written, and a line for each file that was left out.

    Raises:
        SegkdError: there is no student, or an input matches nothing.
    """
    from segkd.deployment.predict import predict

    named = [inputs] if isinstance(inputs, str | PathLike) else inputs
    with _guest(quiet) as console:
        return predict(str(student), [str(path) for path in named], str(out), console, **options)


def export(
    target: "str | PathLike[str]",
    format: str = "onnx",
    *,
    int8: bool = False,
    out: "str | PathLike[str] | None" = None,
    images: "str | PathLike[str] | None" = None,
    device: str = "cpu",
    quiet: bool = False,
    **overrides: Any,
) -> "Export":
    """Export a run's student, checked on validation images, as ``segkd export`` does.

    Args:
        target: a finished run, the folder of a saved student, or a config.
        format: ``"onnx"``, ``"torchscript"`` or ``"pt2"``.
        int8: quantise it; only ONNX of a segmentation student.
        out: the file; default in the run's directory.
        images: a folder of images to check it on; default the validation split.
        device: where the student itself runs, which the file is compared with.
        overrides: changes to the run's config, see `train`.

    Returns:
        The file's path, what is recorded in it, and how far it is from the student.

    Raises:
        SegkdError: the run is not finished, or the student cannot be exported so.
    """
    from segkd.deployment.export import export

    options: dict[str, Any] = {"int8": int8, "overrides": overrides, "device": device}
    options |= {name: None if path is None else Path(path) for name, path in (("out", out), ("images", images))}
    with _guest(quiet) as console:
        return export(str(target), format, **options, console=console)


def _load(config: Any, overrides: Mapping[str, Any]) -> "Config":
    """Return a config with its changes, checked with its data set's description before torch is imported."""
    from segkd.training.config import load_config, whole
    from segkd.training.schema import Config
    from segkd.training.tasks import task_of

    if isinstance(config, Config) and not overrides:
        return config
    config = whole(config) if isinstance(config, Config) else config
    named = config if isinstance(config, Mapping) else str(config)
    task_of(load_config(named, overrides, build=False))
    return load_config(named, overrides)


@contextlib.contextmanager
def _guest(quiet: bool) -> "Iterator[Console]":
    """Yield a console; restore the settings of the whole process at the end."""
    import logging
    import warnings

    import torch
    from rich.console import Console

    threads, generator = torch.get_num_threads(), torch.get_rng_state()
    loggers = [
        logging.getLogger(name) for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric", "optuna")
    ]
    levels = [logger.level for logger in loggers]
    try:
        with warnings.catch_warnings():
            yield Console(quiet=quiet)
    finally:
        torch.set_num_threads(threads)
        torch.set_rng_state(generator)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
