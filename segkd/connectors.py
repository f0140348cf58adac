"""Adapters between student and teacher features whose channels differ."""

from torch import nn

from segkd.errors import SegkdError, nearest

NAMES = ("conv1x1",)


def make_connector(connector: str | nn.Module, student_channels: int, teacher_channels: int) -> nn.Module:
    """Return the module that maps student features to the teacher's channels.

    Args:
        connector: ``"conv1x1"`` (1x1 convolution without bias), or a module of one's own.
        student_channels: channels of the student's features.
        teacher_channels: channels that come out.

    Raises:
        SegkdError: the name does not exist.
    """
    if isinstance(connector, nn.Module):
        return connector
    if connector == "conv1x1":
        return nn.Conv2d(student_channels, teacher_channels, kernel_size=1, bias=False)
    raise SegkdError(f"there is no connector {connector!r}, {nearest(connector, NAMES)}; or give a torch.nn.Module")
