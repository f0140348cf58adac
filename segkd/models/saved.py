"""The folder that a student is kept in: written from a `Network`, and opened as one.

Folders of strangers may be opened: nothing in one can name code to run or a place to fetch something from.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import nn

from segkd.common.description import NumClasses, check_info, check_keys, check_plain, check_value
from segkd.common.plain import complaint, written
from segkd.common.student import INFO_KEY, STUDENT_FILE, read_student, write_student
from segkd.errors import SegkdError, nearest
from segkd.models.build import network_of
from segkd.models.family import Family, ModelBlock
from segkd.network import Network
from segkd.registry import find, things


def load_student(path: str | Path, build: str | Callable[..., nn.Module] | None = None) -> Network:
    """Open a student: a run directory, or the ``student`` folder in it.

    Args:
        path: of the folder. It may be a stranger's: nothing in it can name code or a place to fetch something from.
        build: what makes the module, of a student whose module is made by one's own code, which its folder cannot name:
            ``package.module:name`` or the function itself.

    Returns:
        The network in eval mode.

    Raises:
        SegkdError: there is no student, its files are unreadable or do not belong together, or a value in them is
            none that a student has.
    """
    folder, network = read_network(path, build)
    assert network.family is not None
    find("family", network.family).load(network.module, folder)
    return network.eval()


def read_network(
    path: str | Path, build: str | Callable[..., nn.Module] | None = None, **changes: Any
) -> tuple[Path, Network]:
    """Return a saved student's folder, and the network with random weights.

    Args:
        path: a run directory, or the ``student`` folder in it.
        build: see `load_student`.
        changes: settings of its family's block that are to be others, such as ``min_size``.

    Raises:
        SegkdError: there is no student, or its description is unreadable or wrong.
    """
    return read_student(path, "model", lambda config: _network(config, build, changes))


def _network(config: dict[str, Any], build: Any, changes: Mapping[str, Any]) -> Network:
    info = config.get(INFO_KEY, {})
    name, settings, count = _described(config, info)
    known = things("family")  # of this package: those of one's own, which are code, only a config can name
    if name not in known:
        raise SegkdError(f"family: expected one of this package's, got {written(name)}: {nearest(name[:200], known)}")
    family: type[Family] = known[name].load()
    task = info.get("task", family.tasks[0]) if isinstance(info, dict) else ""
    info = check_info(info, INFO_KEY, task if task in family.tasks else family.tasks[0], count)
    if family.names_code:
        if build is None:
            raise SegkdError("its module is made by code of one's own, which it cannot name: load_student(path, build)")
        settings = {**settings, "build": build}
    block = read_settings(family, settings).model_copy(update=dict(changes))
    names = info.get("classes", [])
    built = family.build(block, names or [str(number) for number in range(count)], weights=False)
    of_images = {key: info[key] for key in ("mean", "std", "white", "size") if key in info}
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
        check_keys(given, {"family": str, "settings": dict[str, Any], "classes": NumClasses}, tuple(_KEYS))
        return given["family"], given["settings"], given["classes"]
    if isinstance(info, dict) and info.get("task") == "detection":  # as version 0.1 wrote it
        count = given.pop("num_classes", None)
        check_value("num_classes", count, NumClasses)
        if isinstance(given.get("normalization"), list):
            given["normalization"] = dict(zip(("mean", "std"), given["normalization"], strict=False))
        return "detectors", given, count
    raise SegkdError(f"expected the keys {', '.join(_KEYS)}, or {CLASS_KEY}")


_KEYS = ("family", "settings", "classes")


def read_settings(family: type[Family], settings: dict[str, Any]) -> ModelBlock:
    """Return the block of a family that settings are of, checked as what a stranger may have written.

    Raises:
        SegkdError: an unknown key, one that would load something, or a value of another type or beyond what a network
            has.
    """
    for key, value in settings.items():
        if key not in family.kept:
            raise SegkdError(f"there is no key {written(key)}: {nearest(key[:200], family.kept)}")
        check_plain(key, value)
    try:
        return family.block.model_validate(settings)
    except ValidationError as error:
        closest = max(error.errors(include_url=False), key=lambda found: len(found["loc"]))
        raise SegkdError(f"{'.'.join(map(str, closest['loc']))}: {complaint(closest)}") from None


def save(network: Network, folder: str | Path) -> None:
    """Write a network's ``model.safetensors`` and ``config.json``.

    One of segmentation-models-pytorch is written as that library writes it: `from_pretrained` opens it there. Its
    auxiliary head goes into ``auxiliary.safetensors`` beside it.

    Args:
        network: of a family, or around a model of segmentation-models-pytorch or a detector of this package.
        folder: made if absent.

    Raises:
        SegkdError: the module is of no family, or what is recorded cannot be written as JSON; nothing is written then.
        DiskFull: there is no room for the files.
    """
    from segkd.models import smp_files

    module, family = network.module, network.family
    files: dict[str, nn.Module | None] = {STUDENT_FILE: module}
    if family is None:
        raise SegkdError(f"{type(module).__name__} cannot be saved as a student: no family says how it is made again")
    if family == "smp":
        inner = smp_files.inner_model(module)
        head: Any = None if inner is module else module.auxiliary
        files = {STUDENT_FILE: inner, smp_files.AUXILIARY_FILE: head}
        config = smp_files.to_library(module)
    else:
        config = {"family": family, "settings": network.settings, "classes": len(network.classes)}
    write_student(folder, files, {**config, INFO_KEY: network.info})
