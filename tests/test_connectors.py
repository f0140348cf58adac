import pytest
import torch
from torch import nn

from segkd.connectors import MLP, Conv1x1, make_connector
from segkd.errors import SegkdError
from segkd.registry import things


def test_conv1x1_maps_to_the_teachers_channels_at_each_position() -> None:
    connector = make_connector("conv1x1", 5, 8)
    features = torch.randn(2, 5, 7, 9)
    mapped = connector(features)
    assert mapped.shape == (2, 8, 7, 9)
    (weight,) = connector.parameters()  # no bias
    torch.testing.assert_close(mapped[1, :, 3, 4], weight[:, :, 0, 0] @ features[1, :, 3, 4])


def test_every_name_makes_a_connector() -> None:
    for name in things("connector"):
        assert make_connector(name, 3, 4)(torch.zeros(1, 3, 2, 2)).shape == (1, 4, 2, 2)


def test_mlp_is_two_layers_at_each_position() -> None:
    connector = make_connector("mlp", 5, 8)
    features = torch.randn(2, 5, 7, 9)
    first, _, second = connector
    hidden = (first.weight[:, :, 0, 0] @ features[1, :, 3, 4] + first.bias).relu()
    torch.testing.assert_close(connector(features)[1, :, 3, 4], second.weight[:, :, 0, 0] @ hidden + second.bias)
    assert (first.out_channels, MLP(5, 8, hidden=3)[0].out_channels) == (8, 3)
    with pytest.raises(SegkdError, match="at least one hidden channel, got 0"):
        MLP(5, 8, hidden=0)


def test_weights_are_called_what_they_were() -> None:
    """So that a run of before goes on."""
    assert list(Conv1x1(2, 3).state_dict()) == ["weight"]


def test_a_function_is_called_with_both_numbers_of_channels() -> None:
    made = make_connector(lambda student, teacher: nn.Conv2d(student, teacher, 3, padding=1), 3, 4)
    assert made(torch.zeros(1, 3, 5, 5)).shape == (1, 4, 5, 5)
    with pytest.raises(SegkdError, match=r"makes a torch.nn.Module, got int"):
        make_connector(lambda student, teacher: student, 3, 4)
    with pytest.raises(SegkdError, match="cannot be made: ZeroDivisionError"):
        make_connector(lambda student, teacher: student / 0, 3, 4)


def test_a_module_is_used_as_it_is() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
    assert make_connector(module, 3, 4) is module


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(SegkdError, match=r"no connector 'conv1', did you mean 'conv1x1'\?"):
        make_connector("conv1", 3, 4)
