import math

import pytest
from torch import nn

from segkd.errors import SegkdError
from segkd.losses import ICSD
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
