"""Filling the stores of a config's teachers on a cluster."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from segkd.common.progress import say
from segkd.comparison.cluster import RayTask, cluster
from segkd.comparison.work import last_line, run_command
from segkd.errors import SegkdError
from segkd.signals import interruptible
from segkd.store.filling import BLOCK
from segkd.training.schema import Config


def fill_on(on: str, config: Config, arguments: Sequence[str], root: Path, console: Console) -> None:
    """Run ``segkd store`` with these arguments on a cluster, in as many tasks as there is room and work for.

    Their output goes to ``logs`` in `root`, the folder of the stores.

    Raises:
        SegkdError: one of the tasks failed; or see `cluster`.
    """
    settings = config.trainer
    blocks = -(-settings.max_steps * settings.accumulate * config.data.batch_size // BLOCK)
    with interruptible("the same command goes on where this stopped"), cluster(on, [config]) as there:
        assert there is not None
        root.mkdir(parents=True, exist_ok=True)
        count, tasks = min(there.fits(config), blocks), []
        for number in range(1, count + 1):
            title, log = f"filling {number} of {count}, {config.name}", root / "logs" / f"{config.name}_{number}.log"
            tasks.append(RayTask(title, config, partial(_fill, title, list(arguments), log), log))
        there.run(tasks, console)


def _fill(title: str, arguments: Sequence[str], log: Path, console: Console) -> None:
    say(console, f"{title}, begins")
    is_filled = run_command(["store", *arguments])
    last = last_line(log.read_text(errors="replace"))
    if not is_filled:
        raise SegkdError(last)
    say(console, f"{title}, is done: {last}")
