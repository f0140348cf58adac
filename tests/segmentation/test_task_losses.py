import math

import pytest
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkd import Distiller, Term
from segkd.errors import SegkdError
from segkd.losses import PixelKD
from segkd.segmentation.task_losses import OHEM, CrossEntropy, Dice, Focal, OfSmp, Sum, class_weights
from segkd.weighting import RelativeDifficulty

CLASSES = 5
LOSSES = {
    "cross_entropy": lambda: CrossEntropy([1.0, 2.0, 0.5, 3.0, 1.0], label_smoothing=0.1),
    "ohem": lambda: OHEM(min_kept=20),
    "focal": lambda: Focal(gamma=0.5),
    "dice": lambda: Dice(),
    "sum": lambda: Sum([(1.0, CrossEntropy([0.5] * CLASSES)), (0.5, OHEM()), (2.0, Dice())]),
    **{f"smp:{kind}": (lambda kind=kind: OfSmp(kind)) for kind in ("DiceLoss", "JaccardLoss", "LovaszLoss")},
}
OF_PIXELS = ["cross_entropy", "ohem", "focal"]


def batch(size: int = 12, dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, CLASSES, size, size, generator=generator, dtype=dtype) * 2
    target = torch.randint(0, CLASSES, (2, size, size), generator=generator)
    target[:, :2] = 255
    return logits.requires_grad_(), target


def value(loss: nn.Module, logits: Tensor, target: Tensor) -> Tensor:
    """Return the task loss of a distiller whose student gives these logits."""
    return Distiller(nn.Identity(), None, {}, loss)(logits, target).loss


@pytest.fixture(params=LOSSES)
def loss(request: pytest.FixtureRequest) -> nn.Module:
    return LOSSES[request.param]()


class TestAll:
    def test_gradient(self, loss: nn.Module):
        loss = loss.double()
        logits, target = batch(4, torch.float64)
        if isinstance(loss, OfSmp):  # computed in float32
            value(loss, logits, target).backward()
            assert logits.grad is not None
            assert logits.grad.norm() > 0
        else:
            assert torch.autograd.gradcheck(lambda z: value(loss, z, target), (logits,))

    def test_without_labelled_pixels_it_is_0_and_so_is_its_gradient(self, loss: nn.Module):
        logits, target = batch()
        out = value(loss, logits, torch.full_like(target, 255))
        out.backward()
        assert out == 0
        assert logits.grad is not None
        assert torch.equal(logits.grad, torch.zeros_like(logits))

    def test_ignored_pixels_count_for_nothing(self, loss: nn.Module):
        logits, target = batch()
        changed = logits.detach().clone()
        changed[:, :, :2] = 50.0 * torch.randn_like(changed[:, :, :2])
        torch.testing.assert_close(value(loss, changed, target), value(loss, logits.detach(), target))

    def test_what_is_right_for_certain_costs_nothing_and_stays_finite(self, loss: nn.Module):
        _, target = batch()
        right = F.one_hot(target.masked_fill(target == 255, 0), CLASSES).permute(0, 3, 1, 2).float() * 1e4
        if getattr(loss, "label_smoothing", 0) == 0:
            assert value(loss, right, target) < 1e-4
        for logits in (right, -right):
            logits = logits.clone().requires_grad_()
            out = value(loss, logits, target)
            out.backward()
            assert out.isfinite()
            assert logits.grad is not None
            assert logits.grad.isfinite().all()

    @pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
    def test_under_autocast_it_is_that_of_the_same_logits_in_float32(self, loss: nn.Module, kind: torch.dtype):
        logits, target = batch()
        low = logits.detach().to(kind)
        with torch.autocast("cpu", kind):
            out = value(loss, low, target)
        assert out.dtype == torch.float32
        torch.testing.assert_close(out, value(loss, low.float(), target))

    @pytest.mark.parametrize("name", ["ohem", "focal", "dice"])
    def test_one_class(self, name: str):
        logits, target = batch()
        out = value(LOSSES[name](), logits[:, :1], torch.where(target == 255, 255, 0))
        assert out.isfinite()
        assert out <= 1e-6

    def test_labels_of_a_small_type(self, loss: nn.Module):
        logits, target = batch()
        assert torch.equal(value(loss, logits, target.to(torch.uint8)), value(loss, logits, target))


class TestPixelWeighting:
    @pytest.mark.parametrize("name", [*OF_PIXELS, "sum of pixels"])
    def test_weighs_the_map_of_the_loss(self, name: str):
        sums = {"sum of pixels": lambda: Sum([(1.0, CrossEntropy()), (0.5, Focal())])}
        loss = {**LOSSES, **sums}[name]()
        logits, target = batch()
        weighting = RelativeDifficulty(switch=0.0, without_auxiliary="second_stage", combine="or", threshold=1.0)
        student, teacher = nn.Conv2d(CLASSES, CLASSES, 1), nn.Conv2d(CLASSES, CLASSES, 1)
        distiller = Distiller(student, teacher, {"kd": Term(PixelKD())}, loss, weighting)
        out = distiller(logits, target, progress=0.5)
        # Every labelled pixel is kept and weighs alike, so that the sum is the mean of the map.
        losses = (1.0, CrossEntropy()), (0.5, Focal())
        parts = losses if name in sums else [(1.0, loss)]
        logits = student(logits)
        expected = 0.0
        for scale, part in parts:
            part.reduction = "none"
            expected = expected + scale * part(logits, target).sum() / (target != 255).sum()
        torch.testing.assert_close(out.terms["task"], expected.detach())

    @pytest.mark.parametrize("name", ["dice", "sum", "smp:LovaszLoss"])
    def test_does_not_go_with_what_is_no_mean_over_pixels(self, name: str):
        weighting = RelativeDifficulty(without_auxiliary="second_stage")
        loss = LOSSES[name]()
        with pytest.raises(SegkdError, match=rf"'reduction' attribute, {type(loss).__name__} has none"):
            Distiller(nn.Conv2d(3, 5, 1), nn.Conv2d(3, 5, 1), {}, loss, weighting)


class TestCrossEntropy:
    def test_is_torchs_bit_for_bit(self):
        logits, target = batch()
        for ours, theirs in (
            (CrossEntropy(), nn.CrossEntropyLoss(ignore_index=255)),
            (
                CrossEntropy([1.0, 2.0, 0.5, 3.0, 0.0], 0.2),
                nn.CrossEntropyLoss(torch.tensor([1.0, 2, 0.5, 3, 0]), ignore_index=255, label_smoothing=0.2),
            ),
        ):
            grads = [torch.autograd.grad(value(loss, logits, target), logits)[0] for loss in (ours, theirs)]
            assert torch.equal(value(ours, logits, target), theirs(logits, target))
            assert torch.equal(*grads)

    def test_a_batch_of_a_class_that_weighs_nothing(self):
        logits, target = batch()
        out = value(CrossEntropy([1.0, 1, 0, 1, 1]), logits, torch.full_like(target, 2))
        assert out == 0

    def test_weights_are_in_the_state_so_that_a_resumed_run_has_them(self):
        distiller = Distiller(nn.Conv2d(3, 2, 1), None, {}, CrossEntropy([1.0, 3.0]))
        assert distiller.state_dict()["task_loss.weight"].tolist() == [1.0, 3.0]

    @pytest.mark.parametrize(
        ("options", "text"),
        [
            ({"weight": [1.0, -1.0]}, "at least 0"),
            ({"weight": [0.0, 0.0]}, "at least 0"),
            ({"weight": "auto"}, "class_weights"),
            ({"label_smoothing": 1.5}, r"\[0, 1\], got 1.5"),
        ],
    )
    def test_refuses(self, options: dict, text: str):
        with pytest.raises(SegkdError, match=text):
            CrossEntropy(**options)


class TestClassWeights:
    def test_are_enets(self):
        weights = class_weights([800, 150, 50, 0])
        shares = [0.8, 0.15, 0.05, 0.0]
        enet = [1 / math.log(1.02 + share) for share in shares]
        assert [w / weights[0] for w in weights] == pytest.approx([w / enet[0] for w in enet])
        assert sum(w * share for w, share in zip(weights, shares, strict=True)) == pytest.approx(1)

    def test_of_classes_alike_are_1(self):
        assert class_weights([7, 7, 7]) == pytest.approx([1, 1, 1])

    def test_need_pixels(self):
        with pytest.raises(SegkdError, match="there are none"):
            class_weights([0, 0])


class TestOHEM:
    @pytest.mark.parametrize(("threshold", "min_kept"), [(0.7, 0), (0.3, 0), (0.3, 150), (0.7, 10_000), (0.0, 1)])
    def test_is_the_mean_over_the_pixels_that_are_sorted_out_one_by_one(self, threshold: float, min_kept: int):
        logits, target = batch()
        losses = F.cross_entropy(logits, target, ignore_index=255, reduction="none").flatten()
        valid = (target != 255).flatten()
        pairs = sorted(
            (math.exp(-loss), loss) for loss, is_valid in zip(losses.tolist(), valid, strict=True) if is_valid
        )
        limit = threshold
        if min_kept:
            limit = max(limit, pairs[min(min_kept, len(pairs)) - 1][0])
        kept = [loss for probability, loss in pairs if probability <= limit + 1e-9]
        assert float(OHEM(threshold, min_kept)(logits, target).detach()) == pytest.approx(
            sum(kept) / len(kept), rel=1e-5
        )

    def test_a_share_is_of_all_pixels_of_the_batch(self):
        logits, target = batch()
        assert torch.equal(OHEM(0.0, 0.25)(logits, target), OHEM(0.0, target.numel() // 4)(logits, target))

    def test_with_every_pixel_kept_it_is_cross_entropy(self):
        logits, target = batch()
        expected = F.cross_entropy(logits, target, ignore_index=255)
        torch.testing.assert_close(OHEM(1.0)(logits, target), expected)

    def test_nothing_is_hard(self):
        _, target = batch()
        right = F.one_hot(target.masked_fill(target == 255, 0), CLASSES).permute(0, 3, 1, 2).float() * 100
        assert OHEM(0.7, 0)(right, target) == 0

    @pytest.mark.parametrize(
        "options", [{"threshold": 1.1}, {"threshold": -1}, {"min_kept": -1}, {"min_kept": math.inf}]
    )
    def test_refuses(self, options: dict):
        with pytest.raises(SegkdError, match=f"ohem's {next(iter(options))}"):
            OHEM(**options)


class TestFocal:
    def test_without_gamma_it_is_cross_entropy(self):
        logits, target = batch()
        torch.testing.assert_close(Focal(0.0)(logits, target), F.cross_entropy(logits, target, ignore_index=255))

    def test_is_its_formula(self):
        logits, target = batch()
        valid = target != 255
        p = logits.softmax(1).gather(1, target.masked_fill(~valid, 0)[:, None])[:, 0][valid]
        torch.testing.assert_close(Focal(2.0)(logits, target), (-((1 - p) ** 2) * p.log()).mean())

    def test_refuses(self):
        with pytest.raises(SegkdError, match="gamma"):
            Focal(-1.0)


class TestDice:
    @pytest.mark.parametrize("smooth", [0.0, 1.0])
    def test_is_smps_over_the_classes_that_occur(self, smooth: float):
        logits, target = batch()
        # There it is added to once the common pixels, here to twice them.
        theirs = smp.losses.DiceLoss("multiclass", ignore_index=255, smooth=smooth / 2)
        torch.testing.assert_close(Dice(smooth)(logits, target), theirs(logits, target))
        two = torch.where(target == 255, 255, target % 2)
        torch.testing.assert_close(Dice(smooth)(logits, two), theirs(logits, two) * CLASSES / 2)

    def test_refuses(self):
        with pytest.raises(SegkdError, match="smooth"):
            Dice(-1.0)


class TestSum:
    def test_images_without_labels_teach_it_nothing(self):
        logits, target = batch()
        distiller = Distiller(nn.Identity(), None, {}, LOSSES["sum"]())
        out = distiller(logits, target, labelled=torch.tensor([True, False]))
        torch.testing.assert_close(out.loss, value(LOSSES["sum"](), logits[:1], target[:1]))

    def test_is_the_sum_of_its_parts_times_their_scales(self):
        logits, target = batch()
        weighted = CrossEntropy([1.0, 2, 3, 4, 5])
        both = value(Sum([(0.5, weighted), (2.0, Dice())]), logits, target)
        torch.testing.assert_close(both, 0.5 * weighted(logits, target) + 2 * Dice()(logits, target))


class TestOfSmp:
    @pytest.mark.parametrize("kind", ["JaccardLoss", "TverskyLoss", "LovaszLoss", "FocalLoss", "DiceLoss"])
    def test_gives_what_smp_gives(self, kind: str):
        logits, target = batch()
        theirs = getattr(smp.losses, kind)("multiclass", ignore_index=255)
        assert torch.equal(OfSmp(kind)(logits, target), theirs(logits, target))

    @pytest.mark.parametrize(
        ("kind", "options", "text"),
        [
            ("LovasLoss", {}, "did you mean 'LovaszLoss'?"),
            ("SoftBCEWithLogitsLoss", {}, "no loss 'SoftBCEWithLogitsLoss' of classes"),
            ("TverskyLoss", {"alfa": 0.3}, "no option 'alfa', did you mean 'alpha'?"),
            ("DiceLoss", {"mode": "binary"}, "no option 'mode'"),
        ],
    )
    def test_refuses(self, kind: str, options: dict, text: str):
        with pytest.raises(SegkdError) as raised:
            OfSmp(kind, options)
        assert text in str(raised.value)
