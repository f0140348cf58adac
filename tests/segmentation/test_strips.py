import itertools

import pytest
import torch
import torch.nn.functional as F

from segkd.segmentation import inference as module
from segkd.segmentation.inference import Rows, strips


def bands(logits, *heights):
    """Yield parts of logits, each of them spoilt once the next is asked for."""
    for part in logits.split(heights, 2):
        part = part.clone()
        yield part
        part.fill_(torch.nan)


@pytest.mark.parametrize("size", [(33, 47), (66, 94), (100, 47), (20, 31), (33, 30), (1, 1)])
def test_parts_are_those_of_the_whole_resized(size):
    logits = torch.randn(2, 5, 33, 47, generator=torch.Generator().manual_seed(0))
    rows = Rows(33, bands(logits, 10, 1, 15, 7))
    expected = F.interpolate(logits, size, mode="bilinear", align_corners=False)
    cuts = sorted({*range(0, size[0], 7), size[0]})
    for top, bottom in itertools.pairwise(cuts):
        for index in range(2):
            part = rows.resized(index, size, top, bottom)
            torch.testing.assert_close(part, expected[index : index + 1, :, top:bottom], rtol=0, atol=1e-6)


def test_only_what_is_still_needed_is_held():
    rows = Rows(1000, bands(torch.rand(1, 2, 1000, 3), *[10] * 100))
    for top in range(0, 1000, 20):
        rows.resized(0, (1000, 3), top, top + 20)
        assert rows._held.shape[2] <= 30


@pytest.mark.parametrize("sizes", [[(7, 9)], [(100, 200)], [(100, 200), (2, 1000)], [(3, 10**4)]])
def test_strips_cover_each_image_once(sizes, monkeypatch):
    monkeypatch.setattr(module, "STRIP", 1000)
    seen = [[] for _ in sizes]
    for parts in strips(sizes):
        for rows, (top, bottom) in zip(seen, parts, strict=True):
            assert top < bottom
            rows += range(top, bottom)
    assert seen == [list(range(height)) for height, _ in sizes]
