import pytest
import torch
from detection.figures import LEVEL_SIZES, PRIORS
from torch import Tensor
from torchvision.ops import box_iou

from segkd.detection.atss import atss_assign
from segkd.errors import SegkdError


def some_boxes(count: int, seed: int = 0) -> Tensor:
    """Return boxes at odd places, so that no two priors lie equally near."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * torch.tensor([300.0, 240.0]) - 15
    size = 4 + torch.rand(count, 2, generator=generator) ** 2 * 220
    return torch.cat([corner, corner + size], 1)


def by_definition(priors: Tensor, sizes: list[int], boxes: Tensor, topk: int) -> Tensor:
    assigned, best = torch.full((len(priors),), -1), torch.zeros(len(priors))
    centres = (priors[:, :2] + priors[:, 2:]) / 2
    for index, box in enumerate(boxes):
        distance = (centres - (box[:2] + box[2:]) / 2).norm(dim=1)
        candidates, start = [], 0
        for size in sizes:
            candidates += [start + int(i) for i in distance[start : start + size].argsort()[:topk]]
            start += size
        ious = {i: box_iou(priors[i][None], box[None]).item() for i in candidates}
        values = torch.tensor(list(ious.values()))
        threshold = values.mean() + (values.std() if len(values) > 1 else 0)
        for i, iou in ious.items():
            inside = (centres[i] > box[:2] + 0.01).all() and (centres[i] < box[2:] - 0.01).all()
            if iou >= threshold and inside and iou > best[i]:
                assigned[i], best[i] = index, iou
    return assigned


@pytest.mark.parametrize("topk", [1, 4, 9, 15])
def test_equals_the_definition(topk):
    # The last level has 6 priors: fewer than 9.
    boxes = some_boxes(25)
    assigned = atss_assign(PRIORS, LEVEL_SIZES, boxes, topk)
    assert torch.equal(assigned, by_definition(PRIORS, LEVEL_SIZES, boxes, topk))
    assert len(assigned.unique()) > 10


def test_a_level_without_priors():
    boxes = some_boxes(10, seed=1)
    expected = atss_assign(PRIORS, LEVEL_SIZES, boxes)
    assert torch.equal(atss_assign(PRIORS, [LEVEL_SIZES[0], 0, *LEVEL_SIZES[1:]], boxes), expected)


def test_a_single_prior_has_no_deviation():
    prior = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    assert atss_assign(prior, [1], torch.tensor([[4.0, 4.0, 9.0, 9.0]])).tolist() == [0]
    assert atss_assign(prior, [1], torch.tensor([[6.0, 6.0, 9.0, 9.0]])).tolist() == [-1]


def test_the_order_of_the_boxes_does_not_matter():
    boxes = some_boxes(25)
    order = torch.randperm(25, generator=torch.Generator().manual_seed(2))
    assigned, shuffled = atss_assign(PRIORS, LEVEL_SIZES, boxes), atss_assign(PRIORS, LEVEL_SIZES, boxes[order])
    assert torch.equal(shuffled >= 0, assigned >= 0)
    positive = assigned >= 0
    assert torch.equal(order[shuffled[positive]], assigned[positive])


def test_a_prior_claimed_twice_goes_to_the_highest_iou():
    close, wide = torch.tensor([40.0, 40.0, 104.0, 104.0]), torch.tensor([30.0, 30.0, 106.0, 106.0])
    claimed = [atss_assign(PRIORS, LEVEL_SIZES, box[None]) >= 0 for box in (close, wide)]
    twice = claimed[0] & claimed[1]
    assert twice.sum() > 1
    for boxes in (torch.stack([close, wide]), torch.stack([wide, close])):
        assigned = atss_assign(PRIORS, LEVEL_SIZES, boxes)
        assert torch.equal(assigned[twice], box_iou(PRIORS[twice], boxes).argmax(1))
        assert torch.equal(assigned >= 0, claimed[0] | claimed[1])


def test_without_boxes_or_priors():
    assert torch.equal(atss_assign(PRIORS, LEVEL_SIZES, torch.zeros(0, 4)), torch.full((len(PRIORS),), -1))
    assert atss_assign(torch.zeros(0, 4), [0, 0], some_boxes(3)).shape == (0,)


@pytest.mark.parametrize(
    "box",
    [
        [-90.0, -90.0, -20.0, -20.0],
        [1000.0, 1000.0, 1100.0, 1050.0],
        [64.0, 64.0, 64.0, 64.0],
        [64.0, 64.0, 64.0, 96.0],
        [90.0, 90.0, 30.0, 30.0],
        [float("nan"), 10.0, 50.0, 50.0],
        [float("inf"), float("inf"), float("inf"), float("inf")],
    ],
)
def test_a_box_without_area_or_beyond_all_priors_gets_none_and_disturbs_none(box):
    assert (atss_assign(PRIORS, LEVEL_SIZES, torch.tensor([box])) == -1).all()
    boxes = some_boxes(8)
    beside = torch.cat([boxes, torch.tensor([box])])
    assert torch.equal(atss_assign(PRIORS, LEVEL_SIZES, beside), atss_assign(PRIORS, LEVEL_SIZES, boxes))


def test_the_centre_must_lie_well_inside():
    # Priors are centred at multiples of 8: these boxes contain (64, 64) by a little more and a little less than 0.01.
    assert (atss_assign(PRIORS, LEVEL_SIZES, torch.tensor([[63.98, 60.0, 68.0, 68.0]])) >= 0).any()
    assert (atss_assign(PRIORS, LEVEL_SIZES, torch.tensor([[63.995, 60.0, 68.0, 68.0]])) == -1).all()


def test_other_precisions_and_autocast():
    boxes = some_boxes(10)
    expected = atss_assign(PRIORS, LEVEL_SIZES, boxes)
    assert torch.equal(atss_assign(PRIORS, LEVEL_SIZES, boxes.double()), expected)
    assert torch.equal(atss_assign(PRIORS, LEVEL_SIZES, boxes.requires_grad_()), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(atss_assign(PRIORS, LEVEL_SIZES, boxes), expected)


def test_bad_input_is_named():
    with pytest.raises(SegkdError, match=r"boxes \(N, 4\), got \(3, 5\)"):
        atss_assign(PRIORS, LEVEL_SIZES, torch.zeros(3, 5))
    with pytest.raises(SegkdError, match=r"priors \(N, 4\), got \(4,\)"):
        atss_assign(PRIORS[0], [1], some_boxes(1))
    with pytest.raises(SegkdError, match=r"level_sizes \[1280, 320\] must add up to the 1706 priors"):
        atss_assign(PRIORS, LEVEL_SIZES[:2], some_boxes(1))
    with pytest.raises(SegkdError, match="topk must be at least 1, got 0"):
        atss_assign(PRIORS, LEVEL_SIZES, some_boxes(1), topk=0)
