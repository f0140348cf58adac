import pytest
import torch
from torch import nn

from segkd.connectors import NAMES, make_connector
from segkd.errors import SegkdError


def test_conv1x1_maps_to_the_teachers_channels_at_each_position() -> None:
    connector = make_connector("conv1x1", 5, 8)
    features = torch.randn(2, 5, 7, 9)
    mapped = connector(features)
    assert mapped.shape == (2, 8, 7, 9)
    (weight,) = connector.parameters()  # no bias
    torch.testing.assert_close(mapped[1, :, 3, 4], weight[:, :, 0, 0] @ features[1, :, 3, 4])


def test_every_name_makes_a_connector() -> None:
    for name in NAMES:
        assert make_connector(name, 3, 4)(torch.zeros(1, 3, 2, 2)).shape == (1, 4, 2, 2)


def test_a_module_is_used_as_it_is() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
    assert make_connector(module, 3, 4) is module


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(SegkdError, match=r"no connector 'conv1', did you mean 'conv1x1'\?"):
        make_connector("conv1", 3, 4)
