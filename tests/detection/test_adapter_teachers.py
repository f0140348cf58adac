"""Detectors on batches of which not every image has labels, and methods of one's own on their heads."""

from typing import Any

import pytest
import torch
from detection.detectors import FAMILIES, assert_sound, batch, crosskd, detector, distil, pkd
from torch import Tensor, nn

from segkd import Distiller, Term
from segkd.detection.adapter import DetectionAdapter
from segkd.errors import SegkdError
from segkd.network import Network
from segkd.teachers import Given

IMAGES, TARGETS = batch()
FIRST = torch.tensor([True, False])


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_losses_are_those_of_the_labelled_images(kind: str) -> None:
    # Of one size, so that a batch of one has no other padding.
    images, targets = [IMAGES[1], IMAGES[1].flip(2)], [TARGETS[1], None]
    distiller = distil(detector(kind), detector(kind, 1), crosskd() | pkd())
    out = distiller(images, targets, labelled=FIRST)
    alone = distiller(images[:1], targets[:1])
    torch.testing.assert_close(out.parts, alone.parts, rtol=1e-5, atol=1e-6)
    assert out.terms["pkd"] > 0
    assert out.student.predictions["cls_logits"].shape[0] == 2
    assert_sound(distiller, out)


@pytest.mark.parametrize("kind", FAMILIES)
def test_no_labelled_image(kind: str) -> None:
    distiller = distil(detector(kind), detector(kind, 1), crosskd() | pkd())
    out = distiller(IMAGES, TARGETS, labelled=torch.zeros(2, dtype=torch.bool))
    assert out.terms["task"] == 0
    assert_sound(distiller, out)


@pytest.mark.parametrize("kind", [*FAMILIES, "faster_rcnn"])
def test_without_targets_terms_alone_teach(kind: str) -> None:
    out = distil(detector(kind), detector(kind, 1), pkd())(IMAGES, None)
    assert out.terms["task"] == 0
    assert out.loss == 2 * out.terms["pkd"] > 0
    out.loss.backward()


def test_what_cannot_be_done_is_said() -> None:
    with pytest.raises(SegkdError, match="a two-stage detector learns from whole batches"):
        distil(detector("faster_rcnn"), None, {})(IMAGES, TARGETS, labelled=FIRST)
    with pytest.raises(SegkdError, match="term 'class': CrossKDClass reads labels, and this batch has none"):
        distil(detector("gfl"), detector("gfl", 1), crosskd())(IMAGES, None)
    with pytest.raises(SegkdError, match="got a NoneType in it"):
        distil(detector("gfl"), None, {})(IMAGES, [TARGETS[0], None])
    with pytest.raises(SegkdError, match="term 'class': CrossKDClass runs layers of the teacher itself"):
        distil(detector("gfl"), Given(), crosskd())


def test_fpn_maps_may_be_given() -> None:
    teacher = detector("gfl", 1)
    distiller = distil(detector("gfl"), teacher, pkd()).eval()
    expected = distiller(IMAGES, TARGETS)
    out = distiller(IMAGES, TARGETS, teacher={"fpn": expected.teacher.maps})
    torch.testing.assert_close(out.loss, expected.loss)
    offered = {"fpn": {stride: tuple(x.shape[1:]) for stride, x in expected.teacher.maps.items()}}
    away = distil(distiller.student, Given(offered), pkd()).eval()
    torch.testing.assert_close(away(IMAGES, TARGETS, teacher={"fpn": expected.teacher.maps}).loss, expected.loss)
    with pytest.raises(SegkdError, match=r"given 'fpn' must be \(2, 64, h, w\), got \(1, 64, "):
        distiller(IMAGES, TARGETS, teacher={"fpn": {stride: x[:1] for stride, x in expected.teacher.maps.items()}})


def test_several_teachers() -> None:
    teachers = {"head": detector("gfl", 1), "maps": detector("mask_rcnn", 2)}
    terms: dict[str, Any] = {name: Term(term.loss, teacher="head:head") for name, term in crosskd().items()}
    terms["pkd"] = Term(pkd()["pkd"].loss, student="fpn", teacher="maps:fpn")
    ran: list[nn.Module] = []
    for module in (teachers["head"].head, teachers["maps"].rpn):
        module.register_forward_hook(lambda module, *_: ran.append(module))
    distiller = distil(detector("gfl"), teachers, terms)
    ran.clear()
    out = distiller(IMAGES, TARGETS)
    assert ran == [teachers["head"].head]
    assert list(out.teacher["maps"].maps) == [4, 8, 16, 32, 64]
    assert_sound(distiller, out)
    teachers["maps"].transform.image_mean = [0.5, 0.5, 0.5]
    with pytest.raises(SegkdError, match="several detectors as teachers must have the same image_mean and image_std"):
        distil(detector("gfl"), teachers, terms)


def test_networks_are_looked_through() -> None:
    student, teacher = detector("gfl"), detector("gfl", 1)
    expected = distil(student, teacher, crosskd() | pkd()).eval()(IMAGES, TARGETS)
    out = distil(Network(student), Network(teacher), crosskd() | pkd()).eval()(IMAGES, TARGETS)
    torch.testing.assert_close(out.loss, expected.loss)


class Peaks(nn.Module):
    """A method on the head that the package does not know: it says itself what it reads and what must fit."""

    reads = "head"
    places = (("class", 2),)

    def check_heads(self, term: Term, student: Any, teacher: Any) -> None:
        if student.num_classes != teacher.num_classes or student.strides != teacher.strides:
            raise SegkdError("Peaks needs the same classes and strides")

    def forward(self, student: Any, teacher: Any, target: Any) -> Tensor:
        pairs = zip(student.towers["class", 2], teacher.towers["class", 2], strict=True)
        return torch.stack([(s.amax(1) - t.amax(1)).square().mean() for s, t in pairs]).sum()


def test_a_method_of_ones_own_on_the_head() -> None:
    distiller = distil(detector("gfl"), detector("fcos", 1), {"peaks": Term(Peaks())})
    out = distiller(IMAGES, TARGETS)
    assert out.terms["peaks"] > 0
    assert_sound(distiller, out)
    teacher = detector("gfl", 1)
    teacher.head.num_classes = 7
    with pytest.raises(SegkdError, match=r"^term 'peaks': Peaks needs the same classes and strides$"):
        Distiller(detector("gfl"), teacher, {"peaks": Term(Peaks())}, adapter=DetectionAdapter())
