"""The folder that a training leaves its student in: weights and a description, written and found again."""

import contextlib
import importlib.metadata
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import safetensors.torch
from PIL import Image
from torch import nn

from segkd.common.description import no_larger_than, read_description
from segkd.common.files import replacing, write_text
from segkd.common.orientation import orientation, upright
from segkd.common.reading import COLOUR_MODES
from segkd.errors import SegkdError, nearest

Built = TypeVar("Built")

#: Where the weights and the description of a saved student lie in its folder.
STUDENT_FILE, CONFIG_FILE = "model.safetensors", "config.json"

#: Where in the description lies what is not needed to build the model: classes, colours, data set, version.
INFO_KEY = "_segkd"


def student_dir(path: str | Path) -> Path:
    """Return the folder of a saved student, given it or its run directory.

    Raises:
        SegkdError: there is none.
    """
    for folder in (Path(path) / "student", Path(path)):
        if (folder / STUDENT_FILE).is_file():
            return folder
    if not Path(path).exists():
        raise no_run(path)
    raise SegkdError(f"{path} holds no {STUDENT_FILE} and no student/{STUDENT_FILE}: not a finished run or a student")


def weights_file(path: str | Path) -> Path:
    """Return the file of weights that a path means: itself, or that of the saved student in a run or folder."""
    return student_dir(path) / STUDENT_FILE if Path(path).is_dir() else Path(path)


def no_run(path: str | Path) -> SegkdError:
    """Return the error for a run directory that is not there; it names the nearest one."""
    folder = Path(path)
    beside = folder.parent if folder.parent.is_dir() else Path("runs")
    runs = [str(found.parent) for found in sorted(beside.glob("*/config.yaml"))]
    hint = nearest(folder, runs) if runs else f"there is none in {beside}"
    return SegkdError(f"there is no run {str(folder)!r}: {hint}")


def write_student(directory: str | Path, modules: Mapping[str, nn.Module | None], config: Mapping[str, Any]) -> None:
    """Write a student: each file elsewhere first, then moved into place.

    Args:
        directory: the folder, made if absent.
        modules: whose weights go into which safetensors file; of None, one left from an earlier save is removed.
        config: goes into ``config.json``; under `INFO_KEY` this package's version is added.

    Raises:
        SegkdError: `config` cannot be written as JSON; nothing is written then.
        DiskFull: there is no room for the files.
    """
    info = {"version": importlib.metadata.version("segkd"), **config[INFO_KEY]}
    try:
        text = json.dumps({**config, INFO_KEY: info}, indent=2, sort_keys=True)
    except TypeError as error:
        raise SegkdError(f"the student's info cannot be written as JSON: {error}") from error
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    try:
        with contextlib.ExitStack() as files:  # moved into place when all are written, the last entered first
            for name, module in modules.items():
                if module is None:
                    (directory / name).unlink(missing_ok=True)
                else:
                    size = sum(value.nbytes for value in module.state_dict().values())
                    file = files.enter_context(replacing(directory / name, size=size))
                    safetensors.torch.save_model(module, str(file))
            write_text(directory / CONFIG_FILE, text + "\n")
    except BaseException:
        with contextlib.suppress(OSError):
            directory.rmdir()  # if nothing was there before
        raise


def read_student(path: str | Path, kind: str, build: Callable[[dict[str, Any]], Built]) -> tuple[Path, Built]:
    """Return the folder of a saved student, and what its description makes.

    Args:
        path: a run directory, or the folder itself.
        kind: what is described, for messages.
        build: makes it of the content of ``config.json``; whatever it raises means that the content is wrong.

    Raises:
        SegkdError: there is no student, or its description is unreadable or wrong.
    """
    folder = student_dir(path)
    file = folder / CONFIG_FILE
    try:
        config = read_description(file)
        with no_larger_than(folder / STUDENT_FILE):
            return folder, build(config)
    # Whatever is wrong with the text, its keys or their values, it is this file that the user has to look at.
    except Exception as error:
        reason = str(error).strip().split("\n")[0][:400]
        name = "" if isinstance(error, SegkdError) else f"{type(error).__name__}: "
        raise SegkdError(f"{file} does not describe a {kind}: {name}{reason}") from error


def rgb_pixels(image: np.ndarray | Image.Image) -> np.ndarray:
    """Return an image's pixels, uint8 (H, W, 3) RGB.

    Args:
        image: a PIL image, which is turned upright if it has an orientation tag, or an array of that shape and type
            already.

    Raises:
        SegkdError: an array of another shape or type, one without pixels, a PIL image with more than 8 bits a channel,
            or something else.
    """
    if isinstance(image, Image.Image):
        if image.mode not in COLOUR_MODES:
            raise SegkdError(f"predict takes a PIL image of 8 bits a channel, such as RGB, got mode {image.mode!r}")
        image.load()  # before its tag is looked at, see `open_image`
        image = upright(np.asarray(image.convert("RGB")), orientation(image))
    given = f"{image.dtype} {tuple(image.shape)}" if hasattr(image, "dtype") else type(image).__name__
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.shape[2:] != (3,) or not image.size:
        raise SegkdError(f"predict takes a PIL image or RGB uint8 (H, W, 3), got {given}")
    return image
