import pytest
import torch

from segkd.errors import SegkdError
from segkd.segmentation.label_issues import label_issues


def test_wrong_labels_are_found_and_their_image_scored_lower():
    truth = torch.arange(3).repeat(2, 8, 8)  # (2, 8, 24)
    logits = 4.0 * torch.nn.functional.one_hot(truth, 3).movedim(-1, 1)
    target = truth.clone()
    wrong = torch.zeros_like(truth, dtype=torch.bool)
    wrong[1, :2, :6] = True
    target[wrong] = (target[wrong] + 1) % 3
    target[0, 0] = 255
    found = label_issues(logits, target)
    assert torch.equal(found.pixels, wrong)
    assert found.likely == 12
    assert found.scores[1] < 0.1 < 0.9 < found.scores[0]
    assert (found.thresholds > 0.8).all()
    # What is ignored has no say, and an image without labels no fault.
    logits[0, :, 0], target[1] = -9.0, 255
    found = label_issues(logits, target.repeat_interleave(2, 1).repeat_interleave(2, 2))
    assert not found.pixels.any()
    assert found.scores[1] == 1


def test_what_it_needs():
    logits = torch.zeros(2, 3, 4, 4)
    with pytest.raises(SegkdError, match="softmin above 0"):
        label_issues(logits, torch.zeros(2, 4, 4, dtype=torch.long), softmin=0.0)
    with pytest.raises(SegkdError, match=r"with B=2, got \(1, 4, 4\)"):
        label_issues(logits, torch.zeros(1, 4, 4, dtype=torch.long))
