import math
import re

import pytest
from torch import nn

from segkd import Distiller
from segkd.errors import SegkdError
from segkd.losses import ICSD, PixelKD
from segkd.term import Term


def test_reads_the_logits_at_the_teachers_size_unless_told_otherwise() -> None:
    term = Term(ICSD())
    assert (term.student, term.teacher, term.size, term.weight, term.connector) == (
        "logits",
        "logits",
        "teacher",
        1.0,
        None,
    )


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf])
def test_a_weight_out_of_range_is_an_error(weight: float) -> None:
    with pytest.raises(SegkdError, match=f"weight must be finite and at least 0, got {weight}"):
        Term(ICSD(), weight=weight)


@pytest.mark.parametrize("given", ["1", None, True, [1]])
def test_what_is_no_number_is_an_error(given: object) -> None:
    for make, what in (
        (lambda: Term(ICSD(), weight=given), "a term's weight"),
        (lambda: Term(ICSD(), share=given), "a term's share"),
        (lambda: PixelKD(temperature=given), "temperature"),
        (lambda: Distiller(nn.Identity(), None, {}, nn.MSELoss(), task_weight=given), "task_weight"),
    ):
        if what != "a term's share" or given is not None:
            with pytest.raises(SegkdError, match=f"{what} must be .*, got {re.escape(repr(given))}"):
                make()


@pytest.mark.parametrize(
    ("terms", "says"),
    [
        ([PixelKD()], "terms are given by name"),
        (None, "terms are given by name, .*, got NoneType"),
        (Term(PixelKD()), "terms are given by name, .*, got Term"),
        ({1: Term(PixelKD())}, "the term name 1 must be an identifier"),
        ({"kd": PixelKD()}, "term 'kd' must be a segkd.Term, got PixelKD"),
    ],
)
def test_what_are_no_terms(terms: object, says: str) -> None:
    with pytest.raises(SegkdError, match=says):
        Distiller(nn.Identity(), nn.Identity(), terms, nn.MSELoss())


@pytest.mark.parametrize("student", ["net", None, nn.Identity])
def test_what_is_no_student(student: object) -> None:
    with pytest.raises(SegkdError, match=r"the student must be a torch\.nn\.Module, got (str|NoneType|class)"):
        Distiller(student, nn.Identity(), {"kd": Term(PixelKD())}, nn.MSELoss())


def test_a_weight_of_zero_is_none() -> None:
    Term(ICSD(), weight=0)


def test_an_unknown_size_is_an_error() -> None:
    with pytest.raises(SegkdError, match=r"'labels', did you mean 'label'\?"):
        Term(ICSD(), size="labels")


@pytest.mark.parametrize("loss", [None, "icsd", 3])
def test_a_loss_must_be_callable(loss: object) -> None:
    with pytest.raises(SegkdError, match=f"callable, got {type(loss).__name__}"):
        Term(loss)


def test_a_class_is_not_its_instance() -> None:
    with pytest.raises(SegkdError, match=r"write ICSD\(\)"):
        Term(ICSD)


def test_a_plain_function_is_a_loss() -> None:
    assert Term(lambda student, teacher, target: (student - teacher).square().mean()).weight == 1.0
    assert Term(nn.MSELoss()).weight == 1.0
