"""Which parts of the student CrossKD's gradient reaches."""

import pytest
from detection.detectors import DENSE, detector, records

from segkd.detection.heads import dense_head
from segkd.detection.methods.crosskd import CrossKDBox, CrossKDClass

BRANCHES = {"class": CrossKDClass, "box": CrossKDBox}


@pytest.mark.parametrize("branch", BRANCHES)
@pytest.mark.parametrize("index", range(5))
@pytest.mark.parametrize("kind", DENSE)
def test_gradient_reaches_exactly_the_blocks_before_the_index(kind: str, index: int, branch: str) -> None:
    loss = BRANCHES[branch](index)
    student, teacher = detector(kind, 0), detector(kind, 1)
    loss(*records([loss], student, teacher)).backward()
    head = dense_head(student)
    reached = {id(p) for i in range(index) for p in head.blocks(loss.branch, i)[: head.step].parameters()}
    assert len(reached) == 0 if index == 0 else len(reached) > index
    for name, parameter in student.head.named_parameters():
        if id(parameter) in reached:
            assert parameter.grad.isfinite().all(), name
            # A bias before a norm per channel, or before alignment, moves nothing.
            assert parameter.grad.any() or name.endswith("bias"), name
        else:
            assert parameter.grad is None, name
    for name, parameter in student.backbone.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert any(p.grad.any() for p in student.backbone.stages[0].parameters())
    assert all(p.grad is None for p in teacher.parameters())
