"""What a worker of a Ray cluster does for a task, and how its messages come back."""

import io
import os
import signal
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from segkd.errors import Interrupted, SegkdError
from segkd.signals import interruptible


class Mail:
    """Lines that workers have sent and nobody has taken yet."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def add(self, line: str) -> None:
        """Add a line."""
        self._lines.append(line)

    def take(self) -> list[str]:
        """Return all lines, and forget them."""
        taken, self._lines = self._lines, []
        return taken


class _Sender(io.StringIO):
    """Where a worker's console writes.

    It does not wait for a line to arrive: Ray would give the CPU of a task that waits to another.
    """

    def __init__(self, mail: Any, name: str) -> None:
        super().__init__()
        self.mail, self.name, self.last = mail, name, list[Any]()

    def write(self, text: str) -> int:
        self.last = [self.mail.add.remote(f"{self.name}{text.rstrip()}")]
        return len(text)

    def wait(self) -> None:
        import ray

        if self.last:
            ray.wait(self.last, timeout=10)


def done_there(
    do: Callable[[Console], Any], mail: Any, is_named: bool, log: Path, folder: str, settings: Mapping[str, str]
) -> Any:
    """Do a task's work in the worker, in the folder that the task came from, and return what it returns."""
    for name, value in settings.items():
        os.environ.setdefault(name, value)  # a machine's own settings, such as where its data lie, take precedence
    # What a shell starts in the background, Ray's workers too, ignores Ctrl-C: a task could never be asked to end.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    host = socket.gethostname()
    try:
        os.chdir(folder)
        file = log.open("ab", buffering=0)
    except OSError as error:
        raise SegkdError(
            f"{host}: {error.filename}: {error.strerror}: all machines of a cluster need this folder, a shared one, "
            "under one path"
        ) from None
    sender, kept = _Sender(mail, f"{host}: " if is_named else ""), [os.dup(1), os.dup(2)]
    with file:
        try:
            for number in (1, 2):
                os.dup2(file.fileno(), number)
            with interruptible(is_repeated=True):  # the end that Ray asks for is like Ctrl-C
                return do(Console(file=sender, width=1000))
        except Interrupted:
            return None
        finally:
            for number, copy in zip((1, 2), kept, strict=True):
                os.dup2(copy, number)
                os.close(copy)
            sender.wait()
