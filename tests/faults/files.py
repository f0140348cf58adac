"""Faults of files that a run leaves or reads: checkpoints, students, results."""

from faults.row import Fault, remove

MODEL, DESCRIPTION = "runs/tiny/student/model.safetensors", "runs/tiny/student/config.json"
BEST, LAST = "runs/tiny/checkpoints/best.ckpt", "runs/tiny/checkpoints/last.ckpt"


def weights(name: str, content: bytes, file: str) -> Fault:
    """Return the row of a student that starts from a file of weights that is none."""
    return Fault(name, f"train tiny.yaml student.checkpoint={file}", (file,), {file: content})


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
]
