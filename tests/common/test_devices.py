import pytest
import torch

from segkd.common.devices import devices, find_device
from segkd.errors import SegkdError


def test_the_cpu_is_always_there_and_last():
    assert devices()[-1] == "cpu"
    assert find_device("cpu") == torch.device("cpu")


def test_auto_is_the_first():
    assert str(find_device()) == str(find_device("auto")) == devices()[0]


@pytest.mark.parametrize("name", ["cuda", "cuda:1", "gpu"])
def test_several_gpus(name: str, monkeypatch: pytest.MonkeyPatch):
    """What this machine says of itself is replaced: it may have none."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert devices()[:2] == ["cuda:0", "cuda:1"]
    assert find_device(name).type == "cuda"
    assert find_device("auto") == torch.device("cuda:0")
    with pytest.raises(SegkdError, match=r"--device 'cuda:2': there is no such device here; there are: cuda:0, cuda:1"):
        find_device("cuda:2")


def test_apples_gpu(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert find_device("auto") == find_device("gpu") == find_device("mps") == torch.device("mps")


@pytest.mark.parametrize("name", ["cuda", "mps", "gpu", "cpu:1", "gpuu", ""])
def test_none_names_those_that_are_there(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(SegkdError, match=f"trainer.accelerator '{name}': .* there are: cpu; or auto"):
        find_device(name, "trainer.accelerator")
