"""Faults of a saved student: what its config.json says of the network, and what it records beside it."""

import json
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from faults.files import ALL, DESCRIPTION, MODEL
from faults.row import Fault

_COMMANDS = cycle(ALL.values())


def described(changes: dict[str, Any], info: dict[str, Any]) -> Callable[[Path], None]:
    """Return what changes a description, and what it records beside the network."""

    def prepare(folder: Path) -> None:
        config = json.loads((folder / DESCRIPTION).read_text())
        config = {**config, **changes, "_segkd": {**config["_segkd"], **info}}
        (folder / DESCRIPTION).write_text(json.dumps(config))

    return prepare


def network(name: str, key: str, value: Any, *texts: str) -> Fault:
    """Return the row of one key; each command that opens students has its turn."""
    prepare = described({key: value}, {})
    return Fault(name, next(_COMMANDS), (DESCRIPTION, key, *texts), prepare=prepare, folder="run", seconds=5)


def recorded(name: str, key: str, value: Any, *texts: str) -> Fault:
    """Return the row of one key of what is recorded."""
    texts = (DESCRIPTION, f"_segkd.{key}", *texts)
    return Fault(name, next(_COMMANDS), texts, prepare=described({}, {key: value}), folder="run", seconds=5)


def text(name: str, content: str, *texts: str) -> Fault:
    return Fault(name, ALL["predict"], (DESCRIPTION, *texts), {DESCRIPTION: content}, folder="run", seconds=5)


def as_type(dtype: torch.dtype) -> Callable[[Path], None]:
    """Return what changes the type of the last weights of a student."""

    def prepare(folder: Path) -> None:
        state = safetensors.torch.load_file(folder / MODEL)
        key = "segmentation_head.0.weight"
        safetensors.torch.save_file({**state, key: state[key].to(dtype)}, folder / MODEL)

    return prepare


def detector(name: str, key: str, value: Any, *texts: str) -> Fault:
    def prepare(folder: Path) -> None:
        config = json.loads((folder / DESCRIPTION).read_text())
        config["settings"][key] = value
        (folder / DESCRIPTION).write_text(json.dumps(config))

    return Fault(name, "eval runs/tiny", (DESCRIPTION, *texts), prepare=prepare, folder="detection_run", seconds=5)


def of_family(name: str, changes: dict[str, Any], *texts: str) -> Fault:
    """Return the row of keys beside the settings of a family."""
    prepare = described(changes, {})
    return Fault(name, "eval runs/tiny", (DESCRIPTION, *texts), prepare=prepare, folder="detection_run", seconds=5)


FAULTS = [
    network("an encoder at the hub", "encoder_name", "tu-hf_hub:timm/resnet18.a1_in1k", "name of a network"),
    network("an encoder in a folder", "encoder_name", "tu-local-dir:somewhere", "name of a network"),
    network("an encoder that is a list", "encoder_name", ["resnet18"], "text"),
    network("an encoder with a long name", "encoder_name", "x" * 10**6, "200 characters"),
    network("a place of weights", "pretrained_cfg", {"url": "http://127.0.0.1/a.pth"}, "no key"),
    network("a checkpoint to start from", "checkpoint_path", "a.pth", "no key"),
    network("a depth beyond any network", "encoder_depth", 10**9, "5", "1000000000"),
    network("a student without channels", "decoder_channels", "x", "'x'"),
    network("a student with channels beyond any network", "decoder_channels", 10**9, "16777216"),
    network("a student with a switch for a depth", "encoder_depth", True, "a whole number", "true"),
    network("a student with endless rates", "decoder_atrous_rates", [6] * 10**5, "plain"),
    network("a student with classes beyond any mask", "classes", 10**9, "255"),
    network("a student that returns no logits", "activation", "softmax", "null"),
    network("a student with another network on top", "aux_params", {"classes": 2}, "null"),
    network("a student of four channels", "in_channels", 4, "3"),
    # Within what single keys may be, and 14 GB together.
    Fault(
        "a student larger than its weights",
        ALL["predict"],
        (DESCRIPTION, "larger than what model.safetensors holds"),
        prepare=described({"decoder_channels": 40000}, {}),
        folder="run",
    ),
    recorded("a mean of two", "mean", [0.5, 0.5], "3"),
    recorded("a mean of words", "mean", ["a", "b", "c"], "a number"),
    recorded("a student with a deviation of 0", "std", [0.2, 0, 0.2], "more than 0"),
    recorded("a deviation that is null", "std", None, "list"),
    recorded("a size of 0", "size", [0, 96], "at least 1"),
    recorded("a size that is one number", "size", 96, "list"),
    recorded("a size beyond any memory", "size", [10**9, 10**9], "1000000000"),
    recorded("a window below 0", "window", [-1, 96], "-1"),
    recorded("too few class names", "classes", ["road"], "11", "got 1"),
    recorded("class names that are one word", "classes", "road", "a list"),
    recorded("too few colours", "colors", [[0, 0, 0]], "11", "got 1"),
    recorded("a colour that is none", "colors", [[0, 0, 300]] * 11, "255", "300"),
    recorded("an ignore_index that is a class", "ignore_index", 3, "11 classes"),
    recorded("an ignore_index beyond a byte", "ignore_index", 256, "255"),
    recorded("a student of an unknown task", "task", "depth", "'segmentation'"),
    text("a student with NaN in its description", '{"a": NaN}', "finite"),
    text("a student with a number beyond float", '{"a": 1e999}', "1e999"),
    text("a student with a deep description", "[" * 100_000),
    text("a student with a long description", " " * 2**23, "4194304 bytes"),
    detector("a backbone at the hub", "backbone", "tu-hf-hub:timm/resnet18.a1_in1k", "name of a network"),
    detector("weights to fetch for a backbone", "backbone_weights", "default", "no key"),
    of_family("a detector with classes beyond any", {"classes": 10**9}, "65536"),
    of_family("a detector with other classes than names", {"classes": 7}, "classes"),
    of_family("a student of a family of its own", {"family": "mypkg:Evil"}, "family", "'mypkg:Evil'"),
    of_family("a student made by code that it names", {"family": "python", "settings": {"build": "a:b"}}, "one's own"),
    detector("a student with a builder of its own", "build", "os:system", "no key 'build'"),
    detector("a detector of wrong options", "options", {"out_channels": "x"}, "'x'"),
    detector("a detector for images of 0 pixels", "min_size", 0, "at least 1"),
    detector("a detector with a deviation of 0", "normalization", {"mean": [0.5] * 3, "std": [0] * 3}, "more than 0"),
    Fault(
        "a teacher whose encoder is at the hub",
        "train distilled.yaml teacher.config=null teacher.checkpoint=runs/tiny",
        (DESCRIPTION, "encoder_name", "name of a network"),
        prepare=described({"encoder_name": "tu-hf_hub:timm/resnet18.a1_in1k"}, {}),
        folder="run",
    ),
    Fault(
        "a detector's teacher with weights to fetch",
        "train distilled.yaml teacher.config=null teacher.checkpoint=runs/tiny",
        (DESCRIPTION, "backbone_weights"),
        prepare=detector("", "backbone_weights", "default").prepare,
        folder="detection_run",
    ),
    Fault("a student of complex numbers", ALL["eval"], (MODEL, "complex64"), {}, as_type(torch.complex64), "run"),
    Fault("a student of whole numbers", ALL["predict"], (MODEL, "int8"), {}, as_type(torch.int8), "run"),
]
