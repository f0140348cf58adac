import _thread
import os
import signal
import time
from pathlib import Path

from rich.console import Console

from segkd.comparison.worker import done_there


def test_a_task_of_what_was_started_in_the_background_can_be_asked_to_end(tmp_path: Path) -> None:
    """A shell's ``&`` has Ctrl-C ignored, and Ray's workers inherit that."""
    reached = []

    def do(console: Console) -> int:
        _thread.interrupt_main()  # as Ray asks
        time.sleep(0.1)
        reached.append("the end")
        return 7

    before, folder = signal.signal(signal.SIGINT, signal.SIG_IGN), Path.cwd()
    try:
        assert done_there(do, None, False, tmp_path / "task.log", str(tmp_path), {}) is None
    finally:
        signal.signal(signal.SIGINT, before)
        os.chdir(folder)
    assert not reached
