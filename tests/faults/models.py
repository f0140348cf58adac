"""Faults of models of each family and of several teachers, as a config names them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from faults.data import SET, SPLITS
from faults.files import DESCRIPTION
from faults.row import Fault
from faults.students import described

TEACHERS: dict[str, Any] = {
    "big": {"config": "teacher.yaml"},
    "both": {"average": ["big", "other"], "weights": [2, 1]},
    "other": {"config": "teacher.yaml", "overrides": {"name": "other", "seed": 2}},
}
SEVERAL: dict[str, Any] = {
    "base": "tiny.yaml",
    "name": "bad",
    "teachers": TEACHERS,
    "distill": {
        "terms": {
            "kd": {"loss": "pixel_kd", "teacher": "both:logits"},
            "cwd": {"loss": "cwd", "teacher": "other:logits"},
        },
        "pixel_weighting": {"rdd": {"teacher": "big", "without_auxiliary": "second_stage"}},
    },
}
OWN = """
LIMIT = 3


def nothing(classes):
    return "no module"


def fails(classes):
    raise OSError("no such weights")
"""


def several(name: str, change: str, *texts: str) -> Fault:
    """Return the row of a change to a config of three teachers."""
    return Fault(name, f"train bad.yaml '{change}'", texts, {"bad.yaml": SEVERAL})


def student(name: str, block: dict[str, Any], *texts: str, **more: Any) -> Fault:
    """Return the row of a student of another family, with the module mine.py beside it."""
    files = {"bad.yaml": {"base": "tiny.yaml", "student": block}, "mine.py": OWN}
    return Fault(name, "train bad.yaml", ("student", *texts), files, **more)


def unlabelled(name: str, share: float, *texts: str) -> Fault:
    """Return the row of images without labels that are such a share of each batch."""
    content = {"base": "tiny.yaml", "data": {"unlabelled": {"images": "val/*.png", "share": share}}}
    return Fault(name, "train bad.yaml", texts, {"bad.yaml": content})


def stranger(name: str, changes: dict[str, Any], *texts: str) -> Fault:
    """Return the row of a teacher in a folder whose description says such a thing."""
    command = "train distilled.yaml teacher.config=null teacher.checkpoint=runs/tiny"
    return Fault(name, command, (DESCRIPTION, *texts), prepare=described(changes, {}), folder="detection_run")


def segformer(kind: str, weights: bool = True) -> Callable[[Path], None]:
    """Return what makes a folder ``hub`` of a SegFormer of transformers, of four classes."""

    def prepare(folder: Path) -> None:
        import tiny_transformers as tiny
        import transformers

        tiny.save(folder / "hub", getattr(transformers, f"Segformer{kind}")(tiny.config_of("segformer")))
        if not weights:
            (folder / "hub/model.safetensors").unlink()

    return prepare


def second(name: str, command: str, *texts: str, without: str = "") -> Fault:
    """Return the row of second inputs for a teacher, smaller than the images; one of them may lack."""

    def prepare(folder: Path) -> None:
        for path in (folder / "data/train").glob("*.png"):
            (folder / "data/depth").mkdir(exist_ok=True)
            if path.name != without:
                Image.new("L", (20, 10)).save(folder / "data/depth" / path.name)

    train = {**SPLITS["train"], "images_teacher": "depth/*.png"}
    files = {"mine.yaml": {**SET, "splits": {**SPLITS, "train": train}}}
    return Fault(name, f"{command} tiny.yaml data.dataset=mine.yaml", texts, files, prepare)


HUB = {"family": "transformers", "path": "hub"}
FAULTS = [
    several("a term of an unknown teacher", "distill.terms.kd.teacher=bgi:logits", "distill.terms.kd", "'big'?"),
    several(
        "a term that names none of several teachers", "distill.terms.kd.teacher=logits", "terms.kd", "big", "other"
    ),
    several(
        "a weighting of an unknown teacher", "distill.pixel_weighting.rdd.teacher=othre", "pixel_weighting", "'other'?"
    ),
    several("an average of an unknown teacher", "teachers.both.average=[big, smal]", "both averages 'smal'"),
    several("an average of more weights than teachers", "teachers.both.weights=[1, 2, 3]", "teachers.both", "weight"),
    several("an average of itself", "teachers.both.average=[both]", "teachers.both"),
    several("a teacher of an unknown family", "teachers.big.family=smpp", "teachers.big.family", "did you mean 'smp'?"),
    several(
        "a teacher of another task's family",
        "teachers.big.family=detectors",
        "teachers.big.family",
        "no models for segmentation",
    ),
    several(
        "a student of a family without classes",
        "student={family: timm, arch: resnet18}",
        "student.family",
        "'timm' have no classes",
    ),
    several("a student of a family that is nowhere", "student.family=nowhere:Family", "student.family", "nowhere"),
    Fault(
        "a teacher and several at once",
        "train bad.yaml",
        ("bad.yaml", "teacher", "teachers"),
        {"bad.yaml": {**SEVERAL, "teacher": TEACHERS["big"]}},
    ),
    Fault(
        "two teachers of one name",
        "train bad.yaml",
        ("bad.yaml", "the key 'teachers.big' stands twice"),
        {"bad.yaml": "base: tiny.yaml\nteachers:\n  big: {config: teacher.yaml}\n  big: {config: teacher.yaml}\n"},
    ),
    student("a family that is not installed", HUB, 'pip install "segkd[transformers]"', absent="transformers"),
    student(
        "a student without weights in its folder",
        HUB,
        "hub",
        "holds no weights",
        prepare=segformer("ForSemanticSegmentation", False),
    ),
    student(
        "a student whose folder is of another task",
        HUB,
        "hub",
        "of another task",
        prepare=segformer("ForImageClassification"),
    ),
    student("a builder in a module that is nowhere", {"build": "nowhere:make"}, "nowhere"),
    student("a builder that its module lacks", {"build": "mine:nothng"}, "did you mean 'nothing'?"),
    student("a builder that is a number", {"build": "mine:LIMIT"}, "mine:LIMIT", "of type int"),
    student("a builder of no module", {"build": "mine:nothing"}, "mine:nothing", "returned no torch.nn.Module but str"),
    student("a builder that fails", {"build": "mine:fails"}, "mine:fails", "OSError: no such weights"),
    Fault(
        "a teacher of classes of other names",
        "train bad.yaml",
        ("teacher has 4 classes, the student 11", "[wall] of it are none of the student's", "teacher.class_map"),
        {"bad.yaml": {"base": "tiny.yaml", "teacher": HUB, "distill": {"terms": {"kd": {"loss": "pixel_kd"}}}}},
        segformer("ForSemanticSegmentation"),
    ),
    unlabelled("a share of all images without labels", 1, "bad.yaml: data.unlabelled.share", "got 1"),
    unlabelled("a share below 0", -0.5, "bad.yaml: data.unlabelled.share", "got -0.5"),
    unlabelled("a batch of images without labels alone", 0.9, "unlabelled.share: 0.9 of batch_size 2 is 2 images"),
    second("a second input of another size", "train", "second input data/", "but image data/"),
    second("check finds second inputs of another size", "data check", "3 problem(s)"),
    second(
        "an image without its second input",
        "train",
        "image data/train/0001TP_000001.png has no second input data/depth/0001TP_000001.png",
        without="0001TP_000001.png",
    ),
    stranger(
        "a teacher made by code that its folder names", {"family": "python", "settings": {"build": "a:b"}}, "one's own"
    ),
    stranger("a teacher of a family that its folder names", {"family": "mypkg:Evil"}, "family", "'mypkg:Evil'"),
    stranger("a teacher with a builder of its own", {"build": "os:system"}, "no key 'build'"),
]
