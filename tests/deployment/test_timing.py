import time

import pytest
import torch

from segkd.deployment.timing import interleaved, torch_threads


def test_each_round_goes_through_all_models_and_each_warms_up_first():
    order: list[tuple[str, int]] = []
    calls = [lambda value, name=name: order.append((name, value)) for name in "ab"]
    assert len(interleaved(calls, [1, 2])) == 2
    assert order == [("a", 1), ("a", 1), ("b", 1), ("b", 1), ("a", 2), ("a", 2), ("b", 2), ("b", 2)]


def test_the_median_of_each_model():
    slow, fast = interleaved([time.sleep, lambda seconds: None], [0.01, 0.02, 0.2])
    assert 0.02 <= slow < 0.15
    assert fast < 0.01


def test_no_gradients_are_kept():
    enabled: list[bool] = []
    interleaved([lambda value: enabled.append(torch.is_grad_enabled())], [0])
    assert enabled == [False, False]


def test_threads_are_set_and_given_back():
    before = torch.get_num_threads()
    with torch_threads(before + 1) as count:
        assert count == torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    with torch_threads(None) as count:
        assert count == torch.get_num_threads() == before
    with pytest.raises(ZeroDivisionError), torch_threads(before + 1):
        _ = 1 / 0
    assert torch.get_num_threads() == before
