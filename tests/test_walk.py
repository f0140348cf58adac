"""A step goes one way through the files of the core: each hands on to the next, and none is come back to."""

import sys
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import torch
from experiments import TINY
from nets import CLASSES, Net, WithAux, batch, cross_entropy, seeded

import segkd
from segkd import Distiller, Term
from segkd.losses import CWD, ICSD
from segkd.network import Network
from segkd.schedules import Linear
from segkd.training.module import DistillModule
from segkd.training.segmentation.schema import SegmentationConfig
from segkd.training.segmentation.task import SegmentationTask
from segkd.weighting import RelativeDifficulty

FOLDER = f"{Path(segkd.__file__).parent}/"
TOOLS = {"outputs.py", "losses/_common.py", "losses/_rows.py"}
"""Functions on tensors that call nothing but each other: they count as torch's own do."""
HOOK = "_Recorder.__call__"
IMAGES, MASKS = batch()


def room(file: str) -> str:
    """Return the file, or the folder of the methods on tensors, each of which is its own affair."""
    return file.partition("/")[0] if file.startswith("weighting/") else file


def calls(function: Callable[[], Any]) -> list[tuple[str, str, str]]:
    """Return each call of a function of segkd, in order: the caller's file, its own, its name.

    What runs inside of a model, its own forward hooks too, is the model's: of a `Network` its forward pass is there.
    So is what a loss or a weighting calls of its own kind.
    """
    found: list[tuple[str, str, str]] = []

    def of_segkd(frame: FrameType | None) -> FrameType | None:
        while frame is not None and not frame.f_code.co_filename.startswith(FOLDER):
            frame = frame.f_back
        return frame

    def note(frame: FrameType, event: str, _: object) -> None:
        code, back = frame.f_code, of_segkd(frame.f_back)
        if event != "call" or not code.co_filename.startswith(FOLDER) or code.co_name.startswith("<"):
            return
        file = code.co_filename.removeprefix(FOLDER)
        caller = back.f_code.co_filename.removeprefix(FOLDER) if back else ""
        is_inside = caller.startswith(("losses/", "weighting/")) or caller == "network.py"
        if file not in TOOLS and code.co_qualname != HOOK and not is_inside:
            found.append((caller, file, code.co_qualname))

    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(None)
    return found


def distiller() -> Distiller:
    names = [str(number) for number in range(CLASSES)]
    terms = {"icsd": Term(ICSD()), "cwd": Term(CWD(), student="encoder", teacher="encoder", connector="conv1x1")}
    schedule = {"icsd": Linear(1.0, 0.0)}
    networks = Network(seeded(Net, 0), classes=names), Network(seeded(WithAux, 1, width=9), classes=names)
    return Distiller(*networks, terms, cross_entropy(), RelativeDifficulty(), schedule)


def rooms(hops: list[tuple[str, str, str]]) -> list[str]:
    """Return the rooms that were entered one after the other; the models are no room, they are called from one."""
    return [key for key, _ in groupby(room(file) for _, file, _ in hops if file != "network.py")]


def between(hops: list[tuple[str, str, str]]) -> list[str]:
    """Return the calls that lead from one file to another."""
    return [f"{file}: {name}" for caller, file, name in hops if room(caller) != room(file)]


ORDER = ["adapter.py", "weighting", "supervision.py", "reads.py", "losses/icsd.py", "losses/cwd.py", "schedules.py"]


def test_a_step_comes_back_to_no_file() -> None:
    made = distiller()
    hops = calls(lambda: made(IMAGES, MASKS, 0.05))
    assert rooms(hops) == ["distiller.py", *ORDER]
    assert len(between(hops)) <= 16, hops
    assert len({name for *_, name in hops}) <= 25, hops


def test_nor_does_one_of_which_some_images_have_no_label_and_a_teacher_is_given() -> None:
    made = distiller().eval()
    given = {"logits": torch.zeros(2, CLASSES, 16, 24), "encoder": torch.zeros(2, 9, 16, 24)}
    given["aux"] = given["logits"]
    labelled = torch.tensor([True, False])
    hops = calls(lambda: made(IMAGES, MASKS, 0.05, labelled=labelled, teacher=given))
    assert rooms(hops) == ["distiller.py", "teachers.py", "step.py", *ORDER]


def test_from_the_training_step_to_the_loss() -> None:
    data: dict[str, Any] = {"dataset": "camvid", "crop": [32, 32]}
    task = SegmentationTask(SegmentationConfig.model_validate({**TINY, "data": data}))
    module = DistillModule(task, distiller())
    module._trainer = SimpleNamespace(global_step=1, global_rank=0, world_size=1)  # type: ignore[assignment]
    module._log_training = lambda *_: None  # type: ignore[method-assign]
    keys = {"epoch": torch.zeros(len(IMAGES), dtype=torch.long), "index": torch.arange(len(IMAGES))}
    hops = calls(lambda: module.training_step({"image": IMAGES, "mask": MASKS, **keys}, 1))
    begin = ["training/module.py", "training/segmentation/task.py", "distiller.py"]
    # Back in the training step it looks at what came out.
    assert rooms(hops) == [*begin, *ORDER, "training/module.py"]
    assert len(between(hops)) <= 20, hops  # and five before: see docs/architecture.md
