"""Faults of files that a run leaves or reads: checkpoints, students, results."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from faults.row import Fault, fifo, remove

MODEL, DESCRIPTION = "runs/tiny/student/model.safetensors", "runs/tiny/student/config.json"
BEST, LAST = "runs/tiny/checkpoints/best.ckpt", "runs/tiny/checkpoints/last.ckpt"
BIAS = "distiller.student.segmentation_head.0.bias"
METRICS, RESULT = "runs/tiny/metrics.csv", "runs/tiny/result.json"
ALL = {
    "eval": "eval runs/tiny",
    "export": "export runs/tiny",
    "bench": "bench runs/tiny",
    "predict": "predict runs/tiny data/val --out f",
}
"""What opens a student, by name."""


def weights(name: str, content: bytes, file: str) -> Fault:
    """Return the row of a student that starts from a file of weights that is none."""
    return Fault(name, f"train tiny.yaml student.checkpoint={file}", (file,), {file: content})


def unfinished(change: Callable[[Path], None] | None = None) -> Callable[[Path], None]:
    """Return what takes the result of the run away, so that it can be resumed, and then changes something."""

    def prepare(folder: Path) -> None:
        (folder / RESULT).unlink()
        if change is not None:
            change(folder)

    return prepare


def in_checkpoint(file: str, change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """Return what changes the content of a checkpoint, or writes what `change` returns in its place."""

    def prepare(folder: Path) -> None:
        content = torch.load(folder / file, weights_only=True)
        torch.save(change(content) or content, folder / file)

    return prepare


def put_nan(file: str) -> Callable[[Path], None]:
    """Return what makes one value of the first matrix of a file of weights NaN."""

    def prepare(folder: Path) -> None:
        state = safetensors.torch.load_file(folder / file)
        next(value for value in state.values() if value.ndim == 4)[0, 0, 0, 0] = float("nan")
        safetensors.torch.save_file(state, folder / file)

    return prepare


def cut_short(file: str) -> Callable[[Path], None]:
    """Return what takes the last bytes of a file away."""

    def prepare(folder: Path) -> None:
        (folder / file).write_bytes((folder / file).read_bytes()[:-9])

    return prepare


def another_arch(folder: Path) -> None:
    """Make the run's config one of another architecture than its checkpoints."""
    config = folder / "runs/tiny/config.yaml"
    config.write_text(config.read_text().replace("DeepLabV3Plus", "Unet"))


FAULTS = [
    weights("weights that are empty", b"", "a.pth"),
    weights("weights that are text", b"hello", "a.pt"),
    weights("safetensors that are noise", b"x" * 99, "a.safetensors"),
    weights("a checkpoint that is half a zip", b"PK\x03\x04", "a.ckpt"),
    Fault(
        "a student without weights",
        "predict runs/tiny data/val --out f",
        ("runs/tiny",),
        prepare=remove(MODEL),
        folder="run",
    ),
    Fault(
        "a student with torn weights", "predict runs/tiny data/val --out f", (MODEL,), {MODEL: b"torn"}, folder="run"
    ),
    Fault(
        "a student with torn description",
        "predict runs/tiny data/val --out f",
        (DESCRIPTION,),
        {DESCRIPTION: '{"a'},
        folder="run",
    ),
    Fault(
        "a student whose description is a list",
        "predict runs/tiny data/val --out f",
        (DESCRIPTION,),
        {DESCRIPTION: "[]"},
        folder="run",
    ),
    Fault(
        "a student of an unknown class",
        "predict runs/tiny data/val --out f",
        (DESCRIPTION,),
        {DESCRIPTION: '{"_model_class": "Nothing"}'},
        folder="run",
    ),
    Fault("eval of a student with torn weights", "eval runs/tiny", (MODEL,), {MODEL: b"torn"}, folder="run"),
    Fault("export of a student with torn weights", "export runs/tiny", (MODEL,), {MODEL: b"torn"}, folder="run"),
    Fault(
        "resume from a torn checkpoint",
        "train --resume runs/tiny",
        (LAST,),
        {LAST: b"torn"},
        remove("runs/tiny/result.json"),
        "run",
    ),
    Fault(
        "resume with a torn config",
        "train --resume runs/tiny",
        ("runs/tiny/config.yaml",),
        {"runs/tiny/config.yaml": "name: [x"},
        folder="run",
    ),
    Fault(
        "a run without config", "eval runs/tiny", ("runs/tiny",), prepare=remove("runs/tiny/config.yaml"), folder="run"
    ),
    Fault(
        "a report on a torn result",
        "compare --report-only runs",
        ("result.json",),
        {"runs/tiny/result.json": "{"},
        folder="run",
    ),
    *(
        Fault(
            f"{name} of a student with NaN",
            command,
            (MODEL, "' is not finite: 1 of "),
            prepare=put_nan(MODEL),
            folder="run",
        )
        for name, command in ALL.items()
    ),
    Fault(
        "a teacher with NaN",
        f"train distilled.yaml teacher.config=null teacher.arch=DeepLabV3Plus teacher.encoder=tu-test_resnet "
        f"teacher.checkpoint={MODEL}",
        (MODEL, "' is not finite: 1 of "),
        prepare=put_nan(MODEL),
        folder="run",
    ),
    Fault(
        "a detector with NaN",
        "predict runs/tiny data/JPEGImages --out f",
        (MODEL, "' is not finite: 1 of "),
        prepare=put_nan(MODEL),
        folder="detection_run",
    ),
    Fault(
        "resume from a file that is no checkpoint",
        "train --resume runs/tiny",
        (LAST, "is no checkpoint of 'segkd train'"),
        prepare=unfinished(in_checkpoint(LAST, lambda _: {"a": torch.zeros(1)})),
        folder="run",
    ),
    Fault(
        "resume from a checkpoint with NaN",
        "train --resume runs/tiny",
        (LAST, f"'{BIAS}' is not finite: 11 of 11"),
        prepare=unfinished(in_checkpoint(LAST, lambda x: x["state_dict"].update({BIAS: torch.full((11,), torch.nan)}))),
        folder="run",
    ),
    Fault(
        "resume from a checkpoint of another architecture",
        "train --resume runs/tiny",
        (LAST, "is not of this"),
        prepare=unfinished(another_arch),
        folder="run",
    ),
    Fault(
        "resume with a torn best checkpoint",
        "train --resume runs/tiny",
        (BEST, "remove best.ckpt to go on without it"),
        {BEST: b"torn"},
        unfinished(),
        "run",
    ),
    Fault(
        "resume with torn metrics",
        "train --resume runs/tiny",
        (METRICS, "cannot be read"),
        prepare=unfinished(cut_short(METRICS)),
        folder="run",
    ),
    Fault(
        "resume with a torn result", "train --resume runs/tiny", (RESULT, "cannot be read"), {RESULT: "{"}, folder="run"
    ),
    Fault(
        "a report on torn metrics",
        "compare --report-only runs",
        (METRICS, "cannot be read"),
        prepare=cut_short(METRICS),
        folder="run",
    ),
    *(
        Fault(
            f"a report on a result that is {text}",
            "compare --report-only runs",
            (RESULT,),
            {RESULT: text},
            folder="run",
        )
        for text in ("[]", '{"student": 5}', '{"student": {"miou": "high"}}')
    ),
    Fault(
        "weights that are a fifo", "train tiny.yaml student.checkpoint=a.pth", ("a.pth", "fifo"), prepare=fifo("a.pth")
    ),
    Fault(
        "encoder weights that are a fifo",
        "train tiny.yaml student.encoder_weights=a.pth",
        ("a.pth", "fifo"),
        prepare=fifo("a.pth"),
    ),
]
