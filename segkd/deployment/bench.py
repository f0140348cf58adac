"""What a student is worth at use: its size and speed beside its teacher and its exported files."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from segkd.common.devices import find_device
from segkd.common.progress import shown
from segkd.common.student import weights_file
from segkd.deployment.formats import FORMATS, find_format, read_info
from segkd.deployment.images import images_for
from segkd.deployment.signature import Reference, Size, reference_of
from segkd.errors import SegkdError
from segkd.models.smp import inner_model
from segkd.training.opening import OpenedModel, open_model
from segkd.training.results import check_writable, environment, write_json
from segkd.training.teacher import TeachersOf, teacher_configs

Input = TypeVar("Input")


@dataclass
class Row:
    """One model."""

    run: str  # what was named: a run, a student's folder or a config
    model: str  # ``student``, a teacher's name, or that of an exported file
    bytes: int  # of the file that it is read from
    call: Callable[[Tensor], object]  # runs it on a batch of images
    batched: bool = True  # whether it takes several images at once
    parameters: int | None = None  # how many numbers it has learnt; None for an exported file
    macs: int | None = None  # multiplications with addition for one image; None for an exported file
    latency: float = 0.0  # seconds for one image
    rate: float = 0.0  # images per second, of a batch if it takes one


@dataclass
class Bench:
    """What `bench` measured."""

    rows: list[Row]
    size: Size  # height and width of the images
    images: int  # how many there were
    batch_size: int  # of ``rate``
    threads: int  # that each model computed with
    device: torch.device  # that teachers and students computed on
    remarks: list[str] = field(default_factory=list)  # one for each model left out, and each run without exported files

    def table(self) -> list[list[str]]:
        """Return what a person reads: the headers, then a row for each model below one for each run."""
        lines = [["model", "parameters", "MACs", "file", "latency", "images/s"]]
        for run, rows in groupby(self.rows, lambda row: row.run):
            lines.append([run, "", "", "", "", ""])
            lines += [
                [
                    f"  {row.model}",
                    "" if row.parameters is None else f"{row.parameters / 1e6:.2f} M",
                    "" if row.macs is None else f"{row.macs / 1e9:.2f} G",
                    f"{row.bytes / 1e6:.1f} MB",
                    f"{1e3 * row.latency:.1f} ms",
                    f"{row.rate:.1f}",
                ]
                for row in rows
            ]
        return lines

    def __str__(self) -> str:
        """Return the conditions, and what is left out, for a person."""
        place = f"the CPU with {self.threads} thread{'s' if self.threads > 1 else ''}"
        if self.device.type != "cpu":
            name = f" ({torch.cuda.get_device_name(self.device)})" if self.device.type == "cuda" else ""
            place = f"{self.device}{name}"
        conditions = (
            f"{self.images} images of {self.size[0]}x{self.size[1]}, one by one for latency and in batches of "
            f"{self.batch_size} for images/s, on {place}"
        )
        return "\n".join([conditions, *self.remarks])

    def figures(self) -> dict[str, Any]:
        """Return all of it, and the hardware, as JSON."""
        keys = ("run", "model", "parameters", "macs", "bytes", "latency", "rate")
        models = [{key: getattr(row, key) for key in keys} for row in self.rows]
        conditions = {key: value for key, value in vars(self).items() if key != "rows"}
        return {**conditions, "device": str(self.device), "models": models, "environment": environment()}


def bench(
    targets: Sequence[str | Path],
    *,
    threads: int | None = None,
    images: int = 20,
    size: Size | None = None,
    batch_size: int = 8,
    overrides: Sequence[str] = (),
    json_file: Path | None = None,
    device: str = "cpu",
    console: Console | None = None,
) -> Bench:
    """Measure teacher, student and exported files of runs side by side, in float32.

    MACs are half of what `torch.utils.flop_counter.FlopCounterMode` counts: convolutions and matrix products. Latency
    is the median over images, one by one, in rounds through all models; the rate is that of whole batches alike.

    Args:
        targets: runs, folders of saved students, or configs, of one task, see `segkd.training.opening.open_model`.
        threads: that each model computes with; PyTorch's own choice unless given.
        images: how many validation images of the first run, evenly spread; noise where it is a student alone.
        size: height and width that they are resized to; what the first run validates at unless given.
        batch_size: how many images go through a model at once for the rate; those that take one only get one.
        overrides: changes to the runs' configs, such as where the data lie now.
        json_file: where the figures are written too.
        device: where teachers and students run, see `find_device`; exported files run on the CPU only.
        console: where progress is shown.

    Raises:
        SegkdError: there is no run, or the JSON file cannot be written; a run is not finished, they are of different
            tasks, the data are absent, a file cannot be opened, or a model does not take images of this size.
    """
    if not targets:
        raise SegkdError("segkd bench takes at least one run, student or config")
    if json_file is not None:
        check_writable(json_file)
    place = find_device(device)
    models = [open_model(target, overrides) for target in targets]
    for other in models[1:]:
        if other.network.task != models[0].network.task:
            raise SegkdError(f"{other.name} is of another task than {models[0].name}: measure them apart")
    with ExitStack() as stack:
        count = torch.get_num_threads()
        stack.callback(torch.set_num_threads, count)
        torch.set_num_threads(count := threads or count)
        shots = images_for(models[0], images)
        reference = reference_of(models[0].network, next(iter(shots)), size)
        inputs = [reference.input_of(image).reshape(1, -1, *reference.size).to(place) for image in shots]
        result = Bench([], reference.size, len(inputs), batch_size, count, place)
        teachers: set[str] = set()
        for opened in models:
            for name, module, weights in _models(opened, teachers, result.remarks):
                module = inner_model(module).to(place).eval()  # a second head is for training alone
                numbers = sum(parameter.numel() for parameter in module.parameters())
                call = _finished(reference.of_batch(module), place)
                result.rows.append(Row(opened.name, name, weights.stat().st_size, call, parameters=numbers))
            result.rows += _files(opened, reference, result)
        _measure(result, inputs, console)
        if json_file is not None:
            write_json(json_file, result.figures())
    return result


def _models(opened: OpenedModel, teachers: set[str], remarks: list[str]) -> Iterator[tuple[str, nn.Module, Path]]:
    """Yield teachers with files of weights that are not among `teachers`, and the student."""
    task = opened.task
    try:
        known = {} if task is None else TeachersOf(task, teacher_configs(task.config)).each
        for name, teacher in known.items():
            if teacher.checkpoint is not None and teacher.checkpoint not in teachers:
                teachers.add(teacher.checkpoint)
                teacher.load(to_measure=True)
                yield name, teacher.network.module, weights_file(teacher.checkpoint)
    except SegkdError as error:
        remarks.append(f"{opened.name}: teacher left out: {error}")
    yield "student", opened.network.module, weights_file(opened.weights)


def _finished(call: Callable[[Tensor], object], device: torch.device) -> Callable[[Tensor], object]:
    """Return a call that ends when the device has computed: a GPU works on after Python goes on."""

    def finished(batch: Tensor) -> None:
        call(batch)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        elif device.type == "mps":
            torch.mps.synchronize()

    return finished


def _files(opened: OpenedModel, reference: Reference, result: Bench) -> Iterator[Row]:
    """Yield the exported files in a run's directory that take the images."""
    formats = {chosen.suffix: name for name, chosen in FORMATS.items()}
    paths = [path for path in (opened.home / "export").glob("*") if path.suffix in formats]
    if not paths:
        result.remarks.append(f"{opened.name}: no exported file; 'segkd export {opened.name}' makes one to measure")
    elif result.device.type != "cpu":
        result.remarks.append(f"{opened.name}: exported files left out: they run on the CPU, without --device")
        return
    for path in sorted(paths, key=lambda path: (path.suffix, len(path.name))):
        try:
            chosen, info = find_format(formats[path.suffix]), read_info(path)
            multiple = info.get("size_multiple", 1)
            if "height" not in info["dynamic"] and tuple(info["size"]) != result.size:
                raise SegkdError(f"{path} takes images of {info['size'][0]}x{info['size'][1]} only")
            if "height" in info["dynamic"] and any(side % multiple for side in result.size):
                raise SegkdError(f"{path} takes height and width in multiples of {multiple}")
        except SegkdError as error:
            result.remarks.append(f"{path.name} left out: {error}")
            continue
        call = reference.of_file(chosen.open(path, result.threads))
        yield Row(opened.name, path.name, path.stat().st_size, call, batched="batch" in info["dynamic"])


def _measure(result: Bench, inputs: list[Tensor], console: Console | None) -> None:
    """Fill in what is measured."""
    for row in result.rows:
        counter = FlopCounterMode(display=False)
        try:
            with torch.no_grad(), counter:
                row.call(inputs[0])
        # torch's: an image of a size that the model does not take.
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:150]
            height, width = result.size
            raise SegkdError(f"{row.run}: the {row.model} does not take images of {height}x{width}: {reason}") from None
        if row.parameters is not None:
            row.macs = counter.get_total_flops() // 2
    rounds = shown(inputs, len(inputs), "latency", console)
    for row, seconds in zip(result.rows, interleaved([row.call for row in result.rows], rounds), strict=True):
        row.latency, row.rate = seconds, 1 / seconds
    # Whole batches, at least three, in which each image is at least once.
    size, count = result.batch_size, len(inputs)
    batches = (
        torch.cat([inputs[index % count] for index in range(start, start + size)])
        for start in range(0, max(count, 3 * size), size)
    )
    batched = [row for row in result.rows if row.batched]
    for row, seconds in zip(batched, interleaved([row.call for row in batched], batches), strict=True):
        row.rate = size / seconds


def interleaved(calls: Sequence[Callable[[Input], object]], inputs: Iterable[Input]) -> list[float]:
    """Return each model's median seconds per call.

    Rounds are interleaved: each input goes through all models before the next, so that what else the machine does falls
    on all alike. A call that is not timed goes before each that is: it finds the caches as the model before left them.
    """
    seconds: list[list[float]] = [[] for _ in calls]
    with torch.inference_mode():
        for value in inputs:
            for call, spent in zip(calls, seconds, strict=True):
                call(value)
                started = time.perf_counter()
                call(value)
                spent.append(time.perf_counter() - started)
    return [median(spent) for spent in seconds]
