from pathlib import Path

import optuna
import pytest

from segkd.errors import SegkdError
from segkd.training.config import load_config
from segkd.tuning.space import Knob, check_space, make_knob, short_names, split_space


@pytest.mark.parametrize(
    ("text", "values", "is_log"),
    [
        ("0.1..3", (0.1, 3.0), True),
        ("1e-4..1e-2", (1e-4, 1e-2), True),
        ("1..8", (1, 8), False),
        ("1..10", (1, 10), True),
        ("0..100", (0, 100), False),
        ("-1..1", (-1, 1), False),
        ("1..8.5", (1.0, 8.5), False),
        (".5..1.5", (0.5, 1.5), False),
    ],
)
def test_ranges(text: str, values: tuple, is_log: bool):
    knob = make_knob("k", text)
    assert knob == Knob("k", values, True)
    assert [type(value) for value in knob.values] == [type(value) for value in values]
    assert knob.is_log == is_log


@pytest.mark.parametrize(
    ("given", "values"),
    [
        ("1,2,4", (1, 2, 4)),
        ("sgd, adamw", ("sgd", "adamw")),
        ("[64,96],[96,128]", ([64, 96], [96, 128])),
        ("null,0.5,true", (None, 0.5, True)),
        ([1, 2], (1, 2)),
    ],
)
def test_choices(given: object, values: tuple):
    assert make_knob("k", given) == Knob("k", values, False)


def test_numbers_that_hardly_differ_are_told_apart():
    knob = make_knob("k", "0.100001,0.100002")
    assert knob is not None
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    assert {knob.suggest(study.ask()) for _ in range(20)} == {0.100001, 0.100002}
    assert str(make_knob("k", "0.100001..0.2")) == "0.100001..0.2"


@pytest.mark.parametrize(
    "text", ["1", "", "[256,512]", "../data", "a..b/c", "{alw: {rise: [task], fall: [kd]}}", "[1,"]
)
def test_plain_changes(text: str):
    assert split_space([f"k={text}"]) == ([], [f"k={text}"])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("k=3..1", "k=3..1 is no range: one is 0.1..3, or 1..8 of whole numbers, the smaller first"),
        ("k=2..2", "k=2..2 is no range"),
        ("k=a..b", "k=a..b is no range"),
        ("k=1..nan", "k=1..nan is no range"),
        ("k=true..2", "k=true..2 is no range"),
        ("k=1..1e999", "k=1..1e999 is no range"),
        ("name=a,b", "name cannot be searched over: it is the same in all trials, and for their teacher"),
        ("seed=0..9", "seed cannot be searched over"),
        ("data.val_split=train,val", "data.val_split cannot be searched over"),
        ("teacher.overrides.seed=1,2", "teacher.overrides.seed cannot be searched over"),
    ],
)
def test_what_is_no_space(text: str, says: str):
    with pytest.raises(SegkdError) as raised:
        split_space([text])
    assert says in str(raised.value)


def test_of_a_key_that_is_given_twice_the_last_counts():
    knobs, others = split_space(["a=1,2", "b=3", "c=1..2", "a=3,4"])
    assert [(knob.key, str(knob)) for knob in knobs] == [("a", "3,4"), ("c", "1..2")]
    assert others == ["b=3"]


def test_names_are_as_short_as_tells_them_apart():
    keys = ["distill.terms.kd.weight", "distill.terms.icsd.weight", "optimizer.lr", "weight"]
    assert list(short_names(keys).values()) == ["kd.weight", "icsd.weight", "lr", "weight"]


class TestEnds:
    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("optimizer.lr=-1..1", "optimizer.lr: expected more than 0, got -1"),
            ("data.flip=0.5..1.5", "data.flip: expected at most 1, got 1.5"),
            ("trainer.max_steps=1.5..8", "trainer.max_steps: expected a whole number, got 1.5"),
            ("optimizer.name=sgd,adam", "(did you mean 'adamw'?)"),
            ("optimizer.lrr=0.1..1", "there is no key 'optimizer.lrr', did you mean 'lr'?"),
            ("distill.terms.kd.temperature=-1..2", "temperature must be above 0"),
        ],
    )
    def test_are_checked(self, experiment: Path, text: str, says: str):
        knobs, _ = split_space(["data.blur=0,1", text])
        with pytest.raises(SegkdError) as raised:
            check_space(load_config("distilled.yaml"), knobs, build=True)
        assert says in str(raised.value)
        assert "the keywords" not in str(raised.value)

    def test_are_all_taken(self, experiment: Path):
        knobs, _ = split_space(["optimizer.lr=0.1..1", "data.flip=0,0.5,1"])
        found = [(end.optimizer.lr, end.data.flip) for end in check_space(load_config("tiny.yaml"), knobs)]
        assert found == [(0.1, 0), (1, 0), (0.1, 0.5), (0.1, 1)]


def test_a_weight_and_a_share_of_one_term_are_not_searched_over_together(experiment: Path):
    config = load_config(str(experiment / "distilled.yaml"))
    knobs = [make_knob(f"distill.terms.kd.{key}", "1..2") for key in ("weight", "share")]
    with pytest.raises(SegkdError, match=r"terms\.kd is given a weight and a share: a term has one or the other"):
        check_space(config, knobs)
    assert len(check_space(config, knobs[1:])) == 2
