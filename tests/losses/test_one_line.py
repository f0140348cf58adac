"""What does not fit a loss is told in one line, with what was expected."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from losses.base import pair, some_labels

from segkd.detection.methods.fgd import FGD
from segkd.errors import SegkdError
from segkd.losses import BPKD, CAMKD, DKD, ICKD, MGD, CIRKDMemory, GroupedKD, MaskD, Pairwise, PixelKD

STUDENT, TEACHER = (x.detach() for x in pair())


def maskd(tokens: int) -> MaskD:
    loss = MaskD(tokens=tokens)
    loss.prepare(STUDENT, TEACHER)
    return loss


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (lambda: ICKD(grid=4), "ICKD: grid must be 2 values, each a whole number, got 4"),
        (lambda: ICKD(grid=[4]), r"ICKD: grid must be 2 values, each a whole number, got \[4\]"),
        (lambda: MGD(mask_ratio="a"), "MGD: mask_ratio must be a number, got 'a'"),
        (lambda: MGD(strides=8), "MGD: strides must be a list, each a whole number or None, got 8"),
        (lambda: FGD(strides="8"), "FGD: strides must be a list, each a whole number or None, got '8'"),
        (lambda: CIRKDMemory(classes="a"), "CIRKDMemory: classes must be a whole number, got 'a'"),
        (lambda: Pairwise(pool=2.5), "Pairwise: pool must be a whole number, got 2.5"),
        (lambda: PixelKD(ignore_index=2.5), "PixelKD: ignore_index must be a whole number or None, got 2.5"),
        (lambda: PixelKD(standardize="yes"), "PixelKD: standardize must be true or false, got 'yes'"),
        (lambda: BPKD(edge_weight=-1), "bpkd's edge_weight must be at least 0, got -1"),
        (lambda: CAMKD()(STUDENT, [], some_labels()), "camkd takes the logits of one teacher or more, got an empty"),
        *(
            (
                lambda loss=loss: loss(STUDENT, TEACHER, some_labels().float()),
                "labels must be whole numbers, .* torch.float32",
            )
            for loss in (DKD(), GroupedKD(), PixelKD(ignore_index=255), CAMKD())
        ),
        (lambda: maskd(8)(STUDENT.requires_grad_(), TEACHER, some_labels().float()), "labels must be whole numbers"),
        (
            lambda: torch.nn.ModuleDict({"kd": maskd(8)}).load_state_dict({"kd.vectors": torch.zeros(4, 5)}),
            r"MaskD: kd.vectors is \(8, 5\), and what is restored \(4, 5\): restore it with the options",
        ),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(given: Callable[[], Any], says: str) -> None:
    with pytest.raises(SegkdError, match=says) as error:
        given()
    assert "\n" not in str(error.value)


def test_whole_numbers_do_for_numbers_and_lists_for_pairs() -> None:
    assert MGD(mask_ratio=0).mask_ratio == 0
    assert ICKD(grid=[2, 3]).grid == (2, 3)
    assert MGD(strides=[8, 16]).strides == [8, 16]
