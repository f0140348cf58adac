"""A step whose teacher is stored, beside the plain student's step and one whose teacher runs.

    python benchmarks/store.py --output benchmarks/results/store.md

(a) is the plain student's forward, loss and backward; (b) the same distilled with ICSD and KD from a teacher that runs;
(c) from one whose outputs are read from files and upsampled; (d) likewise at native size, where nothing is upsampled;
(e) as (d), with shares in place of weights, in a step that measures the gradients for them. One step in 50 does, so
that of a run balance takes (e - d) / (50 d). No optimiser step; random weights and images; the five run in turn, timed
as in losses.py: the fastest run of each counts, on the CPU by the CPU time of the one thread.
"""

import argparse
import dataclasses
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from measuring import machine, times
from torch import Tensor, nn

from segkd import Distiller, Term
from segkd.balance import EVERY
from segkd.losses import ICSD, PixelKD
from segkd.models.smp import build_model
from segkd.step import View
from segkd.store.filling import of_image
from segkd.store.store import Store
from segkd.teachers import Stored
from segkd.term import Size

CLASSES, BATCH, SIZE = 11, 4, (240, 320)
STUDENTS: dict[str, tuple[str, str, dict[str, int]]] = {
    "DeepLabV3+ MobileNetV2": ("DeepLabV3Plus", "mobilenet_v2", {}),
    "PSPNet MobileNetV2": ("PSPNet", "mobilenet_v2", {"psp_out_channels": 128}),
}
TEACHERS: dict[str, tuple[str, str, dict[str, int]]] = {
    "DeepLabV3+ EfficientNet-lite2": ("DeepLabV3Plus", "tu-tf_efficientnet_lite2", {}),
    "DeepLabV3+ ResNet-101": ("DeepLabV3Plus", "resnet101", {}),
}
CASES = [("DeepLabV3+ MobileNetV2", "DeepLabV3+ EfficientNet-lite2")] + [
    ("PSPNet MobileNetV2", name) for name in TEACHERS
]


def build(named: tuple[str, str, dict[str, int]]) -> nn.Module:
    arch, encoder, options = named
    return build_model(arch, encoder, CLASSES, options=options)


def step(student: nn.Module, loss: Callable[[], Tensor], device: str, precision: str) -> None:
    student.zero_grad()
    with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
        value = loss()
    value.backward()


def distilled(distiller: Distiller, images: Tensor, masks: Tensor, views: list[View], is_measured: bool) -> Tensor:
    """Return the loss; gradients are measured where that is wanted, and in no other step."""
    if is_measured:  # as if so many steps had been taken
        assert distiller.balance is not None
        distiller.balance.reuse = True  # as in training
        distiller.balance.load_state_dict({**distiller.balance.state_dict(), "seen": torch.tensor(2 * EVERY)})
    return distiller(images, masks, views=views).loss


def row(student_name: str, teacher_name: str, folder: Path, args: argparse.Namespace) -> str:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(BATCH, 3, *SIZE, generator=generator).to(args.device)
    masks = torch.randint(0, CLASSES, (BATCH, *SIZE), generator=generator).to(args.device)
    student, teacher = (build(named).to(args.device) for named in (STUDENTS[student_name], TEACHERS[teacher_name]))
    loss, views = nn.CrossEntropyLoss(), [(0, index) for index in range(BATCH)]
    losses: list[Callable[[], Tensor]] = [lambda: loss(student(images), masks)]
    cases: list[tuple[Size, bool, bool]] = [
        ("teacher", False, False),
        ("teacher", True, False),
        ("native", True, False),
        ("native", True, True),
    ]
    for size, is_stored, is_balanced in cases:
        kd, icsd = Term(PixelKD(), size=size), Term(ICSD(), weight=0.02, size=size)
        if is_balanced:
            kd, icsd = (dataclasses.replace(term, weight=1.0, share=1.0) for term in (kd, icsd))
        distiller = Distiller(student, Stored(teacher) if is_stored else teacher, {"icsd": icsd, "kd": kd}, loss)
        if is_stored:
            stored = distiller.teachers["teacher"]
            assert isinstance(stored, Stored)
            store = Store(folder / f"{student_name} {teacher_name} {len(losses)}")
            with torch.autocast(args.device, torch.bfloat16, enabled=args.precision == "bf16"):
                kept = stored.keep(images, distiller.reads["teacher"])
            for view in views:
                store.write(view, {place: of_image(value, view[1]) for place, value in kept.items()})
            stored.entries = store
        losses.append(partial(distilled, distiller, images, masks, views, is_balanced))
    calls = [partial(step, student, each, args.device, args.precision) for each in losses]
    best = [min(each) for each in times(calls, args.device, args.repeats, args.seconds)]
    ratios = " | ".join(f"{each:.1f} | {each / best[0]:.2f}" for each in best[1:])
    of_a_run = (best[4] - best[3]) / (EVERY * best[3])
    return f"| {student_name} | {teacher_name} | {best[0]:.1f} | {ratios} | {of_a_run:.1%} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--repeats", type=int, default=20, help="runs of each part (default 20)")
    parser.add_argument("--seconds", type=float, default=60, help="stop repeating a row after this long (default 60)")
    parser.add_argument("--output", type=Path, help="also write the table to this file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    lines = [
        "# A stored teacher beside one that runs",
        f"`python benchmarks/store.py {' '.join(sys.argv[1:])}`".replace(" `", "`"),
        machine(args.device, 1),
        f"ICSD and KD, {BATCH}x3x{SIZE[0]}x{SIZE[1]} images, {args.precision}, no optimiser step. Milliseconds, on the "
        "CPU of the thread's own time: the fastest run of each, and its ratio to the plain step.",
        "| student | teacher | (a) plain | (b) running | ratio | (c) stored | ratio | (d) stored, native | ratio "
        "| (e) measuring shares | ratio | balance, of a run |\n"
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    print("\n\n".join(lines), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            lines[-1] += "\n" + row(*case, Path(folder), args)
            print(lines[-1].rsplit("\n", 1)[-1], flush=True)
    if args.output is not None:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text("\n\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
