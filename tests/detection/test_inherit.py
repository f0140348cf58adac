import re

import pytest
import torch
from torch import nn

from segkd.detection.inherit import inherit
from segkd.detection.models import build_detector
from segkd.errors import SegkdError


def detector(arch: str = "atss", backbone: str = "tu-test_resnet", channels: int = 64) -> nn.Module:
    return build_detector(arch, backbone, 3, min_size=64, options={"out_channels": channels})


@pytest.mark.parametrize("head_only", [False, True])
def test_neck_and_head_are_the_teachers_and_the_backbone_is_the_students(head_only: bool) -> None:
    student, teacher = detector(), detector()
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    own = ("backbone.",) if head_only else ("backbone.body.",)
    assert inherit(student, teacher, head_only, dry=True) == sum(not name.startswith(own) for name in before)
    assert all(torch.equal(tensor, before[name]) for name, tensor in student.state_dict().items())
    inherit(student, teacher, head_only)
    for name, tensor in student.state_dict().items():
        assert torch.equal(tensor, before[name] if name.startswith(own) else teacher.state_dict()[name]), name
    assert any(not torch.equal(tensor, before[name]) for name, tensor in student.state_dict().items())


def test_a_two_stage_students_heads_and_not_the_mask_head() -> None:
    student, teacher = detector("faster_rcnn"), detector("mask_rcnn")
    inherit(student, teacher)
    heads = student.roi_heads.state_dict()
    assert all(torch.equal(tensor, teacher.roi_heads.state_dict()[name]) for name, tensor in heads.items())


@pytest.mark.parametrize(
    ("teacher", "head_only", "message"),
    [
        (
            {"backbone": "resnet18"},
            False,
            "'backbone.fpn.inner_blocks.0.0.weight' is 64x48x1x1 in the student and 64x128x1x1 in the teacher: "
            "inherit: head leaves the neck out",
        ),
        (
            {"channels": 96},
            True,
            "'head.class_tower.0.0.weight' is 64x64x3x3 in the student and 96x96x3x3 in the teacher: leave inherit out",
        ),
        ({"arch": "fcos"}, True, "'head.scales' is 5 in the student and not in the teacher: leave inherit out"),
    ],
)
def test_what_does_not_fit_leaves_the_student_as_it_is(
    teacher: dict[str, object], head_only: bool, message: str
) -> None:
    student = detector()
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    with pytest.raises(SegkdError, match=re.escape(message)) as error:
        inherit(student, detector(**teacher), head_only)
    assert "\n" not in str(error.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in student.state_dict().items())
