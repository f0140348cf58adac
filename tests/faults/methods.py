"""Faults of the methods that a config names: of another task, and of the user's own code."""

from typing import Any

from faults.config import on_top, override
from faults.row import Fault

OWN = """
LIMIT = 3


class Mine:
    reads = "head"

    def __init__(self, power: float = 2.0):
        if power < 0:
            raise ValueError(f"power is at least 0, got {power}")

    def __call__(self, student, teacher, target=None):
        return (student - teacher).mean()


class Idle:
    pass


def function(student, teacher, target, scale: float = 1.0):
    return (student - teacher).mean() * scale


def two(student, teacher):
    return 0


def bare(progress):
    return 1.0


def no_module(student_channels, teacher_channels):
    return 3


instance = Mine()
"""


def own(name: str, term: Any, *texts: str, **distill: Any) -> Fault:
    """Return the row of a term over tiny.yaml with the module mine.py beside it."""
    terms = {"terms": {"kd": term}} if term is not None else {}
    content = {
        "base": "tiny.yaml",
        "name": "bad",
        "teacher": {"config": "teacher.yaml"},
        "distill": {**terms, **distill},
    }
    return Fault(name, "train bad.yaml", ("bad", *texts), {"bad.yaml": content, "mine.py": OWN})


def detection(name: str, text: str, *texts: str) -> Fault:
    return override(name, text, *texts, folder="detection", config="distilled.yaml")


FAULTS = [
    on_top(
        "a loss of detection in segmentation",
        {"distill": {"terms": {"kd": {"loss": "crosskd_class"}}}},
        "distill.terms.kd: loss 'crosskd_class' reads 'head', which segmentation does not have",
        ", pixel_kd, pkd, ",
        " read what it has",
    ),
    detection(
        "a loss of segmentation in detection",
        "distill.terms.kd={loss: pixel_kd}",
        "distill.terms.kd: loss 'pixel_kd' reads 'logits', which detection does not have",
        "crosskd_box, crosskd_class, ",
        " read what it has",
    ),
    detection(
        "a loss of features in detection that says nothing of what it reads",
        "distill.terms.kd={loss: pkd, teacher: fpn}",
        "loss 'pkd' reads 'logits', which detection does not have",
        "such as student: fpn, teacher: fpn",
    ),
    detection(
        "a pixel weighting in detection",
        "distill.pixel_weighting=rdd",
        "the command line: distill.pixel_weighting: weighs pixels by their logits, which detection does not have",
    ),
    own("a loss of one's own for detection", {"loss": "mine:Mine"}, "'mine:Mine' reads 'head'", "which segmentation"),
    own("a loss of a misspelt module", {"loss": "mien:Mine"}, "no module 'mien' in", "did you mean 'mine'?"),
    own("a loss that a module has not", {"loss": "mine:Mien"}, "mine has no 'Mien', did you mean 'Mine'?"),
    own("a loss that is a number", {"loss": "mine:LIMIT"}, "'mine:LIMIT' is of type int: neither a class nor"),
    own("a loss that is not called", {"loss": "mine:Idle"}, "distill.terms.kd", "must be callable, got Idle"),
    own("a loss of two arguments", {"loss": "mine:two"}, "is called with (student, teacher, target)", "too many"),
    own("a loss without its colon's right side", {"loss": "mine:"}, "'mine:'", "package.module:Name"),
    own("a loss of a file", {"loss": "mine.py:Mine"}, "there is no module 'mine.py'"),
    own("a loss of a path", {"loss": "./mine:Mine"}, "'./mine:Mine'", "package.module:Name"),
    own("an unknown option of one's own loss", {"loss": "mine:Mine", "powr": 1}, "'powr', did you mean 'power'?"),
    own("an option of another type", {"loss": "mine:Mine", "power": "big"}, "'power': expected a number, got 'big'"),
    own("an option out of range", {"loss": "mine:Mine", "power": -1}, "cannot be made: ValueError: power is at least"),
    own("an option of a function that is none", {"loss": "mine:function", "target": 1}, "no option 'target'", "scale"),
    own("an option of an object", {"loss": "mine:instance", "power": 1}, "used as it is: it takes no options"),
    own(
        "a connector of one's own that makes no module",
        {"loss": "pkd", "student": "decoder", "teacher": "decoder", "connector": "mine:no_module"},
        "distill: a connector makes a torch.nn.Module, got int",
    ),
    own(
        "two connectors",
        {"loss": "pkd", "connector": {"mlp": {}, "conv1x1": {}}},
        "names one method, got conv1x1, mlp",
    ),
    own(
        "an unknown option of a connector", {"loss": "pkd", "connector": {"mlp": {"hiden": 3}}}, "did you mean 'hidden'"
    ),
    own(
        "a schedule that is not there", None, "mine has no 'bear', did you mean 'bare'?", schedule={"task": "mine:bear"}
    ),
    own("an option of a schedule without any", None, "no option 'x'", schedule={"task": {"mine:bare": {"x": 1}}}),
    own("a weighting that is no such function", None, "called with (student, teacher", pixel_weighting="mine:two"),
]
