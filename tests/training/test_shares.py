"""Terms with a share in a config: trained, logged, resumed to the bit, alone and in a stage."""

from pathlib import Path

import pytest
from experiments import cut_at, expect_same, scalars, segkd, train, write

from segkd.training.config import load_config

SHARES = {"icsd": {"share": 0.5}, "kd": {"share": 1.0}}


@pytest.mark.parametrize("stages", [None, [{"steps": 2}, {"steps": 2}]], ids=["whole", "stages"])
def test_a_run_with_shares_is_resumed_as_if_it_had_never_stopped(experiment: Path, stages: object) -> None:
    whole = {"stages": stages, "trainer": {"max_steps": None}} if stages else {}
    write(experiment / "shared.yaml", {"base": "distilled.yaml", "distill": {"terms": SHARES}, **whole})
    train(experiment / "shared.yaml", "name=whole")
    with cut_at(3):
        segkd("train", experiment / "shared.yaml", "name=cut", "trainer.checkpoint_every=1")
    train("--resume", experiment / "runs/cut")
    expect_same(experiment / "runs/cut", experiment / "runs/whole")
    shown = scalars(experiment / "runs/whole")
    assert len(shown["gradient/task"]) == len(shown["weight/kd"]) == 4
    assert all(value > 0 for name in ("task", "icsd", "kd") for value in shown[f"gradient/{name}"])


def test_a_share_takes_the_place_of_a_bases_weight_and_the_other_way_round(experiment: Path) -> None:
    write(experiment / "shared.yaml", {"base": "distilled.yaml", "distill": {"terms": SHARES}})
    terms = load_config(str(experiment / "shared.yaml")).distill.named_terms()
    assert (terms["kd"].share, "weight" in terms["kd"].model_fields_set) == (1.0, False)
    again = load_config(str(experiment / "shared.yaml"), ["distill.terms.kd.weight=3"]).distill.named_terms()["kd"]
    assert (again.share, again.weight) == (None, 3.0)
