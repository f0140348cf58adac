"""What other jobs on a machine cost: seconds of a training step of quickstart_teacher beside 0, 1 and 2 of them.

python benchmarks/busy.py --rounds 3 --out benchmarks/results/busy.md

Each other job is a Python loop that keeps one core busy. Each round goes through all numbers of jobs, first as `segkd`
waits by itself, then as PyTorch does where nobody says otherwise (OMP_WAIT_POLICY=ACTIVE: its threads spin), where one
run may take minutes.
"""

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

PYTHON = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
POLICIES = {"passive, as segkd": {}, "active": {"OMP_WAIT_POLICY": "ACTIVE"}}
STEPS = 50


@contextlib.contextmanager
def busy(jobs: int) -> Iterator[None]:
    """Keep so many cores busy."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(jobs)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def seconds_per_step(folder: Path, steps: int, environment: dict[str, str]) -> float:
    """Train the quickstart's teacher for some steps; loading, validation and checkpoints are not counted."""
    with tempfile.TemporaryDirectory(dir=folder) as runs:
        changes = [f"trainer.max_steps={steps}", f"runs={runs}", f"data.root={folder / 'streets'}"]
        command = [sys.executable, "-m", "segkd", "train", "quickstart_teacher", "validation.pictures=0", *changes]
        subprocess.run(command, cwd=folder, check=True, capture_output=True, env={**PYTHON, **environment})
        result = json.loads((Path(runs) / "quickstart_teacher" / "result.json").read_text(encoding="utf-8"))
    return float(result["seconds"]) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--policies", nargs="+", choices=POLICIES, default=list(POLICIES))
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/busy.md"), help="the table")
    arguments = parser.parse_args()
    for name in ("OMP_WAIT_POLICY", "OMP_NUM_THREADS"):
        PYTHON.pop(name, None)
    measured: dict[tuple[str, int], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        seconds_per_step(Path(folder), 1, {})  # draws the scenes
        for _ in range(arguments.rounds):
            for policy in arguments.policies:
                for jobs in arguments.jobs:
                    with busy(jobs):
                        took = seconds_per_step(Path(folder), arguments.steps, POLICIES[policy])
                    measured.setdefault((policy, jobs), []).append(took)
                    print(f"{policy}, {jobs} other jobs: {took:.3f} s a step", flush=True)
    lines = [
        "# Beside other jobs",
        "",
        f"Seconds of a training step of `quickstart_teacher` (median of {arguments.rounds} rounds of {arguments.steps} "
        "steps, and all of them) beside jobs that keep a core busy each, by `python benchmarks/busy.py`.",
        "",
        f"Python {platform.python_version()}, torch {version('torch')}, {platform.system()} {platform.machine()}, "
        f"{os.cpu_count()} cores, the default number of threads.",
        "",
        "| threads wait | other jobs | seconds a step | to none | rounds |",
        "| --- | ---: | ---: | ---: | --- |",
    ]
    for (policy, jobs), seconds in measured.items():
        middle = statistics.median(seconds)
        factor = middle / statistics.median(measured[policy, arguments.jobs[0]])
        rounds = ", ".join(f"{each:.3f}" for each in seconds)
        lines.append(f"| {policy} | {jobs} | {middle:.3f} | {factor:.2f} | {rounds} |")
    arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
