"""Losses that compare all levels of an FPN at once."""

from typing import Any

import pytest
import torch
from detection.detectors import batch, detector, distil

from segkd import Term
from segkd.errors import SegkdError
from segkd.losses import MGD

IMAGES, TARGETS = batch()


def test_each_level_has_layers_of_its_own_where_a_loss_takes_all_at_once() -> None:
    mgd = MGD(mask_ratio=0.0)
    term = Term(mgd, student="fpn", teacher="fpn")
    out = distil(detector("gfl"), detector("gfl", 1), {"mgd": term})(IMAGES, TARGETS)
    levels = [(out.student.maps[stride], out.teacher.maps[stride]) for stride in out.student.maps]
    assert len(mgd.layers) == len(levels) > 1
    expected = sum(mgd.compare(layers, *maps) for layers, maps in zip(mgd.layers, levels, strict=True))
    torch.testing.assert_close(out.terms["mgd"], expected.detach())


def test_mgd_leaves_out_what_two_stage_detectors_pool() -> None:
    def distilled(kind: str, **options: Any) -> MGD:
        loss = MGD(mask_ratio=0.0, **options)
        distil(detector(kind), detector(kind, 1), {"mgd": Term(loss, student="fpn", teacher="fpn")})
        return loss

    assert distilled("faster_rcnn").choose_levels([4, 8, 16, 32, 64]) == [4, 8, 16, 32]
    assert [len(distilled(kind).layers) for kind in ("faster_rcnn", "gfl")] == [4, 5]
    assert len(distilled("faster_rcnn", strides=[16, 64]).layers) == 2
    with pytest.raises(SegkdError, match=r"mgd compares levels of strides \[4\], and .* share \[8, 16, 32, 64, 128"):
        distilled("gfl", strides=[4])
