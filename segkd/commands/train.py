"""Training, measuring and comparing."""

from pathlib import Path
from typing import Annotated

import typer

from segkd.commands.shared import (
    CONFIG_HELP,
    DEVICE_HELP,
    Debug,
    On,
    Overrides,
    console,
    print_result,
    read_config,
    shipped_names,
)
from segkd.common.progress import say
from segkd.errors import SegkdError


def train(
    config: Annotated[
        str | None, typer.Argument(metavar="CONFIG", help=CONFIG_HELP, autocompletion=shipped_names)
    ] = None,
    overrides: Overrides = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Go on with the run in this directory, where it stopped; with more trainer.max_steps a finished one "
            "too. It takes changes to how far, where and how it is computed, measured and logged.",
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Train what a config says, its teacher first.

    A teacher with a config of its own is trained unless there is a finished run of it. Everything goes to runs/<name>:
    TensorBoard events, metrics.csv, checkpoints, and the student at the end.

    \b
    Examples:
      segkd train quickstart
      segkd train quickstart name=short trainer.max_steps=100 seed=1
      segkd train --resume runs/quickstart
      segkd train --resume runs/quickstart trainer.max_steps=2000
    """
    if resume is not None:
        changes = [*([config] if config is not None else []), *(overrides or [])]
        if config is not None and "=" not in config:
            raise SegkdError(f"segkd train takes a CONFIG, or --resume RUN, not both: {config!r} and {str(resume)!r}")
        from segkd.training import train as training

        result = training.resume(resume, console, changes)
    elif config is not None:
        loaded = read_config(config, overrides)
        from segkd.training import train as training

        result = training.train(loaded, console)
    else:
        raise SegkdError("segkd train takes a CONFIG (see: segkd configs), or --resume RUN")
    print_result(result)
    run = result["run"]
    say(console, f"The student is in {run}/student; look at the run with: tensorboard --logdir {run}")


def compare(
    configs: Annotated[
        list[str],
        typer.Argument(
            metavar="CONFIG",
            help="Configs, then KEY.PATH=VALUE changes to all of them; with --report-only run directories, or folders "
            "of them.",
            autocompletion=shipped_names,
        ),
    ],
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of each config, from 0.")] = 3,
    budget: Annotated[
        str,
        typer.Option(
            help="What all may spend alike: steps, minutes, or so many of them (700steps, 12minutes). "
            "With minutes a cheaper method gets more steps; without a number, the time that the dearest takes."
        ),
    ] = "steps",
    out: Annotated[
        Path | None, typer.Option(help="The comparison's directory, for runs and report; default runs/comparison.")
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(help="What the others are compared to; default the config that distils nothing.")
    ] = None,
    same_time: Annotated[
        bool,
        typer.Option(
            "--same-time",
            help="Train the baseline also for as many steps as each method's time buys, the filling of its teacher's "
            "store charged in full and shared by the runs here; with a budget of steps.",
        ),
    ] = False,
    pooled: Annotated[
        bool,
        typer.Option(
            "--pooled",
            help="Take one scatter for all methods, for intervals and p-values: with two or three seeds a method's own "
            "is hardly known.",
        ),
    ] = False,
    pictures: Annotated[int, typer.Option(min=0, help="Validation images that the report shows.")] = 3,
    report_only: Annotated[bool, typer.Option("--report-only", help="Train nothing: report on finished runs.")] = False,
    on: On = None,
    debug: Debug = False,
) -> None:
    """Train configs under one budget; report what helped.

    Each config is trained with each seed. Runs that are finished are kept, others go on where they stopped. Several
    processes may share one directory: each run is trained by one of them, and taken over by another if that one ends
    too early. Writes report.md and report.html.

    \b
    Examples:
      segkd compare camvid_plain camvid_kd camvid_aicsd --seeds 3
      segkd compare camvid_plain camvid_kd --same-time --out runs/same
      segkd compare camvid_plain camvid_kd --budget 12minutes --out runs/minutes
      segkd compare --report-only runs/comparison
    """
    overrides = [text for text in configs if "=" in text]
    names = [text for text in configs if "=" not in text]
    if not report_only:
        for name in names:
            read_config(name, overrides)
    from segkd.comparison import compare as comparison

    if report_only:
        for option, is_given in (("--same-time", same_time), ("--on", on is not None)):
            if is_given:
                raise SegkdError(f"{option} is for training: with --report-only nothing is trained")
        comparison.report_only(configs, console, out=out, baseline=baseline, pooled=pooled, pictures=pictures)
        return
    outcome = comparison.compare(
        names,
        overrides,
        console,
        seeds=seeds,
        budget=budget,
        out=out,
        baseline=baseline,
        same_time=same_time,
        pooled=pooled,
        pictures=pictures,
        on=on,
    )
    if outcome.failed:
        raise typer.Exit(1)


def evaluate(
    target: Annotated[
        str, typer.Argument(metavar="RUN|STUDENT|CONFIG", help="A run directory, a student's folder, or a config.")
    ],
    overrides: Overrides = None,
    device: Annotated[str | None, typer.Option(help=f"{DEVICE_HELP}; default what trainer.accelerator says.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file too.")] = None,
    debug: Debug = False,
) -> None:
    """Measure student and teacher on the validation split.

    Those of a run, or those that a config names: its teacher, and its student if there is a run or a checkpoint. Of a
    student's folder alone, the student, over the data that it names or that data.dataset does. All in float32.

    \b
    Examples:
      segkd eval runs/quickstart
      segkd eval runs/quickstart --device cpu --json figures.json
      segkd eval runs/quickstart data.val_split=train
      segkd eval my_student data.dataset=camvid
    """
    from segkd.training.measure import evaluate
    from segkd.training.results import check_writable, write_json

    if json_file is not None:
        check_writable(json_file)
    result = evaluate(target, overrides or [], device, console)
    if json_file is not None:
        write_json(json_file, result)
    print_result(result)
