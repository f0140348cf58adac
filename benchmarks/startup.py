"""CPU seconds until the command line answers, beside those of ``import torch`` alone.

python benchmarks/startup.py --runs 5 --out benchmarks/results/startup.md

Each round runs the reference and then a command, so that what else the machine does falls on both; the first round,
which may read from the disk, is left out. User and system time of the process and its children count, as one thread
would need them: waiting does not.
"""

import argparse
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

REFERENCE = [sys.executable, "-c", "import torch"]
COMMANDS = [
    # what is typed, exit status, the most CPU seconds that it may take
    ("--help", 0, 0.5),
    ("train --help", 0, 0.5),
    ("--version", 0, 0.5),
    ("configs", 0, 2.0),
    ("methods", 0, 2.0),
    ("train quickstrat", 2, 2.0),
    ("train quickstart trainer.max_step=1", 2, 2.0),
    ("train quickstart data.dataset=streats", 2, 2.0),
    ("train camvid_icsd distill.terms.icsd.temprature=2", 2, 2.0),
    ("compare quickstart_plain quickstart trainer.max_step=1", 2, 2.0),
    ("eval quickstart trainer.max_step=1", 2, 2.0),
    ("data check quickstart trainer.max_step=1", 2, 2.0),
]


def cpu_seconds(command: list[str], status: int) -> float:
    """Run a command, which must end with this status, and return the CPU time that it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == status, f"{command} ended with {done.returncode}: {done.stderr}"
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="rounds that count")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/startup.md"), help="the table")
    arguments = parser.parse_args()
    lines = [
        "# Start-up",
        "",
        f"CPU seconds (user and system) of one process, median and largest of {arguments.runs} rounds, by "
        "`python benchmarks/startup.py`; the reference, `python -c 'import torch'`, in turn with each command.",
        "",
        f"Python {platform.python_version()}, torch {version('torch')}, {platform.system()} {platform.machine()}, "
        f"{os.cpu_count()} cores.",
        "",
        "| `segkd ...` | median | largest | at most | import torch, median |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    within = True
    for typed, status, limit in COMMANDS:
        command = [sys.executable, "-m", "segkd", *typed.split()]
        rounds = [(cpu_seconds(REFERENCE, 0), cpu_seconds(command, status)) for _ in range(arguments.runs + 1)][1:]
        reference, own = ([pair[side] for pair in rounds] for side in (0, 1))
        within &= statistics.median(own) <= limit
        figures = (statistics.median(own), max(own), limit, statistics.median(reference))
        lines.append(f"| `{typed}` | {' | '.join(f'{figure:.2f}' for figure in figures)} |")
        print(lines[-1], flush=True)
    arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    sys.exit(0 if within else "a command takes more than it may")


if __name__ == "__main__":
    main()
