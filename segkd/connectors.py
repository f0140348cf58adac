"""Modules that map a student's features to the teacher's channels: trained with the student, but no part of it."""

from collections.abc import Callable

from torch import nn

from segkd import registry
from segkd.errors import SegkdError, nearest

Connector = str | nn.Module | Callable[[int, int], nn.Module]
"""A name, a module, or a function that makes one from the student's and the teacher's number of channels."""


class Conv1x1(nn.Conv2d):
    """A 1x1 convolution without bias, from the student's number of channels to the teacher's."""

    name = "conv1x1"
    title = "1x1 convolution without bias"

    def __init__(self, student_channels: int, teacher_channels: int) -> None:
        super().__init__(student_channels, teacher_channels, kernel_size=1, bias=False)


class MLP(nn.Sequential):
    """Two 1x1 convolutions with a ReLU between: a perceptron of two layers at each position, without normalisation.

    Args:
        student_channels: channels of the student's features.
        teacher_channels: channels that come out.
        hidden: channels between the two; None for the teacher's.

    Raises:
        SegkdError: hidden is less than 1.
    """

    name = "mlp"
    title = "1x1 convolution, ReLU, 1x1 convolution"

    def __init__(self, student_channels: int, teacher_channels: int, hidden: int | None = None) -> None:
        hidden = teacher_channels if hidden is None else hidden
        if hidden < 1:
            raise SegkdError(f"mlp has at least one hidden channel, got {hidden}")
        super().__init__(
            nn.Conv2d(student_channels, hidden, kernel_size=1),
            nn.ReLU(),
            nn.Conv2d(hidden, teacher_channels, kernel_size=1),
        )


def make_connector(connector: Connector, student_channels: int, teacher_channels: int) -> nn.Module:
    """Return the module that maps student features to the teacher's channels, see `Connector`.

    Raises:
        SegkdError: the name does not exist, or the function returns no module or raises an error.
    """
    if isinstance(connector, nn.Module):
        return connector
    if isinstance(connector, str):
        known = registry.things("connector")
        if connector not in known:
            raise SegkdError(f"there is no connector {connector!r}, {nearest(connector, known)}; or give a module")
        connector = known[connector].load()
    assert not isinstance(connector, str)
    try:
        made = connector(student_channels, teacher_channels)
    except SegkdError:
        raise
    except Exception as error:  # of the user's code
        raise SegkdError(f"the connector cannot be made: {registry.said(error)}") from error
    if not isinstance(made, nn.Module):
        raise SegkdError(f"a connector makes a torch.nn.Module, got {type(made).__name__}")
    return made
