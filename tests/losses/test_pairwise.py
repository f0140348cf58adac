from typing import Any

import pytest
import torch
import torch.nn.functional as F
from losses.base import value_and_grad
from losses.features import FeatureLossTests
from torch import Tensor

from segkd.errors import SegkdError
from segkd.losses import Pairwise, pairwise

FORMS = ({}, {"pool": 1}, {"variant": "skd"}, {"variant": "skd", "scale": 0.25})


def definition(student: Tensor, teacher: Tensor, variant: str = "cirkd", pool: int = 2, scale: float = 0.5) -> Tensor:
    window = (pool, pool) if variant == "cirkd" else tuple(max(int(scale * side), 1) for side in student.shape[2:])
    matrices = []
    for x in (student, teacher):
        f = F.max_pool2d(x, window, window, ceil_mode=True).flatten(2)
        norm = f.norm(dim=1, keepdim=True)
        f = f / norm if variant == "cirkd" else f / (norm.detach() + 1e-8)
        matrices.append(f.transpose(1, 2) @ f)
    return (matrices[0] - matrices[1]).square().mean()


class TestPairwise(FeatureLossTests):
    loss = Pairwise
    name = "pairwise"
    settings = FORMS

    def test_gradcheck(self) -> None:
        student, teacher = self.pair((2, 3, 3, 4), torch.float64)
        for options in FORMS[:2]:  # of the others the gradient is another on purpose
            assert torch.autograd.gradcheck(Pairwise(**options), (student, teacher))

    @pytest.mark.parametrize("block", [1, 2**22])
    def test_equals_the_definition_in_blocks_of_any_size(self, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pairwise, "BLOCK", block)
        student, teacher = self.pair(dtype=torch.float64)
        for options in FORMS:
            ours = value_and_grad(Pairwise(**options), student, teacher)
            plain = value_and_grad(lambda s, t, options=options: definition(s, t, **options), student, teacher)
            torch.testing.assert_close(ours, plain)

    def test_a_position_of_zeros_passes_no_gradient(self) -> None:
        student, teacher = self.pair()
        with torch.no_grad():
            student[:, :, :3, :3] = 0
        for options in FORMS:
            value, grad = value_and_grad(Pairwise(**options), student, teacher)
            assert value.isfinite()
            assert grad.abs().max() < 1
        assert not value_and_grad(Pairwise(pool=1), student, teacher)[1][:, :, :3, :3].any()

    def test_no_matrix_of_all_pairs_is_in_memory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        sizes, addmm = [], torch.addmm

        def measured(*arguments: Any, **options: Any) -> Tensor:
            found = addmm(*arguments, **options)
            sizes.append(found.numel())
            return found

        monkeypatch.setattr(torch, "addmm", measured)
        monkeypatch.setattr(pairwise, "BLOCK", 2**12)
        Pairwise(pool=1)(*torch.randn(2, 1, 2, 16, 16).unbind())
        assert sizes == [2**12] * (256**2 // 2**12)

    def test_bad_options_are_named(self) -> None:
        with pytest.raises(SegkdError, match=r"no variant 'skdd', did you mean 'skd'\?"):
            Pairwise(variant="skdd")
        with pytest.raises(SegkdError, match="at least 1, got pool 0"):
            Pairwise(pool=0)
        for scale in (0.0, 1.5, float("nan")):
            with pytest.raises(SegkdError, match=r"in \(0, 1\], got scale"):
                Pairwise(scale=scale)
