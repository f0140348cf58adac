import copy
import pickle

import pytest
import torch
from torch import nn

from segkd.errors import SegkdError
from segkd.taps import Taps


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
        self.head = nn.Conv2d(4, 4, 1)
        self.same_head = self.head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.encoder(x)
        return self.head(self.head(x))


@pytest.fixture
def net() -> Net:
    return Net()


IMAGE = torch.randn(1, 3, 5, 5, generator=torch.Generator().manual_seed(0))


def test_captures_the_output_with_its_graph(net: Net) -> None:
    taps = Taps(net, ["encoder.0"])
    with taps.recording() as found:
        net(IMAGE)
    (output,) = found["encoder.0"]
    torch.testing.assert_close(output, net.encoder[0](IMAGE), rtol=0, atol=0)
    output.sum().backward()
    assert net.encoder[0].weight.grad is not None


def test_a_module_that_runs_twice_has_both_outputs_in_order(net: Net) -> None:
    taps = Taps(net, ["head", "encoder"])
    with taps.recording() as found:
        net(IMAGE)
    first, second = found["head"]
    torch.testing.assert_close(second, net.head(first), rtol=0, atol=0)
    assert len(found["encoder"]) == 1


def test_what_runs_outside_adds_nothing(net: Net) -> None:
    taps = Taps(net, ["head"])
    net(IMAGE)
    with taps.recording() as found:
        net(IMAGE)
    net.head(torch.zeros(1, 4, 2, 2))
    assert len(found["head"]) == 2


def test_each_recording_starts_anew_and_nothing_is_kept(net: Net) -> None:
    taps = Taps(net, ["encoder"])
    for scale in (1, 2):
        with taps.recording() as found:
            net(IMAGE * scale)
    (output,) = found["encoder"]
    torch.testing.assert_close(output, net.encoder(IMAGE * 2), rtol=0, atol=0)
    assert not taps.found


def test_an_error_in_the_model_ends_the_recording(net: Net) -> None:
    taps = Taps(net, ["encoder"])
    with pytest.raises(RuntimeError), taps.recording():
        net(torch.zeros(1, 7, 5, 5))
    net(IMAGE)
    assert not taps.found


def test_the_model_gives_the_same_and_keeps_its_names(net: Net) -> None:
    before, keys = net(IMAGE), list(net.state_dict())
    taps = Taps(net, ["encoder", "head"])
    with taps.recording():
        torch.testing.assert_close(net(IMAGE), before, rtol=0, atol=0)
    assert list(net.state_dict()) == keys


def test_remove_takes_the_hooks_off(net: Net) -> None:
    taps = Taps(net, ["encoder", "encoder.0"])
    assert net.encoder._forward_hooks
    taps.remove()
    assert not any(module._forward_hooks for module in net.modules())


def test_two_taps_on_one_model_do_not_mix(net: Net) -> None:
    one, other = Taps(net, ["encoder"]), Taps(net, ["encoder"])
    with one.recording() as found:
        net(IMAGE)
    assert len(found["encoder"]) == 1
    assert not other.found


def test_a_tapped_model_can_be_copied_and_pickled(net: Net) -> None:
    taps = Taps(net, ["encoder"])
    with taps.recording():
        net(IMAGE)
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        torch.testing.assert_close(twin(IMAGE), net(IMAGE))


def test_a_shared_module_has_every_name(net: Net) -> None:
    taps = Taps(net, ["head", "same_head"])
    with taps.recording() as found:
        net(IMAGE)
    assert len(found["head"]) == len(found["same_head"]) == 2


def test_a_compiled_model_is_read_through(net: Net) -> None:
    compiled = torch.compile(net, backend="eager")
    taps = Taps(compiled, ["encoder.0"])
    for scale in (1, 2):
        with taps.recording() as found:
            compiled(IMAGE * scale)
        (output,) = found["encoder.0"]
        torch.testing.assert_close(output, net.encoder[0](IMAGE * scale), rtol=0, atol=0)
        compiled(IMAGE)
        assert len(found["encoder.0"]) == 1


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("encoder.00", "did you mean 'encoder.0'"),
        ("heads", "did you mean 'head'"),
        ("", "valid: encoder"),
        ("encoder.final_normalisation", "valid: encoder.0, encoder.1"),
    ],
)
def test_a_path_that_names_no_module_is_an_error(net: Net, path: str, hint: str) -> None:
    with pytest.raises(SegkdError, match=f"the student has no module '{path}'") as error:
        Taps(net, ["head", path], owner="student")
    assert hint in str(error.value)
    assert "\n" not in str(error.value)
    assert not any(module._forward_hooks for module in net.modules())
