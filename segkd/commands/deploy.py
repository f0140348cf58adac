"""Using a saved student: predict, export, bench."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from segkd.commands.shared import DEVICE_HELP, Debug, Overrides, console, whole_number
from segkd.common.progress import say


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


def predict(
    student: Annotated[str, typer.Argument(metavar="RUN|STUDENT|CONFIG", help="A run, a saved student, or a config.")],
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="INPUT", help="Images, videos, folders of them, or quoted patterns such as '*.png'."),
    ],
    out: Annotated[Path, typer.Option(help="The folder to write, empty or not there yet.")],
    batch_size: Annotated[int, typer.Option(min=1, help="Images that the model sees together.")] = 8,
    sliding: Annotated[bool, typer.Option("--sliding", help="Slide a window over the image.")] = False,
    window: Annotated[
        Any, typer.Option(metavar="N|H,W", parser=_size, help="Its size in pixels of the image that the model sees.")
    ] = None,
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
    max_pixels: Annotated[
        Any, typer.Option(metavar="N", parser=whole_number, help="Leave out images of more pixels; 1e9 unless given.")
    ] = None,
    device: Annotated[str, typer.Option(help=f"Where it runs: {DEVICE_HELP}.")] = "auto",
    debug: Debug = False,
) -> None:
    """Run a student on images and videos.

    Writes overlays/, and masks/ as palette PNG (class ids) or detections.json. What cannot be read is named and left
    out; the exit status is 1 then. Of the options, --score-threshold is for detection, those from --sliding to --alpha
    for segmentation. Each image is turned upright by its orientation tag, so that masks, boxes and overlays are
    upright too, and resized as in validation: scales and windows refer to that size.

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
        device=device,
        **({} if max_pixels is None else {"max_pixels": max_pixels}),
    )
    say(console, str(summary))
    if summary.problems:
        raise typer.Exit(1)


def export(
    run: Annotated[str, typer.Argument(metavar="RUN|STUDENT|CONFIG", help="A run, a saved student, or a config.")],
    overrides: Overrides = None,
    format: Annotated[str, typer.Option(help="onnx, torchscript or pt2.")] = "onnx",
    int8: Annotated[bool, typer.Option("--int8", help="Quantise it: ONNX of a segmentation student.")] = False,
    out: Annotated[Path | None, typer.Option(help="The file; default RUN/export/student.onnx, .pt or .pt2.")] = None,
    images: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Check it on these images; default the validation split.")
    ] = None,
    device: Annotated[
        str, typer.Option(help=f"Where the student runs that the file is checked against: {DEVICE_HELP}.")
    ] = "cpu",
    debug: Debug = False,
) -> None:
    """Export a student, checked on real images.

    The file gives what PyTorch gives on validation images, or it is not written; a student without its run is checked
    on those of --images, or on noise. With --int8 its scales are calibrated
    on training images, and mIoU and latency measured before and after. What a user of the file alone has to know (mean,
    std, size, classes, colours) lies in its metadata.

    \b
    Examples:
      segkd export runs/quickstart
      segkd export runs/quickstart --int8
      segkd export runs/quickstart --format pt2 --out student.pt2
    """
    from segkd.deployment.export import export

    result = export(
        run, format, int8=int8, out=out, overrides=overrides or [], images=images, device=device, console=console
    )
    say(console, str(result))


def _height_width(text: str) -> tuple[int, int]:
    """Parse ``HxW``."""
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdecimal() and int(part) for part in parts):
        raise typer.BadParameter(f"expected HxW in pixels, such as 360x480, got {text!r}")
    return int(parts[0]), int(parts[1])


def bench(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN|STUDENT|CONFIG", help="Models of one task, then KEY.PATH=VALUE changes to their configs."
        ),
    ],
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of each model; default PyTorch's choice.")] = None,
    images: Annotated[int, typer.Option(min=1, help="Validation images, of the first run.")] = 20,
    size: Annotated[
        Any, typer.Option(metavar="HxW", parser=_height_width, help="Their size; default that of validation.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at once, for images per second.")] = 8,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file too.")] = None,
    device: Annotated[
        str, typer.Option(help=f"Where teacher and student run: {DEVICE_HELP}. Exported files run on the CPU alone.")
    ] = "cpu",
    debug: Debug = False,
) -> None:
    """Measure teacher, student and exported files.

    Side by side: parameters, MACs of one image (half of the FLOPs that PyTorch counts), size of the file,
    median latency of one image, and images per second in batches (of one, where a file takes no more).

    \b
    Examples:
      segkd bench runs/quickstart --threads 1
      segkd bench runs/camvid_kd runs/camvid_icsd --size 352x480 --json bench.json
    """
    from segkd.deployment.bench import bench

    directories = [text for text in runs if "=" not in text]
    overrides = [text for text in runs if "=" in text]
    result = bench(
        directories,
        threads=threads,
        images=images,
        size=size,
        batch_size=batch_size,
        overrides=overrides,
        json_file=json_file,
        device=device,
        console=console,
    )
    headers, *rows = result.table()
    table = Table(box=None, pad_edge=False)
    for number, header in enumerate(headers):
        # Where a run's path is too long for the terminal it goes on below, and the figures stay whole.
        table.add_column(header, justify="right" if number else "left", no_wrap=number > 0, overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table)
    say(console, str(result))
