"""``streets``: a data set that is drawn on first use, in Cityscapes' own folders and file names."""

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
from pydantic import Field

from segkd.common.plain import Checked
from segkd.data.streets.scene import SCENE_VERSION, draw_scene
from segkd.errors import SegkdError

_MARKER = "streets.json"
_CITIES = ("ahorn", "birke", "eiche", "linde")


class Drawing(Checked, extra="forbid", frozen=True):
    """How many scenes are drawn, how large (height and width in pixels) and from which seed."""

    train: int = Field(default=400, ge=1, le=1_000_000)
    val: int = Field(default=100, ge=1, le=1_000_000)
    size: tuple[Annotated[int, Field(ge=32, le=4096)], Annotated[int, Field(ge=32, le=4096)]] = (128, 256)
    seed: int = Field(default=0, ge=0)


def ensure_streets(root: Path, drawing: Drawing) -> None:
    """Draw the set into ``root`` unless it is already there.

    It is drawn beside ``root`` and renamed, so that ``root`` is either complete or absent. When two processes do this
    at once, the first to finish wins and the other throws its own, equal, set away.
    """
    wanted = {"version": SCENE_VERSION, **drawing.model_dump(mode="json")}
    if (root / _MARKER).is_file():
        return _check_marker(root, wanted)
    if root.exists() and not (root.is_dir() and not any(root.iterdir())):
        raise SegkdError(
            f"{root} is not empty and was not drawn by segkd: move it away or set data.root to another folder"
        )
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{root.name}-", dir=root.parent))
    except OSError as error:
        raise SegkdError(f"cannot draw scenes into {root}: {error.strerror}; set data.root to another folder") from None
    try:
        for offset, (split, count) in enumerate((("train", drawing.train), ("val", drawing.val))):
            for index in range(count):
                # Even and odd seeds: the splits never share a scene, whatever their sizes.
                scene = draw_scene((drawing.seed, 2 * index + offset), drawing.size)
                _write(temporary, split, index, *scene)
        (temporary / _MARKER).write_text(json.dumps(wanted), encoding="utf-8")
        temporary.chmod(0o755)  # mkdtemp's own mode would keep other users out of a shared data folder
        os.rename(temporary, root)
    except OSError as error:
        if not (root / _MARKER).is_file():
            raise SegkdError(f"cannot draw scenes into {root}: {error.strerror}") from None
        _check_marker(root, wanted)  # another process was faster: what it drew must be what was asked for
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _check_marker(root: Path, wanted: dict[str, object]) -> None:
    try:
        there = json.loads((root / _MARKER).read_text(encoding="utf-8"))
    except ValueError:
        there = None
    if there != wanted:
        raise SegkdError(
            f"{root} holds scenes drawn with {json.dumps(there)}, not {json.dumps(wanted)}: "
            "remove that folder or set data.root to another"
        )


def _write(root: Path, split: str, index: int, image: np.ndarray, mask: np.ndarray) -> None:
    city = _CITIES[index % len(_CITIES)]
    name = f"{split}/{city}/{city}_{index // len(_CITIES):06d}_000019"
    for file, pixels in (
        (root / f"leftImg8bit/{name}_leftImg8bit.png", image[..., ::-1]),
        (root / f"gtFine/{name}_gtFine_labelIds.png", mask),
    ):
        file.parent.mkdir(parents=True, exist_ok=True)
        if not cv2.imwrite(str(file), pixels):
            raise OSError(0, f"cannot write {file.parent}")
