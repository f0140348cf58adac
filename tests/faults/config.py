"""Faults of configs and of changes to them."""

from typing import Any

from experiments import TINY

from faults.row import Fault


def override(name: str, text: str, *texts: str, folder: str = "segmentation", config: str = "tiny.yaml") -> Fault:
    """Return the row of a change on the command line, which is named."""
    return Fault(name, f"train {config} '{text}'", texts, folder=folder)


def config(name: str, content: Any, *texts: str, command: str = "train bad.yaml", seconds: float = 10.0) -> Fault:
    """Return the row of a file bad.yaml, which is named."""
    return Fault(name, command, ("bad.yaml", *texts), {"bad.yaml": content}, seconds=seconds)


def on_top(name: str, content: dict[str, Any], *texts: str) -> Fault:
    """Return the row of a file bad.yaml over tiny.yaml."""
    return config(name, {"base": "tiny.yaml", "teacher": {"config": "teacher.yaml"}, **content}, *texts)


OWN_TASKS = """
from segkd.training.segmentation.schema import SegmentationConfig
from segkd.training.task import Task


class Half(Task):
    name, title, config_type = "half", "a task that is not finished", SegmentationConfig


class Nothing:
    pass
"""
FAULTS = [
    override(
        "an unknown key", "trainer.max_step=1", "the command line", "trainer.max_step", "did you mean 'max_steps'?"
    ),
    override(
        "an unknown block",
        "tariner.max_steps=4",
        "the command line: there is no key 'tariner', did you mean 'trainer'?",
    ),
    override("a word for a number", "trainer.max_steps=many", "trainer.max_steps", "expected a whole number", "'many'"),
    override("no steps", "trainer.max_steps=0", "trainer.max_steps", "at least 1", "got 0"),
    override("half a step", "trainer.max_steps=2.5", "trainer.max_steps", "2.5"),
    override("an unknown precision", "trainer.precision=fp8", "trainer.precision", "bf16-mixed", "fp8"),
    override("an unknown schedule of the rate", "optimizer.schedule=step", "optimizer.schedule", "poly", "step"),
    override(
        "a word for a block",
        "optimizer=sgd",
        "optimizer: expected keys and values such as {name: ..., lr: ...}, got 'sgd'",
    ),
    override("a crop of one side", "data.crop=[4]", "data.crop: expected [height, width], got [4]"),
    override("a crop without width", "data.crop=[4,0]", "data.crop", "0"),
    override("a crop as one number", "data.crop=4", "data.crop: expected [height, width], got 4"),
    Fault(
        "a crop that the model does not take",
        "train tiny.yaml student.arch=DeepLabV3Plus 'data.crop=[65,96]'",
        ("tiny: data.crop", "multiples of 16", "[64, 96]", "got [65, 96]"),
    ),
    override("a blur above 1", "data.blur=2", "data.blur", "got 2"),
    override("a negative weight of the task loss", "distill.task_weight=-1", "distill.task_weight", "got -1"),
    override("biases that do not learn", "optimizer.bias_lr_factor=0", "optimizer.bias_lr_factor", "got 0"),
    override("a scale the wrong way round", "data.scale=[2.0,0.5]", "data.scale", "smallest"),
    override("a scale of 0", "data.scale=[0,0.5]", "data.scale"),
    override("an unknown mode", "validation.mode=tiles", "validation.mode", "sliding"),
    override("a probability above 1", "data.flip=1.5", "data.flip", "at most 1", "1.5"),
    override("a name with a slash", "name=a/b", "name", "'a/b'"),
    override("a name that climbs", "name=..", "name", "'..'"),
    override("a negative seed", "seed=-1", "seed", "-1"),
    override("a mean of one channel", "student.normalization.mean=[0.5]", "student.normalization"),
    override("no data", "data=null", "data: expected keys and values such as {dataset: ..., crop: ...}, got null"),
    override("an unknown accelerator", "trainer.accelerator=gpuu", "trainer.accelerator"),
    override("no devices", "trainer.devices=0", "trainer"),
    override("an unknown strategy", "trainer.strategy=dpp", "trainer", "dpp"),
    *(
        override(f"processes by {way}", f"trainer.strategy={way}", "trainer.strategy", "such as ddp", repr(way))
        for way in ("ddp_spawn", "ddp_notebook", "ddp_fork_find_unused_parameters_true")
    ),
    override("a change that is none", "nonsense", "key.path=value", "'nonsense'"),
    override("a change without key", "=4", "key.path=value"),
    override("a change of an empty key", "a..b=1", "the command line"),
    override("a change with half a list", "seed=[1", "the command line"),
    override("a change with half a mapping", "seed={", "the command line"),
    override("a change below a list", "data.crop.x=1"),
    override("a change that is empty", "", "key.path=value"),
    override("a window smaller than its stride", "validation.stride=[999,4]", "validation.stride", "window"),
    override("an unknown architecture", "student.arch=DeepLabV3Pluss", "did you mean"),
    override("an unknown encoder", "student.encoder=resnet81", "'resnet81'", "did you mean 'resnet18'?"),
    override("an unknown option", "student.options.decoder_chanels=8", "'decoder_chanels'", "'decoder_channels'"),
    override("encoder weights that are not there", "student.encoder_weights=none.pth", "none.pth"),
    override("a student checkpoint that is not there", "student.checkpoint=none.pth", "none.pth"),
    override("an unknown data set", "data.dataset=camvdi", "'camvdi'", "did you mean 'camvid'?"),
    override("a data-set file that is not there", "data.dataset=none.yaml", "none.yaml"),
    override("a root that is not there", "data.root=/nowhere", "/nowhere", "data.root", "SEGKD_DATA"),
    override("an unknown training split", "data.train_split=tarin", "'tarin'", "did you mean 'train'?"),
    override("an unknown validation split", "data.val_split=vla", "'vla'", "did you mean 'val'?"),
    override("an unknown connector", "distill.terms.kd.connector=conv3", "conv1x1", config="distilled.yaml"),
    override(
        "one map against many",
        "distill.terms.kd={loss: pkd, student: encoder, teacher: decoder}",
        "distill",
        "one to one",
        config="distilled.yaml",
    ),
    override(
        "maps of other channels",
        "distill.terms.kd={loss: pkd, student: logits, teacher: decoder}",
        "distill",
        "channels",
        config="distilled.yaml",
    ),
    override("a term called task", "distill.terms.task={loss: pixel_kd}", "'task'", config="distilled.yaml"),
    override("a term of an unknown module", "distill.terms.kd.student=encodr", "encodr", config="distilled.yaml"),
    config("a key of no block in a file", {"base": "tiny.yaml", "trianer": {}}, "trianer", "did you mean 'trainer'?"),
    config("a missing block", {"name": "x", "student": TINY["student"]}, "'data'", "missing"),
    config(
        "a missing key",
        {**TINY, "data": {"dataset": "data.yaml", "crop": [8, 8]}, "student": {"arch": "Unet"}},
        "student.encoder",
    ),
    config("an unknown task", {**TINY, "task": "segmentatoin"}, "task", "did you mean 'segmentation'?"),
    *(
        Fault(
            f"{command} of a task of one's own that is {what}",
            f"{command} bad.yaml",
            ("bad.yaml", "task", f"'mine:{own}'", lacks),
            {"bad.yaml": {**TINY, "task": f"mine:{own}"}, "mine.py": OWN_TASKS},
        )
        for command in ("train", "eval", "data check")
        for what, own, lacks in (
            ("not finished", "Half", "lacks "),
            ("none", "Nothing", "derives from segkd.training.task.Task"),
            ("misspelt", "Hafl", "did you mean 'Half'?"),
        )
    ),
    config("a config that is a list", "- a\n- b\n", "keys and values"),
    config("a config that is empty", "", "keys and values"),
    config("a config that is a word", "word\n", "keys and values"),
    config("a config that is no YAML", "a: [1,\nb: 2\n", "YAML"),
    config("a config with tabs", "data:\n\tcrop: 3\n", "YAML"),
    config("a config in UTF-16", "name: x\n".encode("utf-16"), "YAML"),
    config("a config that names code", "name: !!python/object/apply:os.system ['exit 1']\n", "YAML"),
    config("a config with an unknown reference", "base: tiny.yaml\nname: ${nowhere}\n", "nowhere"),
    config("a config with an unset variable", "base: tiny.yaml\nname: ${oc.env:SEGKD_NONE}\n", "SEGKD_NONE"),
    config("a config that is its own base", "base: bad.yaml\n", "circle"),
    config("a base that is not there", "base: tniy.yaml\n", "tniy.yaml", "did you mean 'tiny.yaml'?"),
    on_top(
        "an unknown loss",
        {"distill": {"terms": {"kd": {"loss": "pixel_dk"}}}},
        "'pixel_dk'",
        "did you mean 'pixel_kd'?",
    ),
    on_top(
        "an unknown option of a loss",
        {"distill": {"terms": {"kd": {"loss": "pixel_kd", "temprature": 2}}}},
        "did you mean 'temperature'?",
    ),
    on_top(
        "a word for a temperature",
        {"distill": {"terms": {"kd": {"loss": "pixel_kd", "temperature": "hot"}}}},
        "temperature",
        "'hot'",
    ),
    on_top("a temperature of 0", {"distill": {"terms": {"kd": {"loss": "pixel_kd", "temperature": 0}}}}, "temperature"),
    on_top(
        "a negative weight",
        {"distill": {"terms": {"kd": {"loss": "pixel_kd", "weight": -1}}}},
        "distill.terms.kd.weight",
        "-1",
    ),
    on_top(
        "a negative share",
        {"distill": {"terms": {"kd": {"loss": "pixel_kd", "share": -0.5}}}},
        "distill.terms.kd.share",
        "at least 0",
    ),
    on_top(
        "a weight and a share",
        {"distill": {"terms": {"kd": {"loss": "pixel_kd", "share": 0.5, "weight": 2}}}},
        "distill.terms.kd",
        "a weight or a share, not both",
    ),
    on_top("a term without loss", {"distill": {"terms": {"kd": {"weight": 1}}}}, "distill.terms.kd.loss"),
    on_top("an unknown variant", {"distill": {"terms": {"i": {"loss": "icsd", "variant": "papr"}}}}, "variant", "papr"),
    on_top(
        "an unknown size of a term", {"distill": {"terms": {"kd": {"loss": "pixel_kd", "size": "big"}}}}, "size", "big"
    ),
    on_top("an unknown schedule", {"distill": {"schedule": {"awl": {}}}}, "awl"),
    on_top(
        "an unknown option of a schedule",
        {"distill": {"schedule": {"alw": {"raise": ["task"]}}}},
        "did you mean 'rise'?",
    ),
    on_top(
        "an unknown kind of schedule",
        {"distill": {"schedule": {"task": {"linaer": {}}}}},
        "'linaer'",
        "did you mean 'linear'?",
    ),
    on_top("a schedule without an end", {"distill": {"schedule": {"task": {"linear": {"start": 1}}}}}, "'end'"),
    on_top(
        "a schedule of no term", {"distill": {"schedule": {"alw": {"rise": ["task"], "fall": ["kd"]}}}}, "'kd'", "task"
    ),
    on_top(
        "an unknown combination",
        {"distill": {"pixel_weighting": {"rdd": {"combine": "nand"}}}},
        "combine",
        "nand",
    ),
    on_top("an unknown pixel weighting", {"distill": {"pixel_weighting": {"rdx": {}}}}, "did you mean 'rdd'?"),
    on_top(
        "a threshold that is no probability", {"distill": {"pixel_weighting": {"rdd": {"threshold": 7}}}}, "threshold"
    ),
    on_top(
        "terms without a teacher",
        {"teacher": None, "distill": {"terms": {"kd": {"loss": "pixel_kd"}}}},
        "there is no teacher block",
    ),
    on_top(
        "a teacher without weights", {"teacher": {"config": None, "arch": "Unet", "encoder": "resnet18"}}, "checkpoint"
    ),
    on_top(
        "a teacher's config that is not there",
        {"teacher": {"config": "quickstart_teachr.yaml"}},
        "teacher.config",
        "did you mean 'quickstart_teacher'?",
    ),
    on_top("a student that is its own teacher", {"name": "bad", "teacher": {"config": "bad.yaml"}}, "bad"),
    # numbers that no machine can bear, or that are none
]
