from pathlib import Path

import pytest
import torch
from detection.detectors import detector, distil
from detection.methods.base import IMAGES, TARGETS, MethodTests, tiny
from processes import in_two_processes
from recipe import normal
from torchvision.ops import distance_box_iou_loss

from segkd import Term
from segkd.detection.atss import candidates_of
from segkd.detection.methods.ld import LD, Localised, valuable_region
from segkd.errors import SegkdError


class TestLD(MethodTests):
    loss = LD
    settings = ({}, {"region": "released", "normalise": "weights"})

    def test_by_the_weights_it_is_the_sum_over_them(self) -> None:
        rows = [normal(seed, [1, 6, width]) for seed, width in enumerate((68, 68, 3, 3))]
        where = Localised(torch.ones(1, 6, dtype=torch.bool), torch.full((1, 6), 0.5), [6])
        plain, divided = (LD(normalise=normalise).parts_of(*rows, where) for normalise in ("none", "weights"))
        v = rows[2].sigmoid().amax(-1).sum()
        assert v > 1
        for part in ("main", "region"):
            torch.testing.assert_close(divided[part], plain[part] / v)
        assert divided["class"] == plain["class"] > 0

    def test_padding_takes_no_part(self) -> None:
        distiller = distil(tiny("gfl", 0), tiny("gfl", 1), {"own": Term(LD())})
        out, (_, _, targets) = distiller(IMAGES, TARGETS), distiller.adapter.inputs(IMAGES, TARGETS)
        where = LD().localised(out.student, targets)
        assert not out.student.in_image.all()
        assert not where.region[~out.student.in_image].any()
        assert where.region.any()

    @pytest.mark.parametrize(
        ("option", "says"),
        [
            ({"region": "relased"}, "did you mean 'released'"),
            ({"normalise": "weight"}, "did you mean 'weights'"),
            ({"main_weight": -1.0}, "main_weight must be at least 0"),
            ({"gamma": 2.0}, r"gamma must lie in \[0, 1\], got 2.0"),
            ({"temperature": 0.0}, "temperature"),
        ],
    )
    def test_options_out_of_range(self, option: dict[str, float], says: str) -> None:
        with pytest.raises(SegkdError, match=says):
            LD(**option)

    def test_other_heads(self) -> None:
        for pair, says in (
            (("fcos", "fcos"), "'own': LD is for heads of gfl, these are of fcos"),
            (("gfl", "fcos"), "'own': LD needs heads of the same family"),
            (("gfl", "faster_rcnn"), "'own' reads 'head', which the teacher, a two-stage detector, has not"),
        ):
            with pytest.raises(SegkdError, match=says):
                distil(detector(pair[0]), detector(pair[1]), {"own": Term(LD())})


def unsure() -> tuple[list[torch.Tensor], torch.Tensor]:
    """Return logits of two images, whose class probabilities do not sum to 1, and which priors are positive."""
    rows = [normal(seed, [2, 6, width]) for seed, width in enumerate((68, 68, 3, 3))]
    rows[2] -= 5
    return rows, torch.tensor([[True, True, False, False, False, False], [False, True, True, True, False, False]])


def parts_of_both(image: slice) -> dict[str, torch.Tensor]:
    rows, positive = unsure()
    where = Localised(positive[image], positive[image] * 0.5, [4, 2])
    return LD(normalise="weights").parts_of(*(x[image] for x in rows), where)


def worker(rank: int, folder: Path) -> None:
    torch.save(parts_of_both(slice(rank, rank + 1)), folder / f"{rank}.pt")


@pytest.mark.slow
def test_two_processes_divide_by_what_both_have(tmp_path: Path) -> None:
    in_two_processes(worker, tmp_path)
    rows, positive = unsure()
    assert rows[2][positive].sigmoid().amax(-1).sum() < 1
    of_each = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    for name, together in parts_of_both(slice(0, 2)).items():
        torch.testing.assert_close((of_each[0][name] + of_each[1][name]) / 2, together)


def test_gradcheck_of_the_parts() -> None:
    box, cls = normal(0, [1, 4, 68]).requires_grad_(), normal(1, [1, 4, 3]).requires_grad_()
    positive = torch.tensor([[True, False, True, False]])
    where = Localised(positive, torch.tensor([[0.3, 0.5, 0, 0]]).double(), [3, 1])

    def parts(box: torch.Tensor, cls: torch.Tensor) -> tuple[torch.Tensor, ...]:
        # The weights v are constants: of the class logits only the part on classes has a gradient.
        found = LD(temperature=1.0).parts_of(box, normal(2, [1, 4, 68]), cls, normal(3, [1, 4, 3]), where)
        return found["region"], found["class"]

    assert torch.autograd.gradcheck(parts, (box, cls), fast_mode=True)


def test_the_region_is_what_diou_says() -> None:
    priors = squares()
    boxes = torch.tensor([[10.0, 12.0, 70.0, 90.0]])
    weight = valuable_region(priors, [64, 16], boxes)
    threshold = candidates_of(priors, [64, 16], boxes, 9)[2].item()
    diou = 1 - distance_box_iou_loss(priors, boxes.expand_as(priors))
    assert torch.equal(weight > 0, (diou >= 0.25 * threshold) & (diou < threshold))
    assert (weight > 0).any()
    assert not valuable_region(priors, [64, 16], boxes[:0]).any()


def squares() -> torch.Tensor:
    """Return the priors of strides 8 and 16 of an image of 64 x 64."""
    found = []
    for stride, side in ((8, 8), (16, 4)):
        y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
        centres = torch.stack([x, y], -1).view(-1, 2) * float(stride)
        found.append(torch.cat([centres - 4 * stride, centres + 4 * stride], 1))
    return torch.cat(found)
