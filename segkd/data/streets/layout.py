"""``streets``: a data set that is drawn on first use, in Cityscapes' own folders and file names."""

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Annotated

import cv2
from pydantic import ConfigDict, Field

from segkd.common.plain import Checked
from segkd.data.streets.scene import SCENE_VERSION, draw_scene
from segkd.errors import SegkdError

_MARKER = "streets.json"
_CITIES = ("ahorn", "birke", "eiche", "linde")


class Drawing(Checked):
    """How many scenes are drawn, how large and from which seed.

    Attributes:
        train: number of training scenes.
        val: number of validation scenes; drawn from seeds that no training scene has.
        size: height and width in pixels.
        seed: the seed of the whole set.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    train: int = Field(default=400, ge=1, le=1_000_000)
    val: int = Field(default=100, ge=1, le=1_000_000)
    size: tuple[Annotated[int, Field(ge=32, le=4096)], Annotated[int, Field(ge=32, le=4096)]] = (128, 256)
    seed: int = Field(default=0, ge=0)


def ensure_streets(root: Path, drawing: Drawing) -> None:
    """Draw the set into ``root`` unless it is already there.

    Raises:
        SegkdError: ``root`` holds something else, or a set drawn with other values, or cannot be written.
    """
    marker = root / _MARKER
    if marker.is_file():
        wanted = _content(drawing)
        try:
            there = json.loads(marker.read_text(encoding="utf-8"))
        except ValueError:
            there = None
        if there != wanted:
            raise SegkdError(
                f"{root} holds scenes drawn with {json.dumps(there)}, not {json.dumps(wanted)}: "
                "remove that folder or set data.root to another"
            )
        return
    write_streets(root, train=drawing.train, val=drawing.val, size=drawing.size, seed=drawing.seed)


def write_streets(root: Path, *, train: int, val: int, size: tuple[int, int] = (128, 256), seed: int = 0) -> None:
    """Draw a set of scenes into ``root``, which must not exist or be empty.

    The set is drawn beside ``root`` and renamed, so that ``root`` is either complete or absent. When two processes do
    this at once, the first to finish wins and the other throws its own, equal, set away.

    Args:
        root: the data set's folder.
        train: number of training scenes.
        val: number of validation scenes.
        size: height and width in pixels.
        seed: the seed of the whole set.

    Raises:
        SegkdError: ``root`` holds something, or cannot be written.
    """
    root = Path(root)
    drawing = Drawing(train=train, val=val, size=size, seed=seed)
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
        for offset, (split, count) in enumerate((("train", train), ("val", val))):
            _write_split(temporary, split, count, drawing, offset)
        (temporary / _MARKER).write_text(json.dumps(_content(drawing)), encoding="utf-8")
        temporary.chmod(0o755)  # mkdtemp's own mode would keep other users out of a shared data folder
        os.rename(temporary, root)
    except OSError as error:
        if not (root / _MARKER).is_file():
            raise SegkdError(f"cannot draw scenes into {root}: {error.strerror}") from None
        ensure_streets(root, drawing)  # another process was faster: what it drew must be what was asked for
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_split(root: Path, split: str, count: int, drawing: Drawing, offset: int) -> None:
    for index in range(count):
        # Even and odd seeds: the splits never share a scene, whatever their sizes.
        image, mask = draw_scene((drawing.seed, 2 * index + offset), drawing.size)
        city = _CITIES[index % len(_CITIES)]
        stem = f"{city}_{index // len(_CITIES):06d}_000019"
        for kind, suffix, pixels in (
            ("leftImg8bit", "leftImg8bit", image[..., ::-1]),
            ("gtFine", "gtFine_labelIds", mask),
        ):
            folder = root / kind / split / city
            folder.mkdir(parents=True, exist_ok=True)
            if not cv2.imwrite(str(folder / f"{stem}_{suffix}.png"), pixels):
                raise OSError(0, f"cannot write {folder}")


def _content(drawing: Drawing) -> dict[str, object]:
    return {"version": SCENE_VERSION, **drawing.model_dump(mode="json")}
