from typing import Any

import pytest
import torch
import torch.nn.functional as F
from recipe import labels, normal

from segkd.errors import SegkdError
from segkd.weighting import (
    PixelWeights,
    RelativeDifficulty,
    teacher_full_difficulty,
    teacher_student_difficulty,
)


def inputs(size: tuple[int, int] = (12, 16), label_size: tuple[int, int] = (24, 32)) -> dict[str, Any]:
    """Return one batch for `RelativeDifficulty`, with a tenth of the pixels ignored."""
    teacher = normal(1, [2, 5, *size], 3.0).float()
    return {
        "student": normal(2, [2, 5, *size], 2.0).float(),
        "teacher": teacher,
        "auxiliary": teacher + normal(3, [2, 5, *size]).float(),
        "target": labels(4, [2, *label_size], 5),
    }


class TestRelativeDifficulty:
    @pytest.mark.parametrize(
        ("switch", "progress", "stage"),
        [
            (0.1, 0.0, 1),
            (0.1, 0.0999, 1),
            (0.1, 0.1, 2),
            (0.1, 1.0, 2),
            (0.0, 0.0, 2),
            (0.0, 1.0, 2),
            (1.0, 0.0, 1),
            (1.0, 1.0, 1),
        ],
    )
    def test_switches_once(self, switch: float, progress: float, stage: int) -> None:
        batch = inputs()
        weights = RelativeDifficulty(switch=switch)(**batch, progress=progress)
        size, valid = (24, 32), batch["target"] != 255
        if stage == 1:
            expected = teacher_full_difficulty(batch["teacher"], batch["auxiliary"], size=size) * valid
        else:
            expected = teacher_student_difficulty(
                *(F.interpolate(batch[side], size=size, mode="bilinear") for side in ("student", "teacher")),
                batch["target"],
            ).float()
        torch.testing.assert_close(weights.map, expected)
        torch.testing.assert_close(weights.scaled, expected / valid.sum())

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
    @pytest.mark.parametrize("switch", [0.0, 1.0])
    def test_labels_of_any_integer_type(self, switch: float, dtype: torch.dtype) -> None:
        batch = inputs()
        weighting = RelativeDifficulty(switch=switch)
        expected = weighting(**batch, progress=0.5)
        torch.testing.assert_close(weighting(**batch | {"target": batch["target"].to(dtype)}, progress=0.5), expected)

    def test_the_linear_transition_blends(self) -> None:
        batch = inputs()
        first = RelativeDifficulty(switch=1.0)(**batch, progress=0.0)
        second = RelativeDifficulty(switch=0.0)(**batch, progress=0.0)
        blend = RelativeDifficulty(transition="linear")
        for progress in (0.0, 0.3, 1.0, 1.7, -1.0):
            share = min(max(progress, 0.0), 1.0)
            weights = blend(**batch, progress=progress)
            for ours, one, other in zip(weights, first, second, strict=True):
                torch.testing.assert_close(ours, (1 - share) * one + share * other)

    @pytest.mark.parametrize("variant", ["paper", "released"])
    @pytest.mark.parametrize("switch", [0.0, 1.0])
    def test_normalizers(self, variant: str, switch: float) -> None:
        batch = inputs()
        valid = batch["target"] != 255
        made = {
            normalize: RelativeDifficulty(switch=switch, variant=variant, normalize=normalize)(**batch, progress=0.5)
            for normalize in (None, "kept", "valid", "all")
        }
        counts = {"kept": (made["kept"].map > 0).sum(), "valid": valid.sum(), "all": torch.tensor(valid.numel())}
        # Where the variants themselves differ from each other.
        counts[None] = counts["valid" if variant == "paper" else ("all" if switch == 1 else "kept")]
        if switch == 0:
            assert counts["kept"] < counts["valid"] < counts["all"]
        for normalize, weights in made.items():
            torch.testing.assert_close(weights.map, made[None].map, rtol=0, atol=0)
            torch.testing.assert_close(weights.scaled, weights.map / counts[normalize])

    def test_the_released_second_stage_aligns_corners(self) -> None:
        batch = inputs()
        paper, released = (
            RelativeDifficulty(switch=0.0, variant=variant)(**batch, progress=0.5).map
            for variant in ("paper", "released")
        )
        assert not torch.equal(paper, released)

    @pytest.mark.parametrize("settings", [{}, {"variant": "released"}, {"transition": "linear"}, {"normalize": "kept"}])
    @pytest.mark.parametrize("progress", [0.0, 0.5])
    def test_nothing_labelled_weighs_zero(self, settings: dict[str, Any], progress: float) -> None:
        batch = inputs() | {"target": torch.full((2, 24, 32), 255)}
        for weights in RelativeDifficulty(**settings, min_kept=10)(**batch, progress=progress):
            assert weights.shape == (2, 24, 32)
            assert not weights.any()

    @pytest.mark.parametrize("normalize", [None, "kept", "valid", "all"])
    def test_an_empty_xor_weighs_zero(self, normalize: str | None) -> None:
        batch = inputs()
        batch["student"] = batch["teacher"]  # both find the same pixels hard
        weights = RelativeDifficulty(switch=0.0, variant="released", normalize=normalize)(**batch, progress=0.5)
        assert not weights.map.any()
        assert not weights.scaled.any()

    @pytest.mark.parametrize(("gap", "dtype"), [(200.0, torch.float32), (60000.0, torch.bfloat16)])
    @pytest.mark.parametrize("progress", [0.0, 0.05, 0.5, 1.0])
    def test_extreme_logits_give_weights_in_range(self, gap: float, dtype: torch.dtype, progress: float) -> None:
        batch = inputs((4, 5), (8, 10))
        peaks = F.one_hot(batch["teacher"].argmax(1), 5).permute(0, 3, 1, 2) * gap
        batch["teacher"] = peaks.to(dtype)
        valid = batch["target"] != 255
        for student in (peaks, -peaks, peaks.flip(1), torch.zeros_like(peaks)):
            for auxiliary in (peaks, -peaks, torch.zeros_like(peaks)):
                batch |= {"student": student.to(dtype), "auxiliary": auxiliary.to(dtype)}
                for settings in (
                    {},
                    {"variant": "released", "min_kept": 50},
                    {"transition": "linear", "normalize": "kept"},
                ):
                    weights = RelativeDifficulty(**settings)(**batch, progress=progress)
                    assert weights.map.isfinite().all()
                    assert weights.scaled.isfinite().all()
                    assert (weights.map >= 0).all()
                    assert (weights.map <= 1).all()
                    assert not weights.map[~valid].any()

    def test_the_heads_may_differ_in_size(self) -> None:
        batch = inputs()
        batch["auxiliary"] = F.interpolate(batch["auxiliary"], size=(6, 8), mode="bilinear")
        weights = RelativeDifficulty()(**batch, progress=0.0)
        assert weights.map.shape == (2, 24, 32)
        assert (weights.map[batch["target"] != 255] > 0).all()

    def test_passes_no_gradient(self) -> None:
        batch = inputs()
        batch["student"].requires_grad_()
        for progress in (0.0, 0.5):
            weights = RelativeDifficulty()(**batch, progress=progress)
            assert isinstance(weights, PixelWeights)
            assert not weights.map.requires_grad
            assert not weights.scaled.requires_grad

    def test_a_teacher_without_auxiliary_head_is_an_error_that_says_what_to_do(self) -> None:
        batch = inputs() | {"auxiliary": None}
        for settings in ({}, {"transition": "linear", "switch": 0.0}):
            weighting = RelativeDifficulty(**settings)
            assert weighting.needs_auxiliary
            with pytest.raises(SegkdError, match=r"auxiliary head.*train one.*second_stage"):
                weighting(**batch, progress=0.9)

    def test_the_second_stage_alone_needs_no_auxiliary_head(self) -> None:
        batch = inputs() | {"auxiliary": None}
        alone = RelativeDifficulty(switch=0.0)
        assert not alone.needs_auxiliary
        expected = alone(**batch, progress=0.0)
        for settings in ({}, {"switch": 1.0}, {"transition": "linear"}):
            weighting = RelativeDifficulty(**settings, without_auxiliary="second_stage")
            assert not weighting.needs_auxiliary
            for progress in (0.0, 0.5, 1.0):
                torch.testing.assert_close(weighting(**batch, progress=progress), expected)

    @pytest.mark.parametrize(
        ("setting", "message"),
        [
            ({"switch": 1.5}, "switch is a progress"),
            ({"switch": -0.1}, "switch is a progress"),
            ({"variant": "release"}, "did you mean 'released'"),
            ({"transition": "liner"}, "did you mean 'linear'"),
            ({"normalize": "keep"}, "did you mean 'kept'"),
            ({"without_auxiliary": "errors"}, "did you mean 'error'"),
        ],
    )
    def test_values_that_do_not_exist_are_errors(self, setting: dict[str, Any], message: str) -> None:
        with pytest.raises(SegkdError, match=message):
            RelativeDifficulty(**setting)
