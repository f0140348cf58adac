"""Doing the runs of a comparison: each in its own process, none twice, however many processes share the directory."""

import contextlib
import json
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from filelock import AcquireReturnProxy, FileLock, Timeout
from rich.console import Console

from segkd.common.files import write_text
from segkd.common.progress import say
from segkd.comparison.child import QUIETLY
from segkd.comparison.cluster import Cluster, RayTask
from segkd.comparison.plan import Budget, Job
from segkd.errors import Interrupted, SegkdError
from segkd.training.config import dump_config
from segkd.training.results import measures_of
from segkd.training.schema import Config

MARKER = "comparison.json"
"""The file that holds the budget, and marks its folder as a comparison's."""


def read_agreed(file: Path) -> dict[str, Any]:
    """Return what a ``comparison.json`` says, nothing where there is none; a SegkdError if it is something else."""
    if not file.is_file():
        return {}
    try:
        content: Any = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SegkdError(f"{file} cannot be read: {error}") from None
    if not isinstance(content, dict) or not {"budget", "runs"} & set(content):
        raise SegkdError(f"{file} was not written by 'segkd compare': choose another --out")
    return content


class Workplace:
    """A comparison's directory, which is made if absent: its runs, ``comparison.json`` with the budget, the report.

    No other files may lie there, since a report could overwrite them: the file ``marker`` shows that the directory is a
    comparison's; ``way_out`` says what to do where it is none.
    """

    def __init__(self, directory: Path, marker: str = MARKER, way_out: str = "choose another --out") -> None:
        self.directory = directory
        self.file = directory / marker
        self._locks = directory / ".locks"
        if directory.exists() and not directory.is_dir():
            raise SegkdError(f"{directory} is a file: {way_out}")
        # Listed before looking for the marker, which another process may be making: that is its first file here.
        there = sorted(directory.iterdir()) if directory.is_dir() else []
        other = [path.name for path in there if path != self._locks and not (path / "config.yaml").is_file()]
        if other and not self.file.exists():
            raise SegkdError(f"{directory} holds other files ({', '.join(other[:3])}): {way_out}")
        try:
            self._locks.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SegkdError(f"{directory} cannot be written: {error.strerror}") from None

    def lock(self, name: str) -> FileLock:
        """Return a lock that is released when the process that holds it ends, even if it is killed."""
        return FileLock(self._locks / f"{name}.lock")

    def acquired(self, name: str, console: Console, what: str) -> AcquireReturnProxy:
        """Take a lock; where another process has it, say ``what`` that one does, and wait for it."""
        lock = self.lock(name)
        with contextlib.suppress(Timeout):
            return lock.acquire(timeout=0)
        say(console, f"another process {what}: waiting for it")
        return lock.acquire()

    def mark(self) -> str:
        """Return an identifier of this folder, the same seen from any machine; the caller holds a lock."""
        file = self._locks / "mark"
        if not file.is_file():
            write_text(file, uuid.uuid4().hex)
        return file.read_text(encoding="utf-8")

    def agreed(self) -> dict[str, Any]:
        """Return what ``comparison.json`` says, or nothing before the first."""
        return read_agreed(self.file)

    def agree(self, content: dict[str, Any]) -> None:
        """Write ``comparison.json``."""
        # The scratch file lies elsewhere: left beside this one, it would count as another file.
        write_text(self.file, json.dumps(content, indent=2) + "\n", scratch=self._locks / self.file.name)

    def log(self, name: str) -> Path:
        """Return the log of a run that another machine trains."""
        return self.directory / "logs" / f"{name}.log"

    def written(self, config: Config) -> Path:
        """Write a config to a file for a process of its own, and return its path."""
        # Alone in its folder: a teacher that a shipped config names is looked for beside the config that names it.
        path = self._locks / config.name / "config.yaml"
        path.parent.mkdir(exist_ok=True)
        write_text(path, dump_config(config))
        return path


def agree_on_steps(
    place: Workplace,
    methods: Sequence[Config],
    budget: Budget,
    steps: dict[str, int] | None,
    command: str,
    console: Console,
    cluster: Cluster | None = None,
) -> dict[str, int]:
    """Return how many steps each method trains; every process that shares the directory gets the same answer.

    A budget of minutes, for which `matched_steps` returned None, becomes steps by timing some steps of each method
    here or on a cluster, once; so runs stay repeatable, and schedules keep counting steps. The command is for the
    report.
    """
    with place.lock("budget"):
        agreed = place.agreed()
        if agreed.get("budget", str(budget)) != str(budget):
            raise SegkdError(
                f"{place.directory} holds a comparison with the budget {agreed['budget']}, not {budget}: choose "
                "another --out"
            )
        if steps is not None:
            steps_of_all = {**agreed.get("steps", {}), **steps}
            place.agree({**agreed, "command": command, "budget": str(budget), "steps": steps_of_all})
            return steps
        seconds: dict[str, float] = dict(agreed.get("seconds_per_step", {}))
        for config in methods:
            if config.name not in seconds:
                say(console, f"{config.name}: a few steps are timed")
                seconds[config.name] = _timed(place, config, console, cluster)
        dearest = max(config.trainer.max_steps * seconds[config.name] for config in methods)
        total = agreed.get("seconds") or (dearest if budget.amount is None else 60 * budget.amount)
        # What was agreed before stands: its runs may be there.
        counts = {name: max(round(total / each), 1) for name, each in seconds.items()} | agreed.get("steps", {})
        agreed = {"budget": str(budget), "seconds": total, "seconds_per_step": seconds, "steps": counts}
        place.agree({"command": command, **agreed})
    return {config.name: counts[config.name] for config in methods}


def _timed(place: Workplace, config: Config, console: Console, cluster: Cluster | None = None) -> float:
    if cluster is not None:
        task = RayTask(config.name, config, partial(_timed, place, config), place.log(config.name))
        return float(cluster.run([task], console)[0])
    return float(run_timing(place, config))


def run_timing(place: Workplace, config: Config, *asked: str, console: Console | None = None) -> str:
    """Run `segkd.comparison.timing` of a config in a process of its own, and return the last line that it printed.

    With a console all that it prints is shown there instead, and the result is empty.
    """
    shown = subprocess.PIPE if console is None else subprocess.DEVNULL if console.quiet else None
    command = [sys.executable, "-m", "segkd.comparison.timing", str(place.written(config)), *asked]
    done = subprocess.run(command, stdout=shown, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        why = last_line(done.stderr) or f"exit status {done.returncode}"
        raise SegkdError(f"{config.name} cannot be timed: {why}")
    return done.stdout.splitlines()[-1] if done.stdout else ""


def last_line(text: str) -> str:
    """Return the last line of a ``segkd`` process's output: if it failed, the reason."""
    return "".join(text.strip().splitlines()[-1:]).removeprefix("segkd: ")


def train_teachers(place: Workplace, teachers: Sequence[Job], console: Console, cluster: Cluster | None = None) -> None:
    """Train the teachers that are not finished, here or on a cluster; where another process trains one, wait for it."""
    for job in teachers:
        if cluster is not None:
            if _spread(cluster, place, [job], [f"the teacher {job.config.name}"], console):
                raise SegkdError(
                    f"the teacher {job.config.name} could not be trained: see {place.log(job.config.name)}"
                )
            continue
        with place.acquired(job.config.name, console, f"trains the teacher {job.config.name}"):
            if not job.run.finished and not run_job(place, job, console):
                raise SegkdError(f"the teacher {job.config.name} could not be trained: see above")


def train_jobs(
    place: Workplace,
    jobs: Sequence[Job],
    console: Console,
    cluster: Cluster | None = None,
    titles: Sequence[str] = (),
) -> list[Job]:
    """Train what is not finished, and return what failed: each is tried once, here or on a cluster.

    A run that another process trains is waited for, and taken over if that process ends before the run is finished.
    ``titles`` are what messages call the jobs.
    """
    titles = titles or [f"run {number} of {len(jobs)}, {job.config.name}" for number, job in enumerate(jobs, 1)]
    if cluster is not None:
        return _spread(cluster, place, jobs, titles, console)
    failed: list[Job] = []
    left, word = list(zip(titles, jobs, strict=True)), ""
    while left:
        elsewhere = []
        for title, job in left:
            try:
                with place.lock(job.config.name).acquire(timeout=0):
                    if job.run.finished:
                        continue
                    does = word or ("goes on" if job.run.config_file.is_file() else "begins")
                    say(console, f"{title}, {does}")
                    if not run_job(place, job, console):
                        failed.append(job)
            except Timeout:
                elsewhere.append((title, job))
        if elsewhere and not word:
            names = ", ".join(job.config.name for _, job in elsewhere)
            say(console, f"waiting for runs that other processes train: {names}")
        left, word = elsewhere, "is taken over: the process that had it left it unfinished"
        if left:
            time.sleep(0.5)
    return failed


def _spread(
    cluster: Cluster, place: Workplace, jobs: Sequence[Job], titles: Sequence[str], console: Console
) -> list[Job]:
    """Train on a cluster what is not finished, as many at once as there is room for, and return what failed."""
    left = [(job, title) for job, title in zip(jobs, titles, strict=True) if not job.run.finished]
    tasks = [
        RayTask(title, job.config, partial(_train_there, place, job, title), place.log(job.config.name))
        for job, title in left
    ]
    cluster.run(tasks, console)
    return [job for job, _ in left if not job.run.finished]


def _train_there(place: Workplace, job: Job, title: str, console: Console) -> None:
    if train_jobs(place, [job], console, titles=[title]):
        log = place.log(job.config.name)
        say(console, f"{title}, failed: {last_line(log.read_text(errors='replace'))} ({log})")
        return
    result = job.run.result()
    score = measures_of(result)[0]
    say(console, f"{title}, is done: {score.label} {score.shown(result['student'][score.key])}")


def run_job(place: Workplace, job: Job, console: Console, stop: Callable[[], bool] = lambda: False) -> bool:
    """Run ``segkd train``, which prints messages and errors itself and ends with this process; return if it succeeded.

    On a signal the run finishes its step and ends, and `Interrupted` is raised. When ``stop``, called twice a second,
    returns true, the run ends likewise, but silently.
    """
    if job.run.config_file.is_file():
        # What a killed process had started takes a moment to end, data workers some seconds.
        waiting = f"{job.config.name}: another process still trains it: waiting for it"
        with job.run.locked(lambda: say(console, waiting)):
            if job.run.finished:
                return True
        arguments = ["--resume", str(job.run.directory)]
    else:
        arguments = [str(place.written(job.config))]
    return run_command(["train", *arguments], console.quiet, stop)


def run_command(arguments: Sequence[str], quiet: bool = False, stop: Callable[[], bool] = lambda: False) -> bool:
    """Run a command of ``segkd`` in a process that ends with this one, see `run_job`; return if it succeeded."""
    with subprocess.Popen(
        [sys.executable, "-m", "segkd.comparison.child", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL if quiet else None,
    ) as child:

        def end(how: bytes) -> None:
            assert child.stdin is not None
            with contextlib.suppress(OSError):  # it has ended meanwhile
                child.stdin.write(how)
                child.stdin.flush()

        try:
            while child.poll() is None:
                if stop():
                    end(QUIETLY)
                    break
                # In short waits: Python sees Ray's request to end a task only between two calls.
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(timeout=0.5)
            return child.wait() == 0
        except Interrupted:
            end(b"x")
            child.wait()
            raise
