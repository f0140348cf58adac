"""What a student is worth at use: its size and speed beside its teacher and its exported files."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from segkd.common.devices import find_device
from segkd.common.progress import shown
from segkd.common.student import STUDENT_FILE, student_dir
from segkd.deployment.formats import FORMATS, check_installed, read_info
from segkd.deployment.images import images_for
from segkd.deployment.signature import Reference, Size
from segkd.deployment.timing import interleaved, torch_threads
from segkd.errors import SegkdError
from segkd.models.smp import inner_model
from segkd.training.cost import environment
from segkd.training.opening import OpenedModel, open_model
from segkd.training.results import check_writable, write_json
from segkd.training.teacher import TeachersOf
from segkd.training.teacher_runs import teacher_configs


@dataclass
class Row:
    """One model.

    Attributes:
        run: what was named: a run, a student's folder or a config.
        model: ``teacher``, ``student``, or the name of an exported file.
        bytes: of the file that it is read from.
        call: runs it on a batch of images.
        batched: whether it takes several images at once.
        parameters: how many numbers it has learnt; None for an exported file.
        macs: multiplications with addition for one image; None for an exported file.
        latency: seconds for one image.
        rate: images per second, of a batch if it takes one.
    """

    run: str
    model: str
    bytes: int
    call: Callable[[Tensor], object]
    batched: bool = True
    parameters: int | None = None
    macs: int | None = None
    latency: float = 0.0
    rate: float = 0.0


@dataclass
class Bench:
    """What `bench` measured.

    Attributes:
        rows: the models.
        size: height and width of the images.
        images: how many there were.
        batch_size: of ``rate``.
        threads: that each model computed with.
        device: that teachers and students computed on.
        remarks: a line for each model that is left out, and for each run without exported files.
    """

    rows: list[Row]
    size: Size
    images: int
    batch_size: int
    threads: int
    device: torch.device
    remarks: list[str] = field(default_factory=list)

    def table(self) -> list[list[str]]:
        """Return what a person reads: the headers, then a row for each model below one for each run."""
        lines = [["model", "parameters", "MACs", "file", "latency", "images/s"]]
        run = None
        for row in self.rows:
            if row.run != run:
                run = row.run
                lines.append([run, "", "", "", "", ""])
            lines.append(
                [
                    f"  {row.model}",
                    "" if row.parameters is None else f"{row.parameters / 1e6:.2f} M",
                    "" if row.macs is None else f"{row.macs / 1e9:.2f} G",
                    f"{row.bytes / 1e6:.1f} MB",
                    f"{1e3 * row.latency:.1f} ms",
                    f"{row.rate:.1f}",
                ]
            )
        return lines

    def __str__(self) -> str:
        """Return the conditions, and what is left out, for a person."""
        height, width = self.size
        conditions = (
            f"{self.images} images of {height}x{width}, one by one for latency and in batches of {self.batch_size} for "
            f"images/s, on {self._place()}"
        )
        return "\n".join([conditions, *self.remarks])

    def _place(self) -> str:
        if self.device.type == "cpu":
            return f"the CPU with {self.threads} thread{'s' if self.threads > 1 else ''}"
        name = f" ({torch.cuda.get_device_name(self.device)})" if self.device.type == "cuda" else ""
        return f"{self.device}{name}"

    def figures(self) -> dict[str, Any]:
        """Return all of it, and the hardware, as JSON."""
        keys = ("run", "model", "parameters", "macs", "bytes", "latency", "rate")
        return {
            "size": list(self.size),
            "images": self.images,
            "batch_size": self.batch_size,
            "threads": self.threads,
            "device": str(self.device),
            "models": [{key: getattr(row, key) for key in keys} for row in self.rows],
            "remarks": self.remarks,
            "environment": environment(),
        }


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
        overrides: ``key.path=value`` changes to the runs' configs, such as where the data lie now.
        json_file: where the figures are written too.
        device: where teachers and students run, see `find_device`; exported files run on the CPU only.
        console: where progress is shown if it is a terminal; None for nowhere.

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
    first = models[0]
    for other in models[1:]:
        if other.network.task != first.network.task:
            raise SegkdError(f"{other.name} is of another task than {first.name}: measure them apart")
    with torch_threads(threads) as count:
        shots = images_for(first, images)
        reference = Reference(first.network, next(iter(shots)), size)
        inputs = [image.reshape(1, -1, *reference.size).to(place) for image in reference.inputs(shots)]
        result = Bench([], reference.size, len(inputs), batch_size, count, place)
        teachers: set[str] = set()
        for opened in models:
            result.rows += _models(opened, reference, teachers, result)
            result.rows += _files(opened, reference, result)
        _measure(result, inputs, console)
        if json_file is not None:
            write_json(json_file, result.figures())
    return result


def _models(opened: OpenedModel, reference: Reference, teachers: set[str], result: Bench) -> Iterator[Row]:
    """Yield teachers with files of weights that are not among `teachers`, and the student."""
    task = opened.task
    try:
        known = {} if task is None else TeachersOf(task, teacher_configs(task.config)).each
        for name, teacher in known.items():
            if teacher.checkpoint is not None and teacher.checkpoint not in teachers:
                teachers.add(teacher.checkpoint)
                teacher.load(to_measure=True)
                module = teacher.network.module
                yield _model(opened, name, module, reference, Path(teacher.checkpoint), result.device)
    except SegkdError as error:
        result.remarks.append(f"{opened.name}: teacher left out: {error}")
    yield _model(opened, "student", opened.network.module, reference, opened.weights, result.device)


def _model(
    opened: OpenedModel, name: str, model: nn.Module, reference: Reference, path: Path, device: torch.device
) -> Row:
    model = inner_model(model)  # a second head is for training alone
    file = student_dir(path) / STUDENT_FILE if path.is_dir() else path
    parameters = sum(parameter.numel() for parameter in model.parameters())
    call = _finished(reference.of_batch(model.to(device).eval()), device)
    return Row(opened.name, name, file.stat().st_size, call, parameters=parameters)


def _finished(call: Callable[[Tensor], object], device: torch.device) -> Callable[[Tensor], object]:
    """Return a call that ends when the device has computed: a GPU works on after Python goes on."""

    def finished(batch: Tensor) -> object:
        output = call(batch)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        elif device.type == "mps":
            torch.mps.synchronize()
        return output

    return finished


def _files(opened: OpenedModel, reference: Reference, result: Bench) -> Iterator[Row]:
    """Yield the exported files in a run's directory that take the images."""
    by_suffix = {chosen.suffix: chosen for chosen in FORMATS.values()}
    paths = [path for path in (opened.home / "export").glob("*") if path.suffix in by_suffix]
    if not paths:
        result.remarks.append(f"{opened.name}: no exported file; 'segkd export {opened.name}' makes one to measure")
    if paths and result.device.type != "cpu":
        result.remarks.append(f"{opened.name}: exported files left out: they run on the CPU, without --device")
        return
    for path in sorted(paths, key=lambda path: (path.suffix, len(path.name))):
        chosen = by_suffix[path.suffix]
        try:
            check_installed(chosen)
            info = read_info(path)
            _check_size(path, info, result.size)
        except SegkdError as error:
            result.remarks.append(f"{path.name} left out: {error}")
            continue
        call = reference.of_file(chosen.open(path, result.threads))
        yield Row(opened.name, path.name, path.stat().st_size, call, batched="batch" in info["dynamic"])


def _check_size(path: Path, info: dict[str, Any], size: Size) -> None:
    """Raise unless a file takes images of this size."""
    multiple = info.get("size_multiple", 1)
    if "height" in info["dynamic"]:
        if any(side % multiple for side in size):
            raise SegkdError(f"{path} takes height and width in multiples of {multiple}")
    elif tuple(info["size"]) != size:
        raise SegkdError(f"{path} takes images of {info['size'][0]}x{info['size'][1]} only")


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
    batched = [row for row in result.rows if row.batched]
    batches = _batches(inputs, result.batch_size)
    for row, seconds in zip(batched, interleaved([row.call for row in batched], batches), strict=True):
        row.rate = result.batch_size / seconds


def _batches(images: list[Tensor], size: int) -> Iterator[Tensor]:
    """Yield whole batches, at least three, in which each image is at least once."""
    endless = itertools.cycle(images)
    for _ in range(max(math.ceil(len(images) / size), 3)):
        yield torch.cat(list(itertools.islice(endless, size)))
