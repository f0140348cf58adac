"""The folder that a student is kept in: written from a `Network`, and opened as one.

Folders of strangers may be opened: nothing in one can name code to run or a place to fetch something from.
"""

import contextlib
import dataclasses
import importlib.metadata
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from pydantic import ValidationError
from torch import nn

from segkd.common import description
from segkd.common.files import replacing, write_text
from segkd.common.plain import complaint, written
from segkd.common.student import CONFIG_FILE, INFO_KEY, STUDENT_FILE, student_dir
from segkd.errors import SegkdError, nearest
from segkd.models.build import network_of
from segkd.models.family import Family, ModelBlock
from segkd.network import PREDICTORS, Network
from segkd.registry import find, things


class OwnCode(SegkdError):
    """A student is of code of one's own, which its folder cannot name: only a config, or who opens it, can."""


_KEYS = ("family", "settings", "classes")


def load_student(path: str | Path, build: str | Callable[..., nn.Module] | None = None, **own: str | None) -> Network:
    """Open the student in a run directory, or in its ``student`` folder; see `segkd.training.opening.load_student`."""
    folder, network = read_network(path, build, **own)
    find("family", str(network.family)).load(network.module, folder)
    return network.eval()


def read_network(
    path: str | Path,
    build: str | Callable[..., nn.Module] | None = None,
    family: str | None = None,
    task: str | None = None,
    **changes: Any,
) -> tuple[Path, Network]:
    """Return a saved student's folder, and the network with random weights; see `load_student`.

    ``changes`` are settings of its family's block that are to be others, such as ``min_size``.
    """
    folder = student_dir(path)
    file = folder / CONFIG_FILE
    try:
        config = description.read_description(file)
        with description.no_larger_than(folder / STUDENT_FILE):
            return folder, _network(config, build, family, task, changes)
    except OwnCode as error:
        raise OwnCode(f"{file}: {error}") from None
    # Whatever is wrong with the text, its keys or their values, it is this file that the user has to look at.
    except Exception as error:
        reason = str(error).strip().split("\n")[0][:400]
        name = "" if isinstance(error, SegkdError) else f"{type(error).__name__}: "
        raise SegkdError(f"{file} does not describe a model: {name}{reason}") from error


def _network(
    config: dict[str, Any], build: Any, own_family: str | None, own_task: str | None, changes: Mapping[str, Any]
) -> Network:
    info = config.get(INFO_KEY, {})
    name, settings, count = _described(config, info)
    # One of one's own is code, which only who opens the folder can name.
    if ":" in name and name != own_family:
        raise OwnCode(f"its family {written(name)} is one's own, which it cannot name: load_student(path, family=...)")
    if ":" not in name and name not in things("family"):
        raise SegkdError(f"there is no family {written(name)}: {nearest(name[:200], things('family'))}")
    family: type[Family] = find("family", name)
    tasks = family.tasks or tuple(PREDICTORS)
    said = info.get("task") if isinstance(info, dict) else None
    if isinstance(said, str) and ":" in said and said != own_task:
        raise OwnCode(f"its task {written(said)} is one's own, which it cannot name: load_student(path, task=...)")
    info = description.check_info(info, INFO_KEY, (*tasks, own_task) if own_task else tasks, count)
    task = info.get("task", tasks[0])
    if family.names_code:
        if build is None:
            raise OwnCode("its module is made by code of one's own, which it cannot name: load_student(path, build)")
        changes = {**changes, "build": build}
    block = _read_settings(family, settings).model_copy(update=dict(changes))
    names = info.get("classes", [])
    built = family.build(block, names or [str(number) for number in range(count)], weights=False)
    of_images = {key: info[key] for key in ("mean", "std", "white", "size") if key in info}
    for key in ("mean", "std"):
        if len(of_images.get(key, built.preprocess.mean)) != built.preprocess.channels:
            raise SegkdError(f"{INFO_KEY}.{key}: expected {built.preprocess.channels}, one for each channel")
    built.preprocess = dataclasses.replace(built.preprocess, **of_images)
    recorded = {key: value for key, value in info.items() if key not in ("task", "classes", *of_images)}
    return network_of(name, built, names, task=task, recorded=recorded)


def _described(config: dict[str, Any], info: Any) -> tuple[str, dict[str, Any], int]:
    """Return family, settings and number of classes that a description is of, in any of its forms."""
    from segkd.models.smp_files import CLASS_KEY, of_library

    given = {key: value for key, value in config.items() if key != INFO_KEY}
    if CLASS_KEY in given:
        return "smp", *of_library(given)
    if "family" in given:
        description.check_keys(
            given, {"family": str, "settings": dict[str, Any], "classes": description.NumClasses}, _KEYS
        )
        return given["family"], given["settings"], given["classes"]
    if isinstance(info, dict) and info.get("task") == "detection":  # as version 0.1 wrote it
        count = given.pop("num_classes", None)
        description.check_value("num_classes", count, description.NumClasses)
        if isinstance(given.get("normalization"), list):
            given["normalization"] = dict(zip(("mean", "std"), given["normalization"], strict=False))
        return "detectors", given, count
    raise SegkdError(f"expected the keys {', '.join(_KEYS)}, or {CLASS_KEY}")


def _read_settings(family: type[Family], settings: dict[str, Any]) -> ModelBlock:
    """Return the block of a family that settings are of, checked as what a stranger may have written."""
    for key, value in settings.items():
        if key not in family.kept:
            raise SegkdError(f"there is no key {written(key)}: {nearest(key[:200], family.kept)}")
        description.check_plain(key, value)
    try:
        return family.block.model_validate(settings)
    except ValidationError as error:
        closest = max(error.errors(include_url=False), key=lambda found: len(found["loc"]))
        raise SegkdError(f"{'.'.join(map(str, closest['loc']))}: {complaint(closest)}") from None


def save(network: Network, folder: str | Path) -> None:
    """Write a network's ``model.safetensors`` and ``config.json``.

    One of segmentation-models-pytorch is written as that library writes it: `from_pretrained` opens it there. Its
    auxiliary head goes into ``auxiliary.safetensors`` beside it.

    Raises:
        SegkdError: the module is of no family, or what is recorded cannot be written as JSON; nothing is written then.
        DiskFull: there is no room for the files.
    """
    from segkd.models import smp_files

    module, family = network.module, network.family
    files: dict[str, nn.Module | None] = {STUDENT_FILE: module}
    config = {"family": family, "settings": network.settings, "classes": len(network.classes)}
    if family is None:
        raise SegkdError(f"{type(module).__name__} cannot be saved as a student: no family says how it is made again")
    if family == "smp":
        inner = smp_files.inner_model(module)
        head: Any = None if inner is module else module.auxiliary
        files = {STUDENT_FILE: inner, smp_files.AUXILIARY_FILE: head}
        # The weights are in the file beside it: opening it must not fetch the encoder's first.
        config = {**inner.config, "encoder_weights": None, smp_files.CLASS_KEY: type(inner).__name__}
    info = {"version": importlib.metadata.version("segkd"), **network.info}
    try:
        text = json.dumps({**config, INFO_KEY: info}, indent=2, sort_keys=True)
    except TypeError as error:
        raise SegkdError(f"the student's info cannot be written as JSON: {error}") from error
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with contextlib.ExitStack() as stack:  # moved into place when all are written, the last entered first
            for name, part in files.items():
                if part is None:  # left from an earlier save
                    (folder / name).unlink(missing_ok=True)
                else:
                    size = sum(value.nbytes for value in part.state_dict().values())
                    file = stack.enter_context(replacing(folder / name, size=size))
                    safetensors.torch.save_model(part, str(file))
            write_text(folder / CONFIG_FILE, text + "\n")
    except BaseException:
        with contextlib.suppress(OSError):
            folder.rmdir()  # if nothing was there before
        raise
