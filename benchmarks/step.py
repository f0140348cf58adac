"""Time of one distilled step beside what it cannot do without: the plain student step and the teacher's forward pass.

    python benchmarks/step.py --output benchmarks/results/step.md

The pair is DeepLabV3+, a MobileNetV2 student and a ResNet-50 teacher with auxiliary head, 19 classes, random weights
and images. (a) is the student's forward, cross-entropy and backward; (b) the teacher's forward in eval mode without
gradient; (c) one step of a `Distiller` with ICSD, PixelKD and relative difficulty (RDD), forward and backward, once in
each of RDD's stages. No optimiser step anywhere. All run in turn, and the fastest run of each counts, timed as in
losses.py: on the CPU by one thread's CPU time. The ratio (c) / ((a) + (b)) must stay at or below 1.10.
"""

import argparse
import statistics
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import torch
from losses import machine, times
from torch import Tensor, nn

from segkd import Distiller, Term
from segkd.losses import ICSD, PixelKD
from segkd.segmentation.models import build_model
from segkd.weighting import RelativeDifficulty

CLASSES = 19
LIMIT = 1.10
STAGES = {"stage 1": 0.05, "stage 2": 0.5}
"""Progress at which each stage of relative difficulty is measured."""


def batch(size: tuple[int, int], count: int, device: str) -> tuple[Tensor, Tensor]:
    """Return random images, and labels in 32-pixel blocks of which one in ten is ignored."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, 3, *size, generator=generator)
    blocks = torch.randint(0, CLASSES, (count, size[0] // 32, size[1] // 32), generator=generator)
    blocks[torch.rand(blocks.shape, generator=generator) < 0.1] = 255
    masks = blocks.repeat_interleave(32, 1).repeat_interleave(32, 2)
    return images.to(device), masks.to(device)


def plain_step(student: nn.Module, loss: nn.Module, images: Tensor, masks: Tensor, autocast: Callable) -> None:
    student.zero_grad()
    with autocast():
        value = loss(student(images), masks)
    value.backward()


def teacher_forward(teacher: nn.Module, images: Tensor, autocast: Callable) -> None:
    with torch.no_grad(), autocast():
        teacher(images)


def distilled_step(distiller: Distiller, images: Tensor, masks: Tensor, autocast: Callable, progress: float) -> None:
    distiller.zero_grad()
    with autocast():
        out = distiller(images, masks, progress=progress)
    out.loss.backward()


def parts(student: nn.Module, size: tuple[int, int], count: int, device: str, precision: str) -> dict[str, Callable]:
    """Return what is timed, by name."""
    autocast = partial(torch.autocast, device, torch.bfloat16, enabled=precision == "bf16")
    teacher = build_model("DeepLabV3Plus", "resnet50", CLASSES, auxiliary=True).to(device)
    loss = nn.CrossEntropyLoss(ignore_index=255)
    distiller = Distiller(
        student,
        teacher,
        {"icsd": Term(ICSD()), "kd": Term(PixelKD())},
        loss,
        pixel_weighting=RelativeDifficulty(),
    )
    images, masks = batch(size, count, device)
    return {
        "plain": partial(plain_step, student, loss, images, masks, autocast),
        "teacher": partial(teacher_forward, teacher, images, autocast),
        **{
            name: partial(distilled_step, distiller, images, masks, autocast, progress)
            for name, progress in STAGES.items()
        },
    }


def rows(args: argparse.Namespace) -> Iterable[str]:
    yield "| images | (a) student, ms | (b) teacher, ms | RDD | (c) distilled, ms | (c) / ((a) + (b)) |"
    yield "|---|---:|---:|---|---:|---:|"
    for size in args.size:
        torch.manual_seed(0)
        student = build_model("DeepLabV3Plus", "mobilenet_v2", CLASSES).to(args.device).train()
        functions = parts(student, size, args.batch, args.device, args.precision)
        taken = dict(
            zip(functions, times(list(functions.values()), args.device, args.repeats, args.seconds), strict=True)
        )
        for stage in STAGES:
            least, middle = (
                [figure(taken[name]) for name in ("plain", "teacher", stage)] for figure in (min, statistics.median)
            )
            plain, teacher, distilled = (f"{low:.1f} ({mid:.1f})" for low, mid in zip(least, middle, strict=True))
            ratio, of_medians = (c / (a + b) for a, b, c in (least, middle))
            yield (
                f"| {args.batch}x3x{size[0]}x{size[1]} | {plain} | {teacher} | {stage} | {distilled} "
                f"| {ratio:.3f} ({of_medians:.3f}) |"
            )


def height_and_width(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    if not (height.isdigit() and width.isdigit() and int(height) % 32 == int(width) % 32 == 0):
        raise argparse.ArgumentTypeError(f"expected HEIGHTxWIDTH in multiples of 32, got {text!r}")
    return int(height), int(width)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=["32", "bf16"], default="32", help="bf16 is autocast (default 32)")
    parser.add_argument(
        "--size",
        type=height_and_width,
        nargs="+",
        default=[(256, 512), (256, 256)],
        help="HEIGHTxWIDTH of the images, several for several rows (default 256x512 256x256)",
    )
    parser.add_argument("--batch", type=int, default=4, help="images a step (default 4)")
    parser.add_argument(
        "--threads", type=int, default=1, help="CPU threads (default 1); more are timed by the wall clock"
    )
    parser.add_argument("--repeats", type=int, default=20, help="runs of each part (default 20)")
    parser.add_argument(
        "--seconds", type=float, default=240, help="stop repeating a size after this long (default 240)"
    )
    parser.add_argument("--output", type=Path, help="also write the table to this file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    lines: list[str] = []

    def say(line: str) -> None:
        print(line, flush=True)
        lines.append(line)

    say(f"# One distilled step beside its parts, {'bfloat16 autocast' if args.precision == 'bf16' else 'float32'}\n")
    say(f"`{' '.join(['python benchmarks/step.py', *sys.argv[1:]])}`\n")
    say(machine(args.device, args.threads) + "\n")
    on_one_thread = args.device == "cpu" and args.threads == 1
    clock = "the thread's CPU time" if on_one_thread else "wall-clock time"
    say(
        f"DeepLabV3+, MobileNetV2 taught by ResNet-50, {CLASSES} classes, ICSD + PixelKD + RDD; no optimiser step. "
        f"The fastest of up to {args.repeats} runs and, in brackets, the median, of {clock}; all parts run in turn. "
        f"The ratio of the fastest runs is required to be at most {LIMIT:.2f}.\n"
    )
    for row in rows(args):
        say(row)
    if args.output is not None:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
