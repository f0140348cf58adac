"""The command line in a process that ends when its parent does, even if that is killed: for a comparison's runs.

Run as a program, ``python -m segkd.comparison.child train CONFIG``, with a pipe as standard input. A byte on the pipe
asks the run to finish its step and end; the byte `QUIETLY` also drops what it writes to standard error. A run that
outlived its comparison would be in the way of the next.
"""

import os
import runpy
import signal
import threading

from segkd import signals

QUIETLY = b"q"


def end_with_parent() -> None:
    """End this process when the other end of standard input closes, as it does when the parent is killed."""
    for name in ("SIGINT", "SIGHUP"):  # the terminal sends them to the parent too, which passes them on
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    threading.Thread(target=_wait, daemon=True).start()


def _wait() -> None:
    while byte := os.read(0, 1):
        if byte == QUIETLY:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        if signals.asked() is None:  # else a signal to all processes has come here already, and a second would kill
            os.kill(os.getpid(), signal.SIGTERM)
    os._exit(1)  # all that a run writes is moved into place when it is whole


if __name__ == "__main__":
    end_with_parent()
    runpy.run_module("segkd.cli", run_name="__main__")
