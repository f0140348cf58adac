"""Exporting a student to a file that runs without this package, and checking the file against the student."""

import importlib.metadata
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from segkd.common.devices import find_device
from segkd.common.files import replacing
from segkd.common.progress import shown
from segkd.deployment.formats import FORMATS, Format, find_format, quiet, read_info
from segkd.deployment.images import images_for
from segkd.deployment.int8 import Int8, make_int8
from segkd.deployment.signature import Comparison, Reference, reference_of
from segkd.errors import DiskFull, SegkdError
from segkd.training.opening import OpenedModel, open_model

#: How many images a file is checked on.
CHECKED = 20


@dataclass
class Export:
    """An exported file."""

    path: Path
    info: dict[str, Any]  # what was recorded in it
    check: Comparison  # of the file in float32 against the student,
    images: str  # and on what images
    fixed: str | None  # why height and width, or the batch too, are fixed; None where they are not, or for a detector
    int8: Int8 | None = None

    def __str__(self) -> str:
        """Return lines for a person."""
        (height, width), dynamic = self.info["size"], self.info["dynamic"]
        multiple = self.info.get("size_multiple", 1)
        others = f"multiples of {multiple}" if multiple > 1 else "any size"
        size = f"made for {height}x{width}, takes {others}" if "height" in dynamic else f"fixed size {height}x{width}"
        if self.info["task"] != "detection":
            size += f"; {'any' if 'batch' in dynamic else 'no'} batch"
        lines = [f"{self.path}: {os.path.getsize(self.path) / 1e6:.1f} MB, {size}"]
        if self.fixed:
            lines.append(f"the size is fixed, since with a dynamic one {self.fixed}")
        if self.info["task"] == "detection" and self.path.suffix == FORMATS["torchscript"].suffix:
            lines.append("it calls torchvision's operators: import torchvision before it is opened")
        before = "in float32, " if self.int8 else ""
        lines.append(f"{before}checked on {self.check.images} {self.images} against PyTorch: {self.check}")
        return "\n".join([*lines, *([str(self.int8)] if self.int8 else [])])


def export(
    target: str | Path,
    format: str,
    *,
    int8: bool = False,
    out: Path | None = None,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    images: Path | None = None,
    device: str = "cpu",
    console: Console | None = None,
) -> Export:
    """Export a student, and check the file on images before it is put in place.

    A segmentation student maps normalised images (B, 3, H, W) to logits, with dynamic batch, height and width if the
    model allows; a detector one image (3, H, W) of one size, in [0, 1], to boxes, labels and scores; its TorchScript
    calls operators that ``import torchvision`` brings. What a user of the file alone has to know (mean, std, size,
    classes, colours and so on) lies in it as JSON: in the metadata property ``segkd`` of ONNX, in the extra file
    ``segkd.json`` of the others.

    Args:
        target: a run, the folder of a saved student, or a config, see `segkd.training.opening.open_model`.
        format: a key of `FORMATS`.
        int8: whether to quantise it, which needs ``onnx`` and a segmentation student of a run.
        out: the file; ``export/student<suffix>`` in the run's directory, or the student's folder, unless given.
        overrides: changes to the run's config, such as where the data lie now.
        images: a folder of images to check it on; the validation split unless given, or noise for a student alone.
        device: where the student runs that the file is checked against; the file is made, and runs, on the CPU.
        console: where progress is shown.

    Raises:
        SegkdError: the run is not finished, the student cannot be exported so, the data are absent, a package is, the
            file cannot be written or is in the way of something else, or it does not give what the student gives. Then
            nothing is written.
    """
    chosen = find_format(format)
    if int8 and format != "onnx":
        raise SegkdError(f"int8 is made by onnxruntime: --int8 goes with --format onnx, not {format}")
    place = find_device(device)
    opened = open_model(target, overrides)
    file = _target(opened, chosen, int8, out)
    shots = images_for(opened, CHECKED, images)
    reference = reference_of(opened.network, next(iter(shots)))
    reference.device = place
    model = type(opened.network.module).__name__
    if format not in reference.formats:
        raise SegkdError(f"{model} cannot be exported as {format}: only as {' or '.join(reference.formats)}")
    if int8 and opened.network.task != "segmentation":
        raise SegkdError(f"{model} cannot be exported in int8: only segmentation students can; leave out --int8")
    if int8 and opened.task is None:
        raise SegkdError(f"{target}: int8 is calibrated on a run's data and measured there: name the run")
    try:
        scratch = tempfile.TemporaryDirectory(dir=opened.home if out is None else file.parent, prefix=".export-")
    except OSError as error:
        raise SegkdError(f"{file} cannot be written: {error.strerror}") from None
    with scratch as folder:
        made = Path(folder) / f"float32{chosen.suffix}"
        inputs = list(shown(map(reference.input_of, shots), len(shots), "reading images", console))
        result = _export(reference, chosen, made, inputs, console)
        result.path, result.images = file, shots.what
        if not result.check.passed:
            raise SegkdError(f"{file} is not written: it would not give what PyTorch gives: {result.check}")
        if int8 and opened.task is not None:
            source, made = made, Path(folder) / f"int8{chosen.suffix}"
            result.int8 = make_int8(reference, opened.task, result.info, source, made, inputs, console)
        try:
            file.parent.mkdir(exist_ok=True)
            with replacing(file) as scratch_file:
                os.replace(made, scratch_file)
        except DiskFull:
            raise
        except OSError as error:
            raise SegkdError(f"{file} cannot be written: {error.strerror}") from None
    return result


def _target(opened: OpenedModel, chosen: Format, int8: bool, out: Path | None) -> Path:
    """Return where the file goes, which must be free, or hold an export."""
    target = out or opened.home / "export" / f"student{'.int8' if int8 else ''}{chosen.suffix}"
    if target.suffix != chosen.suffix:
        raise SegkdError(f"{target}: the name of a file in {chosen.title} ends in {chosen.suffix}")
    if out is not None and not target.parent.is_dir():
        raise SegkdError(f"{target} cannot be written: there is no folder {target.parent}")
    if target.exists():
        try:
            read_info(target)
        except SegkdError as error:
            raise SegkdError(f"{error}: it is not overwritten; choose another --out") from None
    return target


def _export(reference: Reference, chosen: Format, file: Path, images: list[Tensor], console: Console | None) -> Export:
    """Write the file with as many dynamic dimensions as the model allows, and compare it with the student."""
    failures: list[str] = []
    for axes in reference.ladder:
        info = {"version": importlib.metadata.version("segkd"), **reference.info(axes)}
        probes, fixed = reference.probes(images[0], axes), None if 2 in axes else next(iter(failures), None)
        try:
            with quiet(), torch.no_grad():
                chosen.write(reference.graph(probes, axes, info), file)
            run = chosen.open(file, torch.get_num_threads())
            for probe in probes:
                check = reference.compare([(reference.run(probe), run(probe))])
                if not check.passed:
                    failures.append(f"it gives other outputs for {'x'.join(map(str, probe.shape))} ({check})")
                    break
            if check.passed or axes == reference.ladder[-1]:
                compared = shown(images, len(images), f"checking {chosen.suffix}", console)
                check = reference.compare((reference.run(image), run(image)) for image in compared)
                return Export(file, info, check, "", fixed)
        # Exporters and runtimes fail in their own ways: each means that the model cannot be had like this.
        except Exception as error:
            failures.append(f"it fails ({type(error).__name__}: {' '.join(str(error).split())[:150]})")
    model = type(reference.network.module).__name__
    others = " or ".join(name for name in reference.formats if FORMATS[name] is not chosen)
    raise SegkdError(f"{model} cannot be exported as {chosen.title}: {failures[-1]}; --format {others} may do")
