import os
import signal
import sys
from collections.abc import Iterator

import pytest
import torch

from segkd import registry

# On tensors this small a second thread is nothing but waiting, and on a busy machine it is minutes of it.
torch.set_num_threads(1)
# Processes that tests start, and libraries that have a pool of their own, keep to it beside the other worker.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="passive")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """The whole suite runs in a process a core, four at most; files or tests that are named run in this one."""
    return 0 if config.args_source is pytest.Config.ArgsSource.ARGS else min(os.cpu_count() or 1, 4)


@pytest.fixture(autouse=True)
def _signals_do_something() -> Iterator[None]:
    """A run of the tests in the background, or under nohup, ignores signals that tests send."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.getsignal(number) for number in usual}
    for number, handler in usual.items():
        if before[number] is signal.SIG_IGN:
            signal.signal(number, handler)
    yield
    for number, handler in before.items():
        if handler is not None:  # None: set by other than Python
            signal.signal(number, handler)


@pytest.fixture(autouse=True)
def _no_group_of_processes_is_left() -> Iterator[None]:
    """A training in several processes is started in one of its own: its group would break every test that follows."""
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
        pytest.fail("this process is left in a group with others: start the command with experiments.start")


@pytest.fixture(autouse=True)
def _own_modules_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leave neither the modules that a test's config named nor the folders that they were found in."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(registry, "_folders", [])
    before = {*sys.modules}
    yield
    for name in {*sys.modules} - before:
        if "/pytest-of-" in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
