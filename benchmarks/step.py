"""Time of one distilled step beside what it cannot do without: the plain student step and the teacher's forward pass.

    python benchmarks/step.py --output benchmarks/results/step.md

(a) is the student's forward, its own loss and backward; (b) the teacher's forward in eval mode without gradient, as far
as the terms need it; (c) one step of a `Distiller`, forward and backward. No optimiser step anywhere; random weights
and images. What belongs to the same models runs in turn, and the fastest run of each part counts, timed as in
losses.py: on the CPU by one thread's CPU time. The ratio (c) / ((a) + (b)) must stay at or below 1.10.

MobileNetV2 is taught by ResNet-50. Segmentation is DeepLabV3+, the teacher with auxiliary head; (c) has ICSD, PixelKD
and relative difficulty (RDD), once in each of its stages. Detection is GFL and RetinaNet, their FPN and head of 64
channels as in the bccd configs, and of 256, the usual width. PKD needs the teacher's backbone and FPN, CrossKD its head
as well, which it runs a second time from the last block on, with the student's features: that pass is in (c) alone, or,
in a row of its own, its forward is in (b) too. (a) and (c) begin with the detector's own transform.

glibc hands large blocks back to the system and fetches them anew in each step; page faults then add to every part.
Variables that make it keep them are printed with the command. --append puts the table below one taken before:

    MALLOC_MMAP_THRESHOLD_=2000000000 MALLOC_TRIM_THRESHOLD_=8000000000 MALLOC_TOP_PAD_=500000000 \\
        python benchmarks/step.py --output benchmarks/results/step.md --append
"""

import argparse
import itertools
import os
import statistics
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from measuring import machine, times
from torch import Tensor, nn

from segkd import Distiller, Term
from segkd.detection.adapter import DetectionAdapter
from segkd.detection.crosskd import CrossKDBox, CrossKDClass
from segkd.detection.heads import dense_head
from segkd.detection.models import build_detector
from segkd.losses import ICSD, PKD, PixelKD
from segkd.models.smp import build_model
from segkd.weighting import RelativeDifficulty

Size = tuple[int, int]

LIMIT = 1.10
STAGES = {"stage 1": 0.05, "stage 2": 0.5}
"""Progress at which each stage of relative difficulty is measured."""
DETECTORS = {"gfl": "GFL", "retinanet": "RetinaNet"}
CHANNELS = (64, 256)


class Row(NamedTuple):
    """One row of the table; rows of the same models share calls, which are timed once."""

    models: str
    terms: str
    student: Callable[[], object]
    teacher: Callable[[], object]
    distilled: Callable[[], object]


class Runner(NamedTuple):
    """How the parts run."""

    device: str
    precision: str
    batch: int

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bf16")

    def step(self, student: nn.Module, loss: Callable[..., Tensor], *inputs: object) -> None:
        student.zero_grad()
        with self.autocast():
            value = loss(*inputs)
        value.backward()

    def forward(self, part: Callable[..., object], *inputs: object) -> None:
        with torch.no_grad(), self.autocast():
            part(*inputs)


def distilled_loss(distiller: Distiller, images: object, target: object, progress: float | None = None) -> Tensor:
    return distiller(images, target, progress).loss


def segmentation(runner: Runner, size: Size) -> Iterable[Row]:
    """19 classes; labels are 32-pixel blocks, of which one in ten is ignored."""
    classes, device = 19, runner.device
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(runner.batch, 3, *size, generator=generator).to(device)
    blocks = torch.randint(0, classes, (runner.batch, size[0] // 32, size[1] // 32), generator=generator)
    blocks[torch.rand(blocks.shape, generator=generator) < 0.1] = 255
    masks = blocks.repeat_interleave(32, 1).repeat_interleave(32, 2).to(device)

    student = build_model("DeepLabV3Plus", "mobilenet_v2", classes).to(device)
    teacher = build_model("DeepLabV3Plus", "resnet50", classes, auxiliary=True).to(device)
    cross_entropy = nn.CrossEntropyLoss(ignore_index=255)
    terms = {"icsd": Term(ICSD()), "kd": Term(PixelKD())}
    distiller = Distiller(student, teacher, terms, cross_entropy, pixel_weighting=RelativeDifficulty())

    plain = partial(runner.step, student, lambda: cross_entropy(student(images), masks))
    forward = partial(runner.forward, teacher, images)
    for stage, progress in STAGES.items():
        distilled = partial(runner.step, student, distilled_loss, distiller, images, masks, progress)
        yield Row("DeepLabV3+", f"ICSD + KD + RDD, {stage}", plain, forward, distilled)


def detection(arch: str, channels: int, runner: Runner, size: Size) -> Iterable[Row]:
    """20 classes; 10 boxes an image, their sides from 16 pixels to half the image's."""
    classes, boxes, device = 20, 10, runner.device
    generator = torch.Generator().manual_seed(0)
    images = list(torch.rand(runner.batch, 3, *size, generator=generator).to(device))
    bounds = torch.tensor([size[1], size[0]])
    targets = []
    for _ in images:
        sides = 16 + torch.rand(boxes, 2, generator=generator) * (bounds / 2 - 16)
        corners = torch.rand(boxes, 2, generator=generator) * (bounds - sides)
        labels = torch.randint(1, classes + 1, (boxes,), generator=generator)
        targets.append({"boxes": torch.cat([corners, corners + sides], 1).to(device), "labels": labels.to(device)})

    sizes: dict[str, Any] = {"min_size": min(size), "max_size": max(size), "options": {"out_channels": channels}}
    student, teacher = (
        build_detector(arch, backbone, classes, **sizes).to(device) for backbone in ("mobilenet_v2", "resnet50")
    )
    pkd = {"pkd": Term(PKD(), student="fpn", teacher="fpn")}
    crosskd = {"class": Term(CrossKDClass()), "box": Term(CrossKDBox())}

    plain = partial(runner.step, student, lambda: sum(student(images, targets).values()))
    transformed = teacher.transform(images)[0].tensors
    to_fpn = partial(runner.forward, teacher.backbone, transformed)
    to_head = partial(runner.forward, lambda: teacher.head(list(teacher.backbone(transformed).values())))
    view, index = dense_head(teacher), crosskd["box"].loss.index

    def with_second_pass() -> None:
        maps = list(teacher.backbone(transformed).values())
        _, towers = view.run(maps, [(branch, index) for branch in crosskd])
        for branch, kept in towers.items():
            view.tail(branch[0], kept, index)

    models = f"{DETECTORS[arch]}, {channels} channels"
    for name, forward, terms in (
        ("PKD", to_fpn, pkd),
        ("CrossKD", to_head, crosskd),
        ("CrossKD + PKD", to_head, {**crosskd, **pkd}),
    ):
        distiller = Distiller(student, teacher, terms, adapter=DetectionAdapter())
        distilled = partial(runner.step, student, distilled_loss, distiller, images, targets)
        yield Row(models, name, plain, forward, distilled)
        if terms is crosskd:
            yield Row(
                models, "CrossKD, second pass in (b)", plain, partial(runner.forward, with_second_pass), distilled
            )


def lines_of(rows: Iterable[Row], runner: Runner, size: Size, repeats: int, seconds: float) -> Iterable[str]:
    """Time what the rows of the same models consist of and return the table's lines."""
    rows = list(rows)
    calls = list(dict.fromkeys(call for row in rows for call in (row.student, row.teacher, row.distilled)))
    taken = dict(zip(calls, times(calls, runner.device, repeats, seconds), strict=True))
    images = "x".join(map(str, (runner.batch, 3, *size)))
    for row in rows:
        least, middle = (
            [figure(taken[call]) for call in (row.student, row.teacher, row.distilled)]
            for figure in (min, statistics.median)
        )
        parts = " | ".join(f"{low:.1f} ({mid:.1f})" for low, mid in zip(least, middle, strict=True))
        ratio, of_medians = (c / (a + b) for a, b, c in (least, middle))
        yield f"| {row.models} | {images} | {row.terms} | {parts} | {ratio:.3f} ({of_medians:.3f}) |"


def height_and_width(text: str) -> Size:
    height, _, width = text.partition("x")
    if not (height.isdigit() and width.isdigit() and int(height) % 32 == int(width) % 32 == 0):
        raise argparse.ArgumentTypeError(f"expected HEIGHTxWIDTH in multiples of 32, got {text!r}")
    return int(height), int(width)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=["32", "bf16"], default="32", help="bf16 is autocast (default 32)")
    for task, sizes in (("segmentation", [(256, 512), (256, 256)]), ("detection", [(256, 320)])):
        default = " ".join(f"{height}x{width}" for height, width in sizes)
        parser.add_argument(
            f"--{task}",
            type=height_and_width,
            nargs="*",
            default=sizes,
            metavar="HEIGHTxWIDTH",
            help=f"sizes of its images; none leaves {task} out (default {default})",
        )
    parser.add_argument("--batch", type=int, default=4, help="images a step (default 4)")
    parser.add_argument(
        "--threads", type=int, default=1, help="CPU threads (default 1); more are timed by the wall clock"
    )
    parser.add_argument("--repeats", type=int, default=20, help="runs of each part (default 20)")
    parser.add_argument(
        "--seconds", type=float, default=60, help="stop repeating the same models after this long (default 60)"
    )
    parser.add_argument("--output", type=Path, help="also write the table to this file")
    parser.add_argument("--append", action="store_true", help="add to that file instead of replacing it")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    lines: list[str] = []

    def say(line: str) -> None:
        print(line, flush=True)
        lines.append(line)

    variables = [f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith("MALLOC_")]
    precision = "bfloat16 autocast" if args.precision == "bf16" else "float32"
    clock = "the thread's CPU time" if args.device == "cpu" and args.threads == 1 else "wall-clock time"
    say("" if args.append else "# One distilled step beside its parts\n")
    say(f"`{' '.join([*variables, 'python benchmarks/step.py', *sys.argv[1:]])}`\n")
    say(machine(args.device, args.threads) + "\n")
    say(
        f"MobileNetV2 taught by ResNet-50, {precision}, no optimiser step. In milliseconds of {clock}, the fastest of "
        f"up to {args.repeats} runs and, in brackets, the median; the parts of a row run in turn. CrossKD's pass "
        "through the teacher's last block and predictors, with gradient, counts in (c) alone, but where a row says "
        f"that its forward is in (b). The ratio of the fastest runs is required to be at most {LIMIT:.2f}.\n"
    )
    say("| models | images | terms | (a) student | (b) teacher | (c) distilled | (c) / ((a) + (b)) |")
    say("|---|---|---|---:|---:|---:|---:|")
    runner = Runner(args.device, args.precision, args.batch)
    detectors = [partial(detection, arch, channels) for arch, channels in itertools.product(DETECTORS, CHANNELS)]
    tasks = [(segmentation, size) for size in args.segmentation]
    tasks += itertools.product(detectors, args.detection)
    for task, size in tasks:
        torch.manual_seed(0)
        for line in lines_of(task(runner, size), runner, size, args.repeats, args.seconds):
            say(line)
    if args.output is not None:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        with args.output.open("a" if args.append else "w") as file:
            file.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
