"""What a student found, on disk: a mask or map for each image, or one file of boxes; and a picture of it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from segkd.common.files import replacing, write_text
from segkd.common.pictures import Picture, weight_map
from segkd.deployment.inputs import Source
from segkd.detection.pictures import draw_boxes
from segkd.errors import SegkdError
from segkd.segmentation.pictures import colorize, overlay


class MaskResults:
    """Writes each mask as a palette PNG below ``masks``: class ids as indices, the student's colours as palette.

    Args:
        info: of the student.
        out: the folder.
        alpha: opacity of the mask over its image, 0 to 1.

    Raises:
        SegkdError: the student records no colours.
    """

    noun, others = "none", "detectors"
    reads = ("sliding", "window", "stride", "flip", "scales")
    writes = ("alpha",)

    def __init__(self, info: Mapping[str, Any], out: Path, alpha: float = 0.5) -> None:
        (self.colors,) = _recorded(info, "colors")
        self.ignore_index = info.get("ignore_index", 255)
        self.out, self.alpha = out, alpha
        # Every index that is no class is white.
        self.palette = colorize(np.arange(256)[None], self.colors, self.ignore_index).tobytes()

    def add(self, source: Source, frame: int | None, image: np.ndarray, found: np.ndarray) -> Picture:
        """Write a mask and return it laid over its image.

        Args:
            source: the image or video.
            frame: which frame of a video, counted from 1: its masks go into a folder; None for an image.
            image: uint8 RGB (H, W, 3).
            found: what `Network.predict` returned.
        """
        indexed = Image.fromarray(found)
        indexed.putpalette(self.palette)
        save_picture(indexed, self.out / "masks" / f"{_of_frame(source.name, frame)}.png")
        return overlay(image, found, self.colors, self.alpha, self.ignore_index)

    def close(self) -> None:
        """Nothing is left to write."""


class BoxResults:
    """Collects boxes and writes ``detections.json``: of each image its size, and boxes, labels and scores.

    Args:
        info: of the student.
        out: the folder.
        score_threshold: detections with a lower score are left out.

    Raises:
        SegkdError: the student records no classes or colours.
    """

    noun, others = "a detector", "segmentation"
    reads = ()
    writes = ("score_threshold",)

    def __init__(self, info: Mapping[str, Any], out: Path, score_threshold: float = 0.3) -> None:
        self.names, self.colors = _recorded(info, "classes", "colors")
        self.out, self.threshold = out, score_threshold
        self.images: dict[str, Any] = {}

    def add(self, source: Source, frame: int | None, image: np.ndarray, found: dict[str, np.ndarray]) -> Picture:
        """Keep an image's boxes and return them drawn over it.

        Args:
            source: the image or video.
            frame: which frame of a video, counted from 1; None for an image.
            image: uint8 RGB (H, W, 3).
            found: what `Network.predict` returned.
        """
        sure = found["scores"] >= self.threshold
        boxes, labels, scores = (found[key][sure] for key in ("boxes", "labels", "scores"))
        self.images[_of_frame(source.relative, frame).as_posix()] = {
            "width": image.shape[1],
            "height": image.shape[0],
            "boxes": boxes.astype(float).round(2).tolist(),
            "labels": [self.names[label - 1] for label in labels],
            "scores": scores.astype(float).round(4).tolist(),
        }
        return draw_boxes(image, boxes, labels, self.names, self.colors, scores, tile=image.shape[1])

    def close(self) -> None:
        """Write the file, with all that was collected."""
        self.out.mkdir(parents=True, exist_ok=True)
        lines = (f"{json.dumps(name)}: {json.dumps(boxes)}" for name, boxes in self.images.items())
        write_text(self.out / "detections.json", "{\n" + ",\n".join(lines) + "\n}\n")


class MapResults:
    """Writes what a model of a task of one's own returns below ``maps``: float32 (C, H, W) as NumPy's ``.npy``.

    Args:
        info: of the student.
        out: the folder.
    """

    noun, others = "of a task of your own", "segmentation and detectors"
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()

    def __init__(self, info: Mapping[str, Any], out: Path) -> None:
        self.out = out

    def add(self, source: Source, frame: int | None, image: np.ndarray, found: np.ndarray) -> Picture:
        """Write a map and return its first channel as a picture, from its lowest value, dark, to its highest.

        Args:
            source: the image or video.
            frame: which frame of a video, counted from 1; None for an image.
            image: uint8 RGB (H, W, 3).
            found: what `Network.predict` returned.
        """
        path = self.out / "maps" / f"{_of_frame(source.name, frame)}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, sync=False) as scratch, scratch.open("wb") as file:
            np.save(file, found)
        finite = found[0][np.isfinite(found[0])]
        return weight_map(found[0], (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0))

    def close(self) -> None:
        """Nothing is left to write."""


RESULTS: dict[str, type[MaskResults] | type[BoxResults]] = {"segmentation": MaskResults, "detection": BoxResults}
"""By task; of one's own it is `MapResults`.

Of the options of ``segkd predict``, ``reads`` are for the model and ``writes`` for what is written.
"""


def save_picture(picture: Image.Image, path: Path, **options: Any) -> None:
    """Write a picture whole or not at all, in the format that its suffix says; its folder is made if absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, sync=False) as scratch:  # of many, and made again as easily
        picture.save(scratch, **options)


def _of_frame(name: Path, frame: int | None) -> Path:
    return name if frame is None else name / f"frame_{frame:06d}"


def _recorded(info: Mapping[str, Any], *keys: str) -> list[Any]:
    missing = [key for key in keys if key not in info]
    if missing:
        raise SegkdError(f"the student records no {missing[0]}: save it with info={{{missing[0]!r}: ...}}")
    return [info[key] for key in keys]
