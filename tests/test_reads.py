"""Terms that read several places, and losses that see the step."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from nets import CLASSES, Net, Twice, WithAux, batch, cross_entropy, seeded
from torch import Tensor, nn

from segkd import Distiller, Term
from segkd.errors import SegkdError
from segkd.losses import PixelKD
from segkd.step import Step

IMAGES, MASKS = batch()


class Seen(nn.Module):
    """A loss that remembers what it was called with."""

    def __init__(self, needs_step: bool = False) -> None:
        super().__init__()
        self.needs_step, self.calls = needs_step, list[tuple[Any, ...]]()

    def forward(self, student: Any, teacher: Any, *rest: Any) -> Tensor:
        self.calls.append((student, teacher, *rest))
        first = student[-1] if isinstance(student, list) else student
        return first.square().mean()


def make(term: Term, student: nn.Module | None = None, teacher: Any = None) -> Distiller:
    student = seeded(Net, 0) if student is None else student
    return Distiller(student, seeded(Net, 1) if teacher is None else teacher, {"x": term}, cross_entropy())


def called(term: Term, *models: Any) -> tuple[Any, ...]:
    make(term, *models).eval()(IMAGES, MASKS)
    return term.loss.calls[-1]  # type: ignore[attr-defined, union-attr]


class TestLists:
    def test_of_both_sides(self) -> None:
        student, teacher = seeded(Net, 0), seeded(Net, 1)
        s, t, target = called(
            Term(Seen(), student=["encoder.0", "logits"], teacher=("encoder.0", "logits")), student, teacher
        )
        assert target is MASKS
        for (first, second), model in ((s, student), (t, teacher)):
            torch.testing.assert_close(first, model.encoder[0](IMAGES))
            torch.testing.assert_close(second, model(IMAGES))

    @pytest.mark.parametrize(("size", "taken"), [("teacher", (8, 12)), ("student", (4, 6)), ("label", (16, 24))])
    def test_each_pair_is_brought_to_one_size(self, size: str, taken: tuple[int, int]) -> None:
        student, teacher = seeded(Net, 0, stride=4), seeded(Net, 1, stride=2)
        term = Term(Seen(), student=["encoder", "logits"], teacher=["encoder", "logits"], size=size)  # type: ignore[arg-type]
        s, t, _ = called(term, student, teacher)
        assert {tuple(x.shape[2:]) for x in (*s, *t)} == {taken}

    def test_one_place_against_several_teachers(self) -> None:
        teachers = {"one": seeded(Net, 1, stride=2), "two": seeded(Net, 2)}
        s, t, _ = called(Term(Seen(), teacher=["one:logits", "two:logits"]), None, teachers)
        assert isinstance(s, Tensor)
        assert [tuple(x.shape) for x in (s, *t)] == [(2, CLASSES, 8, 12)] * 3
        two = F.interpolate(teachers["two"](IMAGES), size=(8, 12), mode="bilinear")
        torch.testing.assert_close(t[1], two)

    def test_a_list_of_one_is_a_list(self) -> None:
        s, t, _ = called(Term(Seen(), student=["encoder"], teacher="encoder"))
        assert isinstance(s, list)
        assert isinstance(t, Tensor)

    def test_other_numbers_of_places_are_left_as_they_are(self) -> None:
        student = seeded(Net, 0, stride=2)
        s, t, _ = called(Term(Seen(), student=["encoder", "logits"], teacher=["logits"] * 3), student)
        assert [tuple(x.shape[2:]) for x in (*s, *t)] == [(8, 12)] * 2 + [(16, 24)] * 3

    def test_a_module_that_runs_twice_gives_a_list_in_the_list(self) -> None:
        s, _, _ = called(Term(Seen(), student=["head", "logits"], teacher=["logits"] * 2), seeded(Twice, 0))
        assert [len(s[0]), s[1].shape[1]] == [2, CLASSES]

    def test_a_connector_for_each_pair(self) -> None:
        places = {"student": ["encoder.0", "encoder"], "teacher": ["encoder.0", "logits"]}
        distiller = make(Term(Seen(), connector="conv1x1", **places), teacher=seeded(Net, 1, width=9))
        assert [tuple(c.weight.shape[:2]) for c in distiller.connectors["x"]] == [(9, 6), (CLASSES, 6)]
        distiller(IMAGES, MASKS).loss.backward()
        assert distiller.connectors["x"][1].weight.grad.abs().sum() > 0
        s, t, _ = distiller.terms["x"].loss.calls[-1]
        assert [x.shape for x in s] == [x.shape for x in t]
        own = nn.ModuleList([nn.Conv2d(6, 9, 1), nn.Conv2d(6, CLASSES, 1)])
        assert make(Term(Seen(), connector=own, **places), teacher=seeded(Net, 1, width=9)).connectors["x"] is own

    @pytest.mark.parametrize(
        ("settings", "says"),
        [
            (
                {"student": ["encoder", "logits"], "teacher": "logits", "connector": "conv1x1"},
                "connectors map place to",
            ),
            (
                {"student": ["encoder"] * 2, "teacher": ["encoder"] * 2, "connector": nn.Conv2d(6, 6, 1)},
                "term 'x' reads 2 places: its connectors are a ModuleList of 2",
            ),
            (
                {"student": ["encoder", "encodr"], "teacher": ["encoder"] * 2},
                "no module 'encodr': did you mean 'encoder'",
            ),
        ],
    )
    def test_what_does_not_fit(self, settings: dict[str, Any], says: str) -> None:
        with pytest.raises(SegkdError, match=says) as error:
            make(Term(Seen(), **settings))
        assert "\n" not in str(error.value)

    def test_a_loss_that_takes_none_says_so(self) -> None:
        both = ["encoder", "logits"]
        with pytest.raises(SegkdError, match="term 'x': PixelKD takes no lists: have a term for each pair of places"):
            make(Term(PixelKD(), student=both, teacher=both))(IMAGES, MASKS)

    @pytest.mark.parametrize("places", [[], ["encoder", 3], [""], 3, {"a": "b"}, None])
    def test_what_names_no_place(self, places: Any) -> None:
        with pytest.raises(SegkdError, match="reads a place by its name, or a list of them, got"):
            Term(PixelKD(), student=places)


class TestStep:
    def test_a_loss_that_needs_the_step_gets_it(self) -> None:
        term, labelled = Term(Seen(needs_step=True)), torch.tensor([True, False])
        distiller = make(term)
        distiller(IMAGES, MASKS, 0.25, labelled=labelled, views=[(0, 1), (2, 3)])
        (*_, target, step) = term.loss.calls[-1]  # type: ignore[attr-defined]
        assert isinstance(step, Step)
        assert step.images is IMAGES
        assert step.target is target
        assert (step.labelled is labelled, step.views, step.progress) == (True, [(0, 1), (2, 3)], 0.25)

    def test_others_do_not(self) -> None:
        assert len(called(Term(Seen()))) == 3


def test_auxiliary_logits_of_both() -> None:
    terms = {"x": Term(PixelKD(), student="aux", teacher="aux")}
    out = Distiller(seeded(WithAux, 0), seeded(WithAux, 1), terms, cross_entropy())(IMAGES, MASKS)
    torch.testing.assert_close(out.terms["x"], PixelKD()(out.student["aux"], out.teacher["aux"]).detach())


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        (lambda s, t, y: F.mse_loss(s, t, reduction="none"), r"shape \(\d+, \d+, \d+, \d+\)"),
        (lambda s, t, y: s.mean((1, 2, 3)), r"shape \(\d+,\)"),
        (lambda s, t, y: 0.5, "float"),
        (lambda s, t, y: None, "NoneType"),
    ],
)
def test_a_loss_returns_one_value(returned: Any, says: str) -> None:
    """The sum over a map would be as many times too large."""
    distiller = Distiller(Net(), Net(), {"own": Term(returned)}, cross_entropy())
    with pytest.raises(SegkdError, match=f"term 'own': its loss must return a tensor of one value, got {says}"):
        distiller(IMAGES, MASKS)


def test_one_value_may_have_any_number_of_dimensions() -> None:
    distiller = Distiller(Net(), Net(), {"own": Term(lambda s, t, y: s.square().mean().view(1, 1))}, cross_entropy())
    assert distiller(IMAGES, MASKS).terms["own"].shape == ()
