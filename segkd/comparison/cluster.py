"""Tasks on a Ray cluster: each runs where there is room for it, and is restarted elsewhere if its worker is lost.

A task does what its command would do in a second terminal in the same folder, so all machines need that folder under
one path. It uses the same locks and checkpoints, so a restarted task goes on where it stopped.
"""

import contextlib
import importlib.util
import logging
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from segkd import signals
from segkd.common.progress import say
from segkd.comparison.worker import Mail, done_there
from segkd.errors import SegkdError
from segkd.training.schema import Config

PATIENCE = 60.0
"""Seconds within which a cluster must answer."""
_GRACE = 300.0
"""Seconds to wait until a machine with what a task asks for comes back."""
_LOST = 20
"""When so many workers are lost with one task, it is left unfinished."""


@dataclass(frozen=True)
class RayTask:
    """The work of one worker.

    Attributes:
        title: what messages call it.
        config: its ``trainer`` block says which resources the task asks for.
        do: does the work, given a console whose lines are shown where the task came from.
        log: a file for all other output of its processes, in a folder that all machines have.
    """

    title: str
    config: Config
    do: Callable[[Console], Any]
    log: Path


@contextlib.contextmanager
def cluster(on: str | None, configs: Sequence[Config]) -> "Iterator[Cluster | None]":
    """Yield a connected cluster, or None; a connection made here ends with the ``with`` block.

    Args:
        on: ``ray``: a cluster of this machine alone; ``ray=ADDRESS``: one that is running; None: none.
        configs: what is to be trained there, for which there must be room.

    Raises:
        SegkdError: Ray is not installed, the cluster does not answer, or no machine of it has what a config asks for.
    """
    if on is None:
        yield None
        return
    kind, given, address = on.partition("=")
    if kind != "ray" or (given and not address):
        raise SegkdError(f"--on {on!r}: it is ray, a cluster of this machine alone, or ray=ADDRESS of one that runs")
    if importlib.util.find_spec("ray") is None:
        raise SegkdError('--on ray needs Ray: pip install "segkd[cluster]"')
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # on a cluster of this machine: the priority of a run without Ray
    import ray

    is_guest = ray.is_initialized()  # in a notebook that has connected already
    if not is_guest:
        options: dict[str, Any] = {"address": address}
        if address:
            _check_answers(address)
        else:  # nothing but short messages goes through its memory for objects
            _check_disk()
            options = {"address": "local", "include_dashboard": False, "object_store_memory": 100 * 2**20}
        try:
            with signals.held_back():
                ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:  # of many kinds
            raise SegkdError(f"--on {on}: Ray cannot be had: {' '.join(str(error).split())[:200]}") from error
        finally:
            signals.claim()
    try:
        found = Cluster(ray)
        if short := found.short_of(configs):
            raise SegkdError(short)
        yield found
    finally:
        if not is_guest:
            ray.shutdown()


def _check_disk() -> None:
    """Raise where the disk is so full that Ray would start nothing, and would say so only in its own log."""
    folder = os.environ.get("RAY_TMPDIR") or "/tmp"  # where Ray writes
    limit = float(os.environ.get("RAY_local_fs_capacity_threshold") or 0.95)  # noqa: SIM112 (Ray's)
    usage = shutil.disk_usage(folder)
    if (full := 1 - usage.free / usage.total) > limit:
        raise SegkdError(
            f"--on ray: the disk of {folder} is {full:.0%} full, and Ray begins nothing above {limit:.0%}: "
            "free some, or name a folder elsewhere in $RAY_TMPDIR"
        )


def _check_answers(address: str) -> None:
    """Raise unless a cluster answers; tried in another process, since Ray tries for minutes and then ends its own."""
    silent = f"--on ray={address}: the cluster does not answer"
    if found := re.fullmatch(r"(?:ray://)?([\w.-]+):(\d{1,5})", address):
        try:
            socket.create_connection((found[1], int(found[2])), PATIENCE).close()
        except (OSError, OverflowError) as error:
            raise SegkdError(f"{silent}: {getattr(error, 'strerror', None) or error}") from None
    code = "import sys, ray; ray.init(address=sys.argv[1])"
    try:
        done = subprocess.run([sys.executable, "-c", code, address], capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        raise SegkdError(f"{silent} within {PATIENCE:g} s") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise SegkdError(f"{silent}: {lines[-1]}")


class Cluster:
    """The machines of a Ray cluster; `cluster` connects to it.

    Args:
        ray: the module, connected.
    """

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        self._has_gpus = any("GPU" in machine for machine in self._machines())
        self._mail: Any = None

    def _machines(self) -> list[dict[str, float]]:
        return [node["Resources"] for node in self._ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]

    def asked(self, config: Config) -> dict[str, float]:
        """Return what a config's run asks for: ``GPU`` for each device that is one, ``CPU`` for each thread."""
        trainer = config.trainer
        text = str(trainer.devices)
        count = int(text) if text.isdigit() else len(list(filter(str.strip, text.split(","))))
        on_gpus = trainer.accelerator in ("gpu", "cuda") or (trainer.accelerator == "auto" and self._has_gpus)
        return {"CPU": count * (trainer.threads or 1), **({"GPU": count} if on_gpus else {})}

    def fits(self, config: Config) -> int:
        """Return how many tasks of a config there is room for at once."""
        asked = self.asked(config)
        return sum(min(int(machine.get(name, 0) // asked[name]) for name in asked) for machine in self._machines())

    def short_of(self, configs: Sequence[Config]) -> str:
        """Return, in one line, what a config asks for that no machine has; empty where there is room for each."""
        for config in configs:
            if not self.fits(config):
                there = list(dict.fromkeys(map(_said, self._machines())))
                return (
                    f"{config.name} asks for {_said(self.asked(config))} on one machine (trainer.threads, devices, "
                    f"accelerator), and the cluster's machines have {'; '.join(there[:5]) or 'nothing'}"
                )
        return ""

    @signals.held_back()  # an exception that a signal raises within a call of Ray would be turned into another
    def run(
        self, tasks: Sequence[RayTask], console: Console, is_over: Callable[[list[Any]], bool] = lambda results: False
    ) -> list[Any]:
        """Do all tasks, as many at once as there is room for, and return what they returned, as they ended.

        Args:
            tasks: in the order in which they are to begin.
            console: where the tasks' messages are shown.
            is_over: called about once a second with the results so far; if it returns true, tasks end as by Ctrl-C.

        Raises:
            SegkdError: what a task raised, or no machine has what one asks for any more; the others have ended then.
            Interrupted: by a signal; all have ended then.
        """
        if not tasks:
            return []
        from ray.exceptions import RayError, RayTaskError, TaskCancelledError

        self._begin(tasks, console)
        results, lost, waiting = list[Any](), Counter[Path](), dict[Any, RayTask]()
        is_ending, short_since = False, None

        def look() -> list[tuple[RayTask, Any]]:
            ready, _ = self._ray.wait(list(waiting), timeout=1)
            with contextlib.suppress(RayError):
                for line in self._ray.get(self._mail.take.remote()):
                    say(console, line)
            return [(waiting.pop(each), each) for each in ready]

        try:
            for task in tasks:
                waiting[self._submit(task)] = task
            while waiting:
                for task, each in look():
                    try:
                        results.append(self._ray.get(each))
                    except TaskCancelledError:
                        continue
                    except RayTaskError as error:
                        if not is_ending:
                            raise error.cause from None
                    except RayError as error:
                        lost[task.log] += 1
                        is_left = not is_ending and lost[task.log] < _LOST
                        how = "it goes on elsewhere" if is_left else "it is left unfinished"
                        say(console, f"{task.title}: its worker is lost ({type(error).__name__}), {how}")
                        if is_left:
                            waiting[self._submit(task)] = task
                is_ending = is_ending or signals.asked() is not None or is_over(results)
                if is_ending:
                    self._end(waiting)
                if short := self.short_of([task.config for task in waiting.values()]):
                    if short_since is None:
                        short_since = time.monotonic()
                        say(console, f"{short}: waiting {_GRACE / 60:g} minutes for one that has")
                    if time.monotonic() - short_since > _GRACE:
                        raise SegkdError(short)
                else:
                    short_since = None
        finally:
            while waiting:
                self._end(waiting)
                look()
        return results

    def _begin(self, tasks: Sequence[RayTask], console: Console) -> None:
        """Make what tasks need, and say once on which machines they run and where their logs are."""
        tasks[0].log.parent.mkdir(exist_ok=True)
        if self._mail is None:
            mail = self._ray.remote(Mail).options(num_cpus=0, max_restarts=-1, max_task_retries=-1)
            self._mail = mail.remote()
            there = Counter(map(_said, self._machines()))
            machines = "; ".join(f"{count} x {each}" if count > 1 else each for each, count in there.items())
            say(console, f"on Ray ({machines}); what is said there is in {tasks[0].log.parent}")

    def _submit(self, task: RayTask) -> Any:
        asked = self.asked(task.config)
        remote = self._ray.remote(done_there).options(
            num_cpus=asked["CPU"], num_gpus=asked.get("GPU", 0), max_retries=0, name=task.log.stem
        )
        settings = {name: value for name, value in os.environ.items() if name.startswith("SEGKD_")}
        return remote.remote(task.do, self._mail, len(self._machines()) > 1, task.log, os.getcwd(), settings)

    def _end(self, waiting: Mapping[Any, RayTask]) -> None:
        """Ask tasks to end; those that run finish a step first.

        It is called repeatedly: Ray sometimes loses a request to a task that is about to begin.
        """
        for each in waiting:
            self._ray.cancel(each)


def _said(resources: Mapping[str, float]) -> str:
    """Return resources as a person reads them: ``8 CPUs, 1 GPU``."""
    cpus, gpus = (resources.get(name, 0) for name in ("CPU", "GPU"))
    text = f"{cpus:g} CPU{'s' * (cpus != 1)}"
    return f"{text}, {gpus:g} GPU{'s' * (gpus != 1)}" if gpus else text
