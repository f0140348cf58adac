"""Images that fool the teacher in a run: stored or made anew they end it alike, cut or not."""

import json
from pathlib import Path

from experiments import cut_at, expect_same, make_detection_experiment, segkd, train, write

from segkd.store.store import stores


def test_stored_or_not_a_run_ends_alike_and_resumes_exactly(tmp_path: Path) -> None:
    folder = make_detection_experiment(tmp_path)
    terms = {"class": None, "box": None, "own": {"loss": "inconsistent_kd", "weight": 1.0e-3}}
    changed = {"base": "distilled.yaml", "distill": {"terms": terms}, "data": {"views": 1}}
    changed["trainer"] = {"max_steps": 2}
    store = {"folder": str(folder / "kept")}
    train(write(folder / "anew.yaml", {**changed, "name": "anew"}))
    path = write(folder / "stored.yaml", {**changed, "name": "stored", "teacher": {"store": store}})
    with cut_at(1):
        segkd("train", path, "trainer.checkpoint_every=1")
    (listed,) = stores(folder / "kept")
    assert {each.parent.parent.name for each in listed.store.folder.rglob("*.safetensors")} == {"adversarial"}
    train("--resume", folder / "runs/stored")
    result = folder / "runs/stored/result.json"
    found = json.loads(result.read_text())
    assert found.pop("store")["views"] == 0  # all of them were there
    result.write_text(json.dumps(found))
    expect_same(folder / "runs/stored", folder / "runs/anew")
