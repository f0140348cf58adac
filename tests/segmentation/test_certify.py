import pytest
import torch
from torch import nn

from segkd.errors import SegkdError
from segkd.network import Network
from segkd.segmentation.certify import certify, certify_counts


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
