"""Time and peak memory of each loss, forward and backward, beside the plainest way to write it down.

    python benchmarks/losses.py --output benchmarks/results/losses.md

Both formulations run in turn in one process, and the fastest run of each counts: other work on the machine can only add
to a time. On the CPU one thread is used unless told otherwise, and its CPU time is read, which is what the wall clock
shows on an idle core. Peak memory is what one forward and backward adds to what the inputs take: on the CPU the growth
of the process's peak resident memory, each formulation in a fresh process (Linux), on CUDA the allocator's peak.
"""

import argparse
import gc
import math
import multiprocessing
import platform
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from segkd.losses import CWD, ICSD, PKD, PixelKD

Loss = Callable[[Tensor, Tensor], Tensor]
Shape = tuple[int, int, int, int]

MIB = 2**20
WARM_UP = 2
"""Rounds that are not counted, unless one takes so long that there are few."""
STREETS: Shape = (4, 19, 129, 129)
MANY_CLASSES: Shape = (2, 150, 129, 129)
FULL_SIZE: Shape = (8, 11, 240, 320)
CAMVID: Shape = (4, 11, 240, 320)


def plain_icsd(student: Tensor, teacher: Tensor) -> Tensor:
    """The definition: a KL divergence for each pair of classes of each image."""

    def divergences(logits: Tensor) -> Tensor:
        found = []
        for image in logits.flatten(2).unbind(0):
            p, log_p = F.softmax(image, -1).unbind(0), F.log_softmax(image, -1).unbind(0)
            found += [F.kl_div(log_q, p_i, reduction="sum") for p_i in p for log_q in log_p]
        return torch.stack(found)

    return (divergences(student) - divergences(teacher)).square().mean()


def plain_icsd_released(student: Tensor, teacher: Tensor) -> Tensor:
    """The authors' construction, pair by pair."""

    def matrix(logits: Tensor) -> Tensor:
        p = F.softmax(logits, 2).unbind(1)
        rows = [[((p_j * p_j.log()).sum() - (p_i * p_j).sum()) / logits.shape[0] for p_j in p] for p_i in p]
        upper = torch.stack([torch.stack(row) for row in rows]).triu()
        return F.normalize(upper + upper.triu(1).T, dim=1)

    return (matrix(student) - matrix(teacher)).square().mean() / student.shape[0]


def plain_pixel_kd(student: Tensor, teacher: Tensor) -> Tensor:
    p_s, p_t = F.softmax(student, 1), F.softmax(teacher, 1)
    return (p_t * (p_t.log() - p_s.log())).sum(1).mean()


def plain_cwd(student: Tensor, teacher: Tensor) -> Tensor:
    """A divergence for each channel of each image."""
    batch, channels = student.shape[:2]
    total = torch.zeros((), device=student.device)
    for s_image, t_image in zip(student.flatten(2).unbind(0), teacher.flatten(2).unbind(0), strict=True):
        for s, t in zip(s_image.unbind(0), t_image.unbind(0), strict=True):
            p_s, p_t = F.softmax(s / 4, 0), F.softmax(t / 4, 0)
            total = total + (p_t * (p_t.log() - p_s.log())).sum()
    return total * 16 / (batch * channels)


def plain_pkd(student: Tensor, teacher: Tensor) -> Tensor:
    def standardized(x: Tensor) -> Tensor:
        return (x - x.mean((0, 2, 3), keepdim=True)) / (x.std((0, 2, 3), keepdim=True) + 1e-6)

    return 0.5 * F.mse_loss(standardized(student), standardized(teacher))


FORMULATIONS: dict[str, tuple[Loss, Loss]] = {
    "ICSD": (plain_icsd, ICSD()),
    "ICSD, released variant": (plain_icsd_released, ICSD(variant="released")),
    "PixelKD": (plain_pixel_kd, PixelKD()),
    "CWD": (plain_cwd, CWD()),
    "PKD": (plain_pkd, PKD()),
}
CASES: list[tuple[str, Shape]] = [
    *((name, STREETS) for name in FORMULATIONS),
    ("ICSD", MANY_CLASSES),
    ("ICSD", FULL_SIZE),
    *((name, FULL_SIZE) for name in ("PixelKD", "CWD", "PKD")),
    *((name, CAMVID) for name in ("CWD", "PKD")),
]
AREAS: list[Shape] = [(4, 11, 60, 80), (4, 11, 120, 160), (4, 11, 240, 320), (4, 11, 480, 640)]
GROWTH: list[Shape] = [STREETS, (4, 19, 258, 129), MANY_CLASSES, (1, 1000, 65, 65), (1, 3000, 20, 20)]


def inputs(shape: Shape, device: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(shape, generator=generator).to(device) for _ in range(2))
    return student.requires_grad_(), teacher


def step(loss: Loss, student: Tensor, teacher: Tensor) -> None:
    student.grad = None
    loss(student, teacher).backward()


def times(functions: Sequence[Callable[[], object]], device: str, repeats: int, seconds: float) -> list[list[float]]:
    """Return the milliseconds of each function, run in turn ``repeats`` times or, if that is less, so many seconds."""
    taken: list[list[float]] = [[] for _ in functions]
    begin = time.perf_counter()
    clock = time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    for _ in range(repeats + WARM_UP):
        for function, list_ in zip(functions, taken, strict=True):
            start = clock()
            function()
            if device == "cuda":
                torch.cuda.synchronize()
            list_.append((clock() - start) * 1e3)
        if time.perf_counter() - begin > seconds:
            break
    return [list_[WARM_UP if len(list_) > 2 * WARM_UP else 0 :] for list_ in taken]


def peak_memory(name: str, plain: bool, shape: Shape, device: str, threads: int) -> float:
    """Return the MiB that one forward and backward needs at its peak beyond the inputs."""
    torch.set_num_threads(threads)
    loss = FORMULATIONS[name][0 if plain else 1]
    step(loss, *inputs((1, 3, 8, 8), device))  # loads the libraries and starts the threads
    student, teacher = inputs(shape, device)
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(loss, student, teacher)
        return (torch.cuda.max_memory_allocated() - before) / MIB
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to what is resident now
    before = _peak_resident()
    step(loss, student, teacher)
    return (_peak_resident() - before) / MIB


def _peak_resident() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise SystemExit("peak memory on the CPU is read from /proc/self/status, which this system does not have")


def in_fresh_process(name: str, plain: bool, shape: Shape, device: str, threads: int) -> float:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(peak_memory, name, plain, shape, device, threads).result()


def parts(student: Tensor, teacher: Tensor) -> list[Tensor]:
    """The two softmaxes and the two matrix products that ICSD consists of."""
    products = []
    for logits in (student, teacher):
        z = logits.flatten(2)
        products.append(F.softmax(z, -1) @ z.transpose(1, 2))
    return products


def parts_forward(student: Tensor, teacher: Tensor) -> None:
    with torch.no_grad():
        parts(student, teacher)


def parts_and_backward(student: Tensor, teacher: Tensor) -> None:
    student.grad = None
    product = parts(student, teacher)[0]
    product.backward(torch.ones_like(product))


def side_by_side(device: str, threads: int, repeats: int, seconds: float) -> Iterable[str]:
    yield "| loss | shape | plain, ms | segkd, ms | faster | plain, MiB | segkd, MiB | one map, MiB |"
    yield "|---|---|---:|---:|---:|---:|---:|---:|"
    for name, shape in CASES:
        student, teacher = inputs(shape, device)
        calls = [partial(step, loss, student, teacher) for loss in FORMULATIONS[name]]
        plain, ours = (min(taken) for taken in times(calls, device, repeats, seconds))
        plain_mib, our_mib = (in_fresh_process(name, is_plain, shape, device, threads) for is_plain in (True, False))
        one_map = student.numel() * 4 / MIB
        yield (
            f"| {name} | {'x'.join(map(str, shape))} | {plain:.1f} | {ours:.1f} | {plain / ours:.1f}x "
            f"| {plain_mib:.0f} | {our_mib:.0f} | {one_map:.1f} |"
        )


def against_its_parts(device: str, repeats: int, seconds: float) -> Iterable[str]:
    yield "| shape | ICSD, ms | 4 operations forward, ms | ratio | 4 operations forward and backward, ms | ratio |"
    yield "|---|---:|---:|---:|---:|---:|"
    for shape in (STREETS, MANY_CLASSES, FULL_SIZE):
        student, teacher = inputs(shape, device)
        calls = [
            partial(step, ICSD(), student, teacher),
            partial(parts_forward, student, teacher),
            partial(parts_and_backward, student, teacher),
        ]
        icsd, forward, both = (min(taken) for taken in times(calls, device, repeats, seconds))
        yield (
            f"| {'x'.join(map(str, shape))} | {icsd:.2f} | {forward:.2f} | {icsd / forward:.2f} | {both:.2f} "
            f"| {icsd / both:.2f} |"
        )


def growth(device: str, threads: int) -> Iterable[str]:
    yield "| shape | peak, MiB | B * (C*h*w + C*C) floats, MiB | ratio |"
    yield "|---|---:|---:|---:|"
    for batch, classes, height, width in GROWTH:
        peak = in_fresh_process("ICSD", False, (batch, classes, height, width), device, threads)
        unit = batch * (classes * height * width + classes * classes) * 4 / MIB
        yield f"| {batch}x{classes}x{height}x{width} | {peak:.0f} | {unit:.1f} | {peak / unit:.1f} |"


def over_area(device: str, repeats: int, seconds: float) -> Iterable[str]:
    yield "| loss | " + " | ".join(f"{'x'.join(map(str, shape))}, ms" for shape in AREAS) + " | slope |"
    yield "|---|" + "---:|" * (len(AREAS) + 1)
    for name, (_, loss) in FORMULATIONS.items():
        calls = [partial(step, loss, *inputs(shape, device)) for shape in AREAS]
        taken = [min(each) for each in times(calls, device, repeats, seconds)]
        slope = math.log(taken[-1] / taken[0]) / math.log(AREAS[-1][2] * AREAS[-1][3] / (AREAS[0][2] * AREAS[0][3]))
        yield f"| {name} | " + " | ".join(f"{each:.2f}" for each in taken) + f" | {slope:.2f} |"


def machine(device: str, threads: int) -> str:
    if device == "cuda":
        chip = torch.cuda.get_device_name()
    else:
        cpuinfo = Path("/proc/cpuinfo")
        lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
        models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        chip = f"{models[0] if models else platform.processor()}, {threads} thread{'s' if threads > 1 else ''}"
    return f"{chip}; torch {torch.__version__}, Python {platform.python_version()}, {platform.system()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument(
        "--threads", type=int, default=1, help="CPU threads (default 1); more are timed by the wall clock"
    )
    parser.add_argument("--repeats", type=int, default=40, help="runs of each formulation (default 40)")
    parser.add_argument("--seconds", type=float, default=8, help="stop repeating a case after this long (default 8)")
    parser.add_argument("--output", type=Path, help="also write the tables to this file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    sections: list[tuple[str, Iterable[str]]] = [
        (
            "Each loss beside the plainest formulation (fastest run; peak memory beyond the inputs)",
            side_by_side(args.device, args.threads, args.repeats, args.seconds),
        ),
        (
            "ICSD, forward and backward, beside the two softmaxes and two matrix products it consists of (fastest "
            "run); the backward of these four operations goes through the student's half, as ICSD's does",
            against_its_parts(args.device, args.repeats, args.seconds),
        ),
        (
            "ICSD's peak memory: a bounded ratio means that it grows with C*h*w + C*C, never with C*C*h*w",
            growth(args.device, args.threads),
        ),
        (
            "Time over the area of the map; a slope of 1 on logarithmic scales is in proportion",
            over_area(args.device, args.repeats, args.seconds),
        ),
    ]
    lines: list[str] = []

    def say(line: str) -> None:
        print(line, flush=True)
        lines.append(line)

    say("# Losses: time and memory, forward and backward, float32\n")
    say(f"`python benchmarks/losses.py {' '.join(sys.argv[1:])}`".replace(" `", "`") + "\n")
    say(machine(args.device, args.threads) + "\n")
    for title, rows in sections:
        say(f"{title}:\n")
        for row in rows:
            say(row)
        say("")
    if args.output is not None:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text("\n".join(lines).rstrip("\n") + "\n")


if __name__ == "__main__":
    main()
