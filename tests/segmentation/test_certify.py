import pytest
import torch
from torch import nn

from segkd.errors import SegkdError
from segkd.network import Network
from segkd.segmentation.certify import certainty, certify, certify_counts


class Brighter(nn.Module):
    """Says of each pixel whether it is brighter than a half."""

    def forward(self, images):
        return torch.cat([0.5 - images, images - 0.5], 1)


def test_pixels_far_from_the_border_between_classes_are_certified():
    images = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0]).view(1, 1, 1, 5).expand(2, 1, 3, 5)
    options = {"sigma": 0.2, "n0": 20, "n": 200, "alpha": 0.01}
    found = certify(Brighter(), images, **options, generator=torch.Generator().manual_seed(0))
    # Noise of 0.2 leaves 0.25 on its side with a probability of 0.89, 0.5 with one of 0.5.
    expected = torch.tensor([0, 0, -1, 1, 1]).expand(2, 3, 5)
    assert torch.equal(found.classes, expected)
    assert found.radius == pytest.approx(0.2 * 0.67448975)
    raw = Network(Brighter(), mean=[0.0], std=[1.0], class_map=[1, 0])
    again = certify(raw, (images * 255).byte(), **options, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again.classes, torch.where(expected < 0, expected, 1 - expected))


def test_holm_certifies_no_less_than_bonferroni_and_nothing_of_few_passes():
    hits = torch.arange(60, 101)
    tested = torch.stack([hits, 100 - hits])
    chosen = torch.stack([torch.full((41,), 5), torch.full((41,), 5)])  # as frequent: the first
    holm, bonferroni = (
        certify_counts(chosen, tested, correction=c, alpha=0.01).classes for c in ("holm", "bonferroni")
    )
    assert set(holm.tolist()) == {0, -1}
    assert ((holm == 0) | (bonferroni == -1)).all()
    assert (certify_counts(chosen, tested // 50).classes == -1).all()


def test_bad_options_are_errors():
    images = torch.zeros(1, 1, 2, 2)
    for options, says in (
        ({"sigma": 0.0}, "sigma above 0"),
        ({"tau": 0.4}, r"tau in \[0.5, 1\)"),
        ({"alpha": 1.0}, "alpha"),
        ({"correction": "bonferoni"}, "did you mean 'bonferroni'"),
        ({"n": 0}, "n0 and n of at least 1, got 1 and 0"),
    ):
        with pytest.raises(SegkdError, match=says):
            certify(Brighter(), images, **{"n0": 1, "n": 1, **options})


def test_certified_iou_and_abstention_of_each_class_by_hand():
    classes = torch.tensor([[0, 0, -1, 1], [1, 1, -1, -1], [0, 2, 2, -1]])
    labels = torch.tensor([[0, 0, 0, 0], [1, 1, 1, 255], [1, 255, 255, 255]])
    found = certainty(classes, labels, num_classes=4)
    # Class 0: 2 right of 4 labelled and 1 elsewhere; 1: 2 right of 4 labelled and 1 elsewhere; 2 and 3 are nowhere.
    assert found.iou[:2].tolist() == [2 / 5, 2 / 5]
    assert found.iou[2:].isnan().all()
    assert found.abstained[:2].tolist() == [1 / 4, 1 / 4]
    assert found.miou == pytest.approx(2 / 5)


def test_what_is_all_certain_and_right_or_all_uncertain_or_ignored():
    labels = torch.randint(0, 5, (2, 6, 7), generator=torch.Generator().manual_seed(0))
    assert certainty(labels, labels, 5).miou == 1
    assert certainty(labels, labels, 5).abstained.tolist() == [0] * 5
    nothing = certainty(torch.full_like(labels, -1), labels, 5)
    assert (nothing.miou, nothing.abstained.tolist()) == (0, [1] * 5)
    assert torch.tensor(certainty(labels, torch.full_like(labels, 9), 5, ignore_index=9).miou).isnan()


@pytest.mark.parametrize(
    ("classes", "labels", "says"),
    [
        (torch.zeros(2, 3), torch.zeros(3, 2), r"labels for \(2, 3\) pixels, got \(3, 2\)"),
        (torch.tensor([0, 4]), torch.tensor([0, 1]), "a certified class is 0 or 4, of 4 classes"),
        (torch.tensor([0, 1]), torch.tensor([0, -1]), "a label is -1 or 0, of 4 classes"),
    ],
)
def test_what_cannot_be_measured_is_an_error(classes: torch.Tensor, labels: torch.Tensor, says: str):
    with pytest.raises(SegkdError, match=says):
        certainty(classes, labels, 4)
