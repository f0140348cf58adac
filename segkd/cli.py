"""The command line: each command parses, calls one function and prints."""

import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from segkd.errors import SegkdError

app = typer.Typer(
    name="segkd",
    help="Distil a large model into a small one: semantic segmentation and object detection.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain text: no boxes that cut what stands in them
)
data = typer.Typer(help="Check a data set, or look at it, before training.", rich_markup_mode=None)
app.add_typer(data, name="data")
console = Console()

CONFIG_HELP = "A config file, or the name of a shipped one (see: segkd configs)."
ConfigName = Annotated[str, typer.Argument(metavar="CONFIG", help=CONFIG_HELP)]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY.PATH=VALUE", help="Changes to the config, such as trainer.max_steps=100."),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


@app.command()
def train(
    config: Annotated[str | None, typer.Argument(metavar="CONFIG", help=CONFIG_HELP)] = None,
    overrides: Overrides = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Go on with the run in this directory, where it stopped.")
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
    """
    from segkd.training import train as training
    from segkd.training.config import load_config

    if resume is not None:
        if config is not None:
            raise SegkdError(f"segkd train takes a CONFIG, or --resume RUN, not both: {config!r} and {str(resume)!r}")
        result = training.resume(resume, console)
    elif config is not None:
        result = training.train(load_config(config, overrides or []), console)
    else:
        raise SegkdError("segkd train takes a CONFIG (see: segkd configs), or --resume RUN")
    _print_result(result)
    _print(f"The student is in {result['run']}/student; look at the run with: tensorboard --logdir {result['run']}")


@app.command()
def compare(
    configs: Annotated[
        list[str],
        typer.Argument(
            metavar="CONFIG",
            help="Configs, then KEY.PATH=VALUE changes to all of them; with --report-only run directories, or folders "
            "of them.",
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
    pictures: Annotated[int, typer.Option(min=0, help="Validation images that the report shows.")] = 3,
    report_only: Annotated[bool, typer.Option("--report-only", help="Train nothing: report on finished runs.")] = False,
    debug: Debug = False,
) -> None:
    """Train configs under one budget; report what helped.

    Each config is trained with each seed. Runs that are finished are kept, others go on where they stopped. Several
    processes may share one directory: each run is trained by one of them. Writes report.md and report.html.

    \b
    Examples:
      segkd compare camvid_plain camvid_kd camvid_aicsd --seeds 3
      segkd compare camvid_plain camvid_kd --budget 12minutes --out runs/minutes trainer.threads=1
      segkd compare --report-only runs/comparison
    """
    from segkd.comparison import compare as comparison

    if report_only:
        comparison.report_only(configs, console, out=out, baseline=baseline, pictures=pictures)
        return
    overrides = [text for text in configs if "=" in text]
    names = [text for text in configs if "=" not in text]
    failed = comparison.compare(
        names,
        overrides,
        console,
        seeds=seeds,
        budget=budget,
        out=out,
        baseline=baseline,
        pictures=pictures,
    )
    if failed:
        raise typer.Exit(1)


@app.command("eval")
def evaluate(
    target: Annotated[str, typer.Argument(metavar="RUN|CONFIG", help="A run directory, or a config as for train.")],
    overrides: Overrides = None,
    debug: Debug = False,
) -> None:
    """Measure student and teacher on the validation split.

    Those of a run, or those that a config names: its teacher, and its student if there is a run or a checkpoint.
    """
    from segkd.training.evaluate import evaluate

    _print_result(evaluate(target, overrides or []))


def _size(text: str) -> tuple[int, int]:
    """Parse ``N`` or ``H,W``."""
    parts = text.split(",")
    if len(parts) > 2 or not all(part.strip().isdecimal() for part in parts):
        raise typer.BadParameter(f"expected N or H,W in pixels, got {text!r}")
    return int(parts[0]), int(parts[-1])


def _factors(text: str) -> tuple[float, ...]:
    """Parse numbers with commas between them."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"expected numbers such as 0.75,1,1.25, got {text!r}") from None


@app.command()
def predict(
    student: Annotated[str, typer.Argument(metavar="RUN|STUDENT", help="A run directory, or the student/ in it.")],
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="INPUT", help="Images, videos, folders of them, or quoted patterns such as '*.png'."),
    ],
    out: Annotated[Path, typer.Option(help="The folder to write, empty or not there yet.")],
    batch_size: Annotated[int, typer.Option(min=1, help="Images that the model sees together.")] = 8,
    sliding: Annotated[bool, typer.Option("--sliding", help="Slide a window over the image.")] = False,
    window: Annotated[Any, typer.Option(metavar="N|H,W", parser=_size, help="Size of the window in pixels.")] = None,
    stride: Annotated[
        Any, typer.Option(metavar="N|H,W", parser=_size, help="Its steps; two thirds of it unless given.")
    ] = None,
    flip: Annotated[bool, typer.Option("--flip", help="Read the mirrored image too.")] = False,
    scales: Annotated[
        Any, typer.Option(metavar="A,B,C", parser=_factors, help="Read it at these scales, such as 0.75,1,1.25.")
    ] = None,
    alpha: Annotated[
        float | None, typer.Option(min=0, max=1, help="Opacity of masks in overlays; 0.5 unless given.")
    ] = None,
    score_threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Leave out boxes of a lower score; 0.3 unless given.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Run a student on images and videos.

    Writes overlays/, and masks/ as palette PNG (class ids) or detections.json. What cannot be read is named and left
    out; the exit status is 1 then. Of the options, --score-threshold is for detection, those from --sliding to --alpha
    for segmentation.

    \b
    Examples:
      segkd predict runs/quickstart photos --out found
      segkd predict runs/quickstart 'frames/*/*.png' drive.mp4 --out found --flip
    """
    from segkd.deployment.predict import predict

    summary = predict(
        student,
        inputs,
        out,
        console,
        batch_size=batch_size,
        sliding=sliding,
        window=window,
        stride=stride,
        flip=flip,
        scales=scales,
        alpha=alpha,
        score_threshold=score_threshold,
    )
    _print(str(summary))
    if summary.problems:
        raise typer.Exit(1)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The directory of a finished run.")],
    overrides: Overrides = None,
    format: Annotated[str, typer.Option(help="onnx, torchscript or pt2.")] = "onnx",
    int8: Annotated[bool, typer.Option("--int8", help="Quantise it: ONNX of a segmentation student.")] = False,
    out: Annotated[Path | None, typer.Option(help="The file; default RUN/export/student.onnx, .pt or .pt2.")] = None,
    debug: Debug = False,
) -> None:
    """Export a run's student, checked on real images.

    The file gives what PyTorch gives on validation images, or it is not written. With --int8 its scales are calibrated
    on training images, and mIoU and latency measured before and after. What a user of the file alone has to know (mean,
    std, size, classes, colours) lies in its metadata.

    \b
    Examples:
      segkd export runs/quickstart
      segkd export runs/quickstart --int8
      segkd export runs/quickstart --format pt2 --out student.pt2 data.root=data/streets
    """
    from segkd.deployment.export import export

    with console.status(f"Exporting {run}"):
        result = export(run, format, int8=int8, out=out, overrides=overrides or [])
    _print(str(result))


def _height_width(text: str) -> tuple[int, int]:
    """Parse ``HxW``."""
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdecimal() and int(part) for part in parts):
        raise typer.BadParameter(f"expected HxW in pixels, such as 360x480, got {text!r}")
    return int(parts[0]), int(parts[1])


@app.command()
def bench(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN", help="Finished runs of one task, then KEY.PATH=VALUE changes to their configs."),
    ],
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of each model; default PyTorch's choice.")] = None,
    images: Annotated[int, typer.Option(min=1, help="Validation images, of the first run.")] = 20,
    size: Annotated[
        Any, typer.Option(metavar="HxW", parser=_height_width, help="Their size; default that of validation.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at once, for images per second.")] = 8,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file too.")] = None,
    debug: Debug = False,
) -> None:
    """Measure teacher, student and exported files.

    Side by side on the CPU: parameters, MACs of one image (half of the FLOPs that PyTorch counts), size of the file,
    median latency of one image, and images per second in batches (of one, where a file takes no more).

    \b
    Examples:
      segkd bench runs/quickstart --threads 1
      segkd bench runs/camvid_kd runs/camvid_icsd --size 352x480 --json bench.json
    """
    from segkd.deployment.bench import bench

    directories = [text for text in runs if "=" not in text]
    overrides = [text for text in runs if "=" in text]
    with console.status("Measuring"):
        result = bench(
            directories,
            threads=threads,
            images=images,
            size=size,
            batch_size=batch_size,
            overrides=overrides,
            json_file=json_file,
        )
    headers, *rows = result.table()
    table = Table(box=None, pad_edge=False)
    for number, header in enumerate(headers):
        # Where a run's path is too long for the terminal it goes on below, and the figures stay whole.
        table.add_column(header, justify="right" if number else "left", no_wrap=number > 0, overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table)
    _print(str(result))


@app.command()
def configs(debug: Debug = False) -> None:
    """List the shipped configs and what each one does."""
    from segkd.training.config import describe, shipped_configs

    table = Table("config", "what it does", box=None, pad_edge=False)
    for path in shipped_configs():
        table.add_row(path.stem, escape(describe(path)))
    console.print(table)


@app.command()
def methods(debug: Debug = False) -> None:
    """List the methods, their options, defaults and papers."""
    from segkd.training.methods import GROUPS, defaults

    for place, group in GROUPS.items():
        console.print(f"\n[bold]{place}[/]", highlight=False)
        for name, method in group.items():
            table = Table(box=None, show_header=False, padding=(0, 1, 0, 2))
            table.add_row("", "reads", method.reads)
            table.add_row("", "options", escape(defaults(method)))
            table.add_row("", "paper", method.paper)
            console.print(f"  [bold]{name}[/]: {method.title}", highlight=False)
            console.print(table)


@data.command("check")
def check(config: ConfigName, overrides: Overrides = None, debug: Debug = False) -> None:
    """Read a whole data set and report what is wrong.

    Reports the sizes of images and how often each class occurs, and every file that is missing, unreadable, of another
    size than it should have, or holds what is no class.
    """
    from segkd.training.config import load_config
    from segkd.training.tasks import task_of

    loaded = load_config(config, overrides or [])
    report = task_of(loaded).check()
    print(report)
    if report.problems:
        raise SegkdError(f"{len(report.problems)} problem(s) in data set {loaded.data.dataset!r}")


@data.command("show")
def show(
    config: ConfigName,
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option(help="The picture to write.")] = Path("samples.png"),
    count: Annotated[int, typer.Option(min=1, help="How many samples.")] = 6,
    split: Annotated[str | None, typer.Option(help="Which split; default the training split.")] = None,
    debug: Debug = False,
) -> None:
    """Write a picture of samples with their labels.

    In each row a sample with its label, before and after augmentation.
    """
    from segkd.training.config import load_config
    from segkd.training.tasks import task_of

    loaded = load_config(config, overrides or [])
    picture = task_of(loaded).samples(split or loaded.data.train_split, count)
    try:
        picture.save(out)
    except (OSError, ValueError) as error:
        raise SegkdError(f"the picture {out} cannot be written: {error}") from None
    _print(f"{out} shows {count} samples of {loaded.data.dataset}")


def _print(text: str) -> None:
    """Print a line that may hold a path: neither broken, nor coloured, nor read as markup."""
    console.print(text, soft_wrap=True, highlight=False, markup=False)


def _print_result(result: dict[str, Any]) -> None:
    """Print teacher and student side by side: the means, then each class."""
    from segkd.training.results import models_of, rows, score

    table = Table(f"{result['split']}, %", box=None, pad_edge=False, header_style="bold")
    for model in models_of(result):
        table.add_column(model, justify="right", min_width=8)
    for number, (label, values) in enumerate(rows(result)):
        table.add_row(escape(label), *values, style="" if number else "bold")
    console.print(table)
    if "last" in result and result["student"]["step"] != result["steps"]:
        label, last = score(result["last"])
        best = result["student"]["step"]
        _print(f"The student is that of step {best}, the best validation; the last step has {label} {last}.")


def main() -> None:
    """Run the command line: a user's error is one line and exit status 2; ``--debug`` shows its traceback."""
    if len(sys.argv) == 1:
        sys.argv.append("--help")
    try:
        status = app(prog_name="segkd", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(130)
    except Exception as error:  # the last resort: whatever it is, a person gets a line, not a traceback
        if "--debug" in sys.argv:
            traceback.print_exc()
        if isinstance(error, SegkdError):
            text, code = str(error), 2
        elif hasattr(error, "format_message"):  # typer's, for a wrong option or argument
            command = getattr(getattr(error, "ctx", None), "command_path", "segkd")
            text, code = f"{_one_line(error.format_message()).rstrip('.')} (see: {command} --help)", 2
        else:
            text, code = f"{type(error).__name__}: {_one_line(str(error))} (--debug shows where)", 1
        print(f"segkd: {text}", file=sys.stderr)
        sys.exit(code)
    sys.exit(status if isinstance(status, int) else 0)


def _one_line(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    main()
