"""Time and peak memory of every loss, forward and backward, beside the method's formula in plain torch.

    python benchmarks/losses.py --output benchmarks/results/losses.md

Every method that can be named has its rows, one for each kind of place that it says it reads (places.py). Where the
package's code is not the formula as one would write it down from the paper, that stands in a file of plain/ and runs in
turn with it in one process; medians count. On the CPU one thread is used unless told otherwise, and its CPU time is
read, which is what the wall clock shows on an idle core. Peak memory is what one forward and backward adds to what the
inputs take, gradients included: on the CPU the growth of the process's peak resident memory, each formulation in a
fresh process (Linux), on CUDA the allocator's peak.
"""

import argparse
import importlib
import itertools
import math
import multiprocessing
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import places
import torch
import torch.nn.functional as F
from measuring import MIB, added_memory, machine, times
from torch import Tensor

from segkd.registry import thing, things

Shape = tuple[int, ...]

SMALL = 4
"""What divides the sides of the inputs that a formulation sees before its memory is measured."""
STREETS: Shape = (4, 19, 129, 129)
MANY_CLASSES: Shape = (2, 150, 129, 129)
FULL_SIZE: Shape = (8, 11, 240, 320)
AREAS: list[Shape] = [(4, 11, 60, 80), (4, 11, 120, 160), (4, 11, 240, 320), (4, 11, 480, 640)]
GROWTH: list[Shape] = [STREETS, (4, 19, 258, 129), MANY_CLASSES, (1, 1000, 65, 65), (1, 3000, 20, 20)]


class Case(NamedTuple):
    """A method on one kind of place."""

    name: str
    kind: str = "logits"
    shape: Shape | None = None
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def label(self) -> str:
        options = "".join(f", {key}: {value}" for key, value in self.options)
        return f"`{self.name}`{options}"


class Bench(NamedTuple):
    """How all is measured."""

    device: str = "cpu"
    threads: int = 1
    repeats: int = 40
    seconds: float = 8
    shrink: int = 1

    def times(self, functions: Sequence[Callable[[], object]]) -> list[list[float]]:
        return times(functions, self.device, self.repeats, self.seconds)

    def medians(self, functions: Sequence[Callable[[], object]]) -> list[float]:
        return [median(taken) for taken in self.times(functions)]


class Formulations(NamedTuple):
    """Steps of forward and backward, which return the loss; ``plain`` is None where our code is the formula."""

    shape: str
    ours: Callable[[], Tensor]
    plain: Callable[[], Tensor] | None


SOME = [Case("icsd"), Case("icsd", options=(("variant", "released"),)), *map(Case, ("pixel_kd", "cwd"))]
SOME.append(Case("pkd", "features"))
MORE_SHAPES = [
    *(case._replace(shape=STREETS) for case in SOME),
    Case("icsd", shape=MANY_CLASSES),
    *(case._replace(shape=FULL_SIZE) for case in SOME if not case.options),
]


def every_method(names: Sequence[str] = ()) -> list[Case]:
    """Return each method with each of its kinds of place; of logits first, then of features, then of detectors."""
    kinds = {name: places.kinds(thing("loss", name)) for name in names or things("loss")}
    order = list(places.PLACES)
    return sorted((Case(name, kind) for name in kinds for kind in kinds[name]), key=lambda case: order.index(case.kind))


def plain_of(name: str) -> Any:
    """Return the file with a method's plain formula, None without."""
    file = Path(__file__).parent / "plain" / f"{name}.py"
    return importlib.import_module(f"plain.{name}") if file.is_file() else None


def plain_beside(name: str, loss: Any) -> Any:
    """Return the plain formula of a loss, called alike; None without."""
    file = plain_of(name)
    if file is None:
        return None
    each = isinstance(loss, places.EachLevel)
    return places.EachLevel(partial(file.plain, loss.loss)) if each else partial(file.plain, loss)


def formulations(case: Case, bench: Bench) -> Formulations:
    method, options = thing("loss", case.name), dict(case.options)
    loss, given = places.prepared(method, case.kind, bench.device, bench.shrink, case.shape, **options)
    changed = [*given.leaves, *loss.parameters()]

    def step(value_of: Callable[..., Tensor]) -> Tensor:
        for tensor in changed:
            tensor.grad = None
        value = value_of(*given.arguments)
        value.backward(retain_graph=given.step is not None)  # logits that depend on images are made once
        return value.detach()

    plain = plain_beside(case.name, loss)
    return Formulations(given.shape, partial(step, loss), None if plain is None else partial(step, plain))


class Measured(NamedTuple):
    shape: str
    memory: float
    """MiB that one forward and backward needs at its peak beyond the inputs."""
    milliseconds: float


def measured(case: Case, is_plain: bool, bench: Bench) -> Measured:
    torch.set_num_threads(bench.threads)
    first = formulations(case._replace(shape=None), bench._replace(shrink=max(SMALL, bench.shrink)))
    first[1 + is_plain]()  # loads the libraries and starts the threads
    del first
    found = formulations(case, bench)
    call, taken = found[1 + is_plain], []
    memory = added_memory(lambda: taken.extend(bench._replace(seconds=0).times([call])), bench.device)
    if taken[0][0] < bench.seconds * 1e3:
        taken = bench.times([call])
    return Measured(found.shape, memory, median(taken[0]))


def in_fresh_process(case: Case, is_plain: bool, bench: Bench) -> Measured:
    # Of a server that has imported the package and run nothing.
    context = multiprocessing.get_context("spawn" if bench.device == "cuda" else "forkserver")
    context.set_forkserver_preload(["segkd.detection.models", "segkd.losses"])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(measured, case, is_plain, bench).result()


def beside_plain(cases: Sequence[Case], bench: Bench) -> Iterable[str]:
    yield "| method | on | ms | MiB | plain, ms | plain, MiB | times plain |"
    yield "|---|---|---:|---:|---:|---:|---:|"
    for case in cases:
        yield f"| {' | '.join(row(case, bench))} |"


def row(case: Case, bench: Bench) -> list[str]:
    """Return the cells of a row; the plain ones are of a smaller shape where the plain formula says so."""
    file = plain_of(case.name)
    ours = in_fresh_process(case, False, bench)
    cells = [case.label, ours.shape, f"{ours.milliseconds:.1f}", f"{ours.memory:.0f}"]
    if file is None:
        return [*cells, "-", "-", "-"]
    smaller = bench._replace(shrink=bench.shrink * getattr(file, "SHRINK", 1))
    shape, *calls = formulations(case, smaller)
    taken = bench.times(calls)
    ratio = median(a / b for a, b in zip(*taken, strict=True))
    where = "" if smaller == bench else f" at {shape}"
    memory = in_fresh_process(case, True, smaller._replace(seconds=0)).memory
    return [*cells, f"{median(taken[1]):.1f}{where}", f"{memory:.0f}", f"{ratio:.2f}"]


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


def against_its_parts(bench: Bench) -> Iterable[str]:
    yield "| shape | ICSD, ms | 4 operations forward, ms | ratio | 4 operations forward and backward, ms | ratio |"
    yield "|---|---:|---:|---:|---:|---:|"
    for shape in (STREETS, MANY_CLASSES, FULL_SIZE):
        found = formulations(Case("icsd", shape=shape), bench)
        pair = places.Maker(bench.device).pair(*shape)
        calls = [found.ours, partial(parts_forward, *pair), partial(parts_and_backward, *pair)]
        icsd, forward, both = bench.medians(calls)
        yield f"| {found.shape} | {icsd:.2f} | {forward:.2f} | {icsd / forward:.2f} | {both:.2f} | {icsd / both:.2f} |"


def growth(bench: Bench) -> Iterable[str]:
    yield "| shape | peak, MiB | B * (C*h*w + C*C) floats, MiB | ratio |"
    yield "|---|---:|---:|---:|"
    for batch, classes, height, width in GROWTH:
        case = Case("icsd", shape=(batch, classes, height, width))
        peak = in_fresh_process(case, False, bench._replace(seconds=0)).memory
        unit = batch * (classes * height * width + classes * classes) * 4 / MIB
        yield f"| {batch}x{classes}x{height}x{width} | {peak:.0f} | {unit:.1f} | {peak / unit:.1f} |"


def over_area(bench: Bench) -> Iterable[str]:
    yield "| method | " + " | ".join(f"{'x'.join(map(str, shape))}, ms" for shape in AREAS) + " | slope |"
    yield "|---|" + "---:|" * (len(AREAS) + 1)
    for case in SOME:
        taken = bench.medians([formulations(case._replace(shape=shape), bench).ours for shape in AREAS])
        slope = math.log(taken[-1] / taken[0]) / math.log(AREAS[-1][2] * AREAS[-1][3] / (AREAS[0][2] * AREAS[0][3]))
        yield f"| {case.label} | " + " | ".join(f"{each:.2f}" for each in taken) + f" | {slope:.2f} |"


EACH_METHOD = (
    "Each method; peak memory beyond the inputs. Where there is a -, the package's code is the plain formula. A plain "
    "formula that needs more memory than there is runs, as ours then does beside it, on the shape that is named"
)


def sections(bench: Bench) -> dict[str, Iterable[str]]:
    return {
        EACH_METHOD: beside_plain(every_method(), bench),
        "Some on more shapes": beside_plain(MORE_SHAPES, bench),
        "ICSD, forward and backward, beside the two softmaxes and two matrix products it consists of; the backward of "
        "these four operations goes through the student's half, as ICSD's does": against_its_parts(bench),
        "ICSD's peak memory: a bounded ratio means that it grows with C*h*w + C*C, never with C*C*h*w": growth(bench),
        "Time over the area of the map; a slope of 1 on logarithmic scales is in proportion": over_area(bench),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument(
        "--threads", type=int, default=1, help="CPU threads (default 1); more are timed by the wall clock"
    )
    parser.add_argument("--repeats", type=int, default=40, help="runs of each formulation (default 40)")
    parser.add_argument("--seconds", type=float, default=8, help="stop repeating a case after this long (default 8)")
    parser.add_argument("--shrink", type=int, default=1, help="divide sides and channels of the inputs (default 1)")
    parser.add_argument(
        "--methods", nargs="+", metavar="NAME", help="the rows of these alone, which replace those in --output"
    )
    parser.add_argument("--output", type=Path, help="also write the tables to this file")
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    bench = Bench(args.device, args.threads, args.repeats, args.seconds, args.shrink)
    command = f"`python benchmarks/losses.py {' '.join(arguments or sys.argv[1:])}`"
    page = args.output.read_text() if args.methods and args.output and args.output.exists() else ""
    tables = {EACH_METHOD: beside_plain(every_method(args.methods), bench)} if args.methods else sections(bench)
    found = [f"# Losses: time and memory, forward and backward, float32\n\n{command}\n\n"]
    found.append(f"{machine(args.device, args.threads)}\n")
    print(*found, sep="", end="", flush=True)
    for title, rows in tables.items():
        for line in itertools.chain([f"\n{title}:\n"], rows):
            print(line, flush=True)
            found.append(f"{line}\n")
            if args.output is not None:  # what is there is kept where it is stopped
                args.output.parent.mkdir(parents=True, exist_ok=True)
                args.output.write_text(with_rows(page, command, found[5:]) if page else "".join(found))


def with_rows(page: str, command: str, rows: Sequence[str]) -> str:
    """Return a page of before with these rows of its first table anew, and what made them."""
    lines = page.splitlines(keepends=True)
    for row in rows:
        same = [i for i, line in enumerate(lines) if line.split(" | ")[:2] == row.split(" | ")[:2]]
        end = next(i for i, line in enumerate(lines) if line.startswith("|---")) + 1
        place = same[0] if same else end
        lines[place : place + bool(same)] = [row]
    head = itertools.takewhile(lambda line: not line.startswith("|---"), lines)
    commands = [i for i, line in enumerate(head) if line.startswith(("`python", "Then, of some rows"))]
    lines.insert(commands[-1] + 1, f"\nThen, of some rows: {command}\n")
    return "".join(lines)


if __name__ == "__main__":
    main()
