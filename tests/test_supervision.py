"""Batches of which not every image has labels."""

from pathlib import Path
from typing import Any

import pytest
import torch
from nets import CLASSES, Net, WithAux, batch, cross_entropy, seeded
from processes import in_two_processes
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from segkd import Distiller, Term
from segkd.adapter import Adapter
from segkd.errors import SegkdError
from segkd.losses import ICSD, PixelKD
from segkd.weighting import RelativeDifficulty

IMAGES, MASKS = batch(4)
SOME, NONE = torch.tensor([True, False, False, True]), torch.zeros(4, dtype=torch.bool)
GARBAGE = torch.where(SOME[:, None, None], MASKS, 7)
"""Labels of which the unlabelled images have some that name no class."""


def make(
    loss: Any = None, student: type[nn.Module] = Net, norm: bool = True, terms: Any = None, **arguments: Any
) -> Distiller:
    settings = {"norm": norm} if student is Net else {}
    terms = {"kd": Term(PixelKD())} if terms is None else terms
    return Distiller(seeded(student, 0, **settings), seeded(WithAux, 1), terms, loss or cross_entropy(), **arguments)


class TestLabelled:
    @pytest.mark.parametrize("progress", [0.05, 0.5])
    @pytest.mark.parametrize("variant", ["paper", "released"])
    def test_the_task_loss_and_the_weighting_see_the_labelled_images_alone(self, variant: Any, progress: float) -> None:
        for weighting in (None, RelativeDifficulty(variant=variant, min_kept=50)):
            distiller = make(pixel_weighting=weighting).eval()
            out = distiller(IMAGES, GARBAGE, progress, labelled=SOME)
            alone = distiller(IMAGES[SOME], MASKS[SOME], progress)
            torch.testing.assert_close(out.terms["task"], alone.terms["task"])
            whole = distiller(IMAGES, MASKS, progress)
            torch.testing.assert_close(out.terms["kd"], whole.terms["kd"])
            if weighting is not None:
                torch.testing.assert_close(out.pixel_weights[SOME], alone.pixel_weights)
                assert (out.pixel_weights[~SOME] == 0).all()

    def test_the_auxiliary_loss_too(self) -> None:
        distiller = make(student=WithAux, adapter=Adapter(auxiliary_weight=0.4)).eval()
        out = distiller(IMAGES, GARBAGE, labelled=SOME)
        torch.testing.assert_close(out.parts, distiller(IMAGES[SOME], MASKS[SOME]).parts)
        assert set(out.parts) == {"main", "auxiliary"}

    def test_a_loss_without_ignore_index(self) -> None:
        distiller = make(lambda logits, target: nn.functional.cross_entropy(logits, target)).eval()
        labels = MASKS.masked_fill(MASKS == 255, 0)
        expected = distiller(IMAGES[SOME], labels[SOME]).terms["task"]
        torch.testing.assert_close(
            distiller(IMAGES, torch.where(SOME[:, None, None], labels, 99), labelled=SOME).terms["task"], expected
        )
        out = distiller(IMAGES, torch.full_like(MASKS, 99), labelled=NONE)
        assert out.terms["task"] == 0
        out.loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in distiller.parameters())

    @pytest.mark.parametrize("weighting", [None, RelativeDifficulty(), RelativeDifficulty(normalize="all", switch=0)])
    @pytest.mark.parametrize("terms", [{}, {"kd": Term(PixelKD())}])
    def test_no_labelled_image(self, terms: Any, weighting: Any) -> None:
        loss = nn.CrossEntropyLoss(ignore_index=255, weight=torch.arange(1.0, CLASSES + 1))
        arguments: dict[str, Any] = {"pixel_weighting": weighting, "adapter": Adapter(auxiliary_weight=0.4)}
        distiller = make(loss, WithAux, terms=terms, **arguments)
        out = distiller(IMAGES, GARBAGE, 0.05, labelled=NONE)
        assert out.terms["task"] == 0
        assert out.pixel_weights is None or (out.pixel_weights.shape, out.pixel_weights.sum()) == (MASKS.shape, 0)
        out.loss.backward()
        # In a distributed run each needs one.
        assert all(p.grad is not None and p.grad.isfinite().all() for p in distiller.parameters())

    def test_all_are_as_without_saying(self) -> None:
        distiller = make(pixel_weighting=RelativeDifficulty()).eval()
        out = distiller(IMAGES, MASKS, 0.5, labelled=torch.ones(4, dtype=torch.bool))
        torch.testing.assert_close(out.loss, distiller(IMAGES, MASKS, 0.5).loss, rtol=0, atol=0)

    def test_terms_see_no_label_of_an_unlabelled_image(self) -> None:
        seen: list[Tensor] = []

        def own(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
            seen.append(target)
            return student.mean()

        make(terms={"own": Term(own)})(IMAGES, GARBAGE.to(torch.uint8), labelled=SOME)
        assert seen[0].dtype == torch.int64
        assert torch.equal(seen[0], torch.where(SOME[:, None, None], MASKS, 255))

    def test_models_of_any_output(self) -> None:
        class Object(Net):
            def forward(self, x: Tensor) -> Any:
                return type("Output", (), {"logits": super().forward(x), "hidden": None})()

        expected = make().eval()(IMAGES, GARBAGE, labelled=SOME).terms["task"]
        torch.testing.assert_close(make(student=Object).eval()(IMAGES, GARBAGE, labelled=SOME).terms["task"], expected)

    @pytest.mark.parametrize(
        ("labelled", "target", "says"),
        [
            (torch.ones(4), MASKS, r"labelled must be a bool tensor \(4,\), got torch.float32 \(4,\)"),
            (torch.ones(3, dtype=torch.bool), MASKS, r"bool tensor \(4,\), got torch.bool \(3,\)"),
            ([True] * 4, MASKS, r"bool tensor \(4,\), got \[True"),
            (SOME, None, "labelled says which images have labels, but there is no target"),
        ],
    )
    def test_what_says_nothing(self, labelled: Any, target: Any, says: str) -> None:
        with pytest.raises(SegkdError, match=says) as error:
            make()(IMAGES, target, labelled=labelled)
        assert "\n" not in str(error.value)


class TestNoTarget:
    def test_terms_alone_teach(self) -> None:
        distiller = make(pixel_weighting=RelativeDifficulty()).eval()
        out = distiller(IMAGES, None, 0.05)
        assert out.terms["task"] == 0
        assert out.pixel_weights is None
        assert out.parts == {"main": 0}
        torch.testing.assert_close(out.loss, distiller(IMAGES, MASKS, 0.05).terms["kd"])
        out.loss.backward()
        assert distiller.student.head.weight.grad.abs().sum() > 0

    def test_losses_that_can_do_without_labels_do(self) -> None:
        terms = {name: Term(loss(ignore_index=255)) for name, loss in {"kd": PixelKD, "icsd": ICSD}.items()}
        out = make(terms=terms)(IMAGES, None)
        assert all(out.terms[name] > 0 for name in terms)

    def test_without_term_there_is_nothing_to_learn(self) -> None:
        out = Distiller(seeded(Net, 0).double(), None, {}, cross_entropy())(IMAGES.double(), None)
        assert out.loss == 0
        assert not out.loss.requires_grad

    @pytest.mark.parametrize(
        ("term", "says"),
        [
            (Term(lambda s, t, target: s[target != 255].mean() * target.float().mean()), "<lambda> reads labels"),
            (Term(nn.CrossEntropyLoss(), size="label"), "at the labels' size, and this batch has no labels"),
            (Term(PixelKD(), size="label"), "at the labels' size, and this batch has no labels"),
        ],
    )
    def test_a_loss_that_needs_labels_says_so(self, term: Term, says: str) -> None:
        with pytest.raises(SegkdError, match=f"term 'x'.*{says}") as error:
            make(terms={"x": term})(IMAGES, None)
        assert "\n" not in str(error.value)

    def test_another_error_of_a_loss_is_its_own(self) -> None:
        def own(student: Tensor, teacher: Tensor, target: Tensor | None) -> Tensor:
            raise TypeError("nothing to do with labels")

        with pytest.raises(TypeError, match="nothing to do"):
            make(terms={"x": Term(own)})(IMAGES, None)


WEIGHTINGS: tuple[Any, ...] = (None, {}, {"normalize": "kept", "switch": 0.0})


def distiller_of(weighting: dict[str, Any] | None) -> Distiller:
    arguments = {} if weighting is None else {"pixel_weighting": RelativeDifficulty(**weighting)}
    return make(norm=False, terms={"kd": Term(PixelKD())}, **arguments)


def worker(rank: int, folder: Path) -> None:
    """Run one step on this process's half of the batch, of which the second has no labelled image."""
    half = slice(2 * rank, 2 * rank + 2)
    labelled = torch.tensor([True, True, False, False])
    for number, weighting in enumerate(WEIGHTINGS):
        distiller = distiller_of(weighting)
        wrapped = DistributedDataParallel(distiller)
        for _ in range(2):
            wrapped(IMAGES[half], MASKS[half], 0.05, labelled=labelled[half]).loss.backward()
        gradients = {name: parameter.grad for name, parameter in distiller.named_parameters()}
        torch.save(gradients, folder / f"{number}-{rank}.pt")


@pytest.mark.slow
def test_a_process_without_labelled_image_counts_as_none(tmp_path: Path) -> None:
    in_two_processes(worker, tmp_path)
    for number, weighting in enumerate(WEIGHTINGS):
        single = distiller_of(weighting)
        for _ in range(2):
            single(IMAGES, MASKS, 0.05, labelled=torch.tensor([True, True, False, False])).loss.backward()
        for rank in range(2):
            theirs = torch.load(tmp_path / f"{number}-{rank}.pt", weights_only=True)
            for name, parameter in single.named_parameters():
                torch.testing.assert_close(theirs[name], parameter.grad, rtol=1e-4, atol=1e-6, msg=f"{number} {name}")


def test_a_task_loss_of_many_values_is_refused_where_one_is_wanted() -> None:
    with pytest.raises(SegkdError, match=r"the task loss must return one value, as with reduction='mean', got \(4, "):
        make(nn.CrossEntropyLoss(ignore_index=255, reduction="none"))(IMAGES, MASKS)
