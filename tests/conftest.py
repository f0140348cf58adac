import signal
from collections.abc import Iterator

import pytest
import torch

# On tensors this small a second thread is nothing but waiting, and on a busy machine it is minutes of it.
torch.set_num_threads(1)


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
