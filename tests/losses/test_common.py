import torch
from losses.base import SHAPE, pair, some_labels

from segkd.losses._common import full_precision, masked_log_softmax, resize, resize_labels, soften, valid_pixels


def test_full_precision_widens_and_leaves_autocast() -> None:
    x = torch.ones(2, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16), full_precision(x.bfloat16(), x.half(), x.double()) as (a, b, c):
        assert (a.dtype, b.dtype, c.dtype) == (torch.float32, torch.float32, torch.float64)
        assert (a @ a).dtype == torch.float32


def test_masked_log_softmax_equals_the_softmax_of_the_kept_entries() -> None:
    x = pair(dtype=torch.float64)[1].flatten(2)
    valid = (some_labels() != 255).flatten(1)[:, None]
    log_p = masked_log_softmax(x, valid, dim=-1)
    for b in range(2):
        kept = valid[b, 0]
        torch.testing.assert_close(log_p[b][:, kept], x[b][:, kept].log_softmax(-1))
        assert not log_p[b][:, ~kept].any()


def test_masked_log_softmax_of_nothing_is_zero_and_passes_no_gradient() -> None:
    x = pair()[0]
    valid = torch.zeros(2, 1, 7, 9, dtype=torch.bool)
    log_p = masked_log_softmax(x, valid, dim=2)
    assert not log_p.any()
    (grad,) = torch.autograd.grad((log_p - 1).square().sum(), x)
    assert not grad.any()


def test_soften_divides_and_copies_only_when_it_must() -> None:
    x = torch.randn(3)
    assert soften(x, 1.0) is x
    assert torch.equal(soften(x, 2.0), x / 2)


def test_resize_leaves_the_right_size_alone() -> None:
    x = torch.randn(SHAPE)
    assert resize(x, (7, 9)) is x
    assert resize(x, (14, 18)).shape == (2, 5, 14, 18)


def test_resize_labels_takes_the_nearest_and_keeps_the_type() -> None:
    target = some_labels()
    for dtype in (torch.int64, torch.uint8, torch.int32):
        typed = target.to(dtype)
        assert resize_labels(typed, (7, 9)) is typed
        larger = resize_labels(typed, (14, 18))
        assert larger.dtype == dtype
        assert torch.equal(larger, typed.repeat_interleave(2, 1).repeat_interleave(2, 2))


def test_valid_pixels_needs_labels_and_an_index() -> None:
    x = torch.zeros(SHAPE)
    assert valid_pixels(None, 255, x) is None
    assert valid_pixels(some_labels(), None, x) is None
    assert torch.equal(valid_pixels(some_labels(), 255, x), some_labels() != 255)
