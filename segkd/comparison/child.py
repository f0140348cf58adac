"""The command line in a process that ends with the one that started it, however that ends: a comparison's runs.

Run as a program, ``python -m segkd.comparison.child train CONFIG``, its standard input a pipe that nobody writes to. A
run that outlived its comparison would be in the way of the next.
"""

import os
import runpy
import threading


def end_with_parent() -> None:
    """Leave this process when the other end of standard input closes, as it does when the parent is killed."""
    threading.Thread(target=_wait, daemon=True).start()


def _wait() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)  # all that a run writes is moved into place when it is whole


if __name__ == "__main__":
    end_with_parent()
    runpy.run_module("segkd.cli", run_name="__main__")
