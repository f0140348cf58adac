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


class MapResults:
    """Writes what a model of a task of one's own returns below ``maps``: float32 (C, H, W) as NumPy's ``.npy``."""

    noun, others = "of a task of your own", "segmentation and detectors"
    reads: tuple[str, ...] = ()  # options of ``segkd predict`` that are for the model,
    writes: tuple[str, ...] = ()  # and those that are for what is written

    def __init__(self, info: Mapping[str, Any], out: Path) -> None:
        self.info, self.out = info, out

    def add(self, source: Source, frame: int | None, image: np.ndarray, found: Any) -> Picture:
        """Write what `Network.predict` found and return a picture of it; of a map its first channel, low values dark.

        Args:
            source: the image or video.
            frame: which frame of a video, counted from 1: they go into a folder; None for an image.
            image: uint8 RGB (H, W, 3).
            found: of it.
        """
        path = self.out / "maps" / f"{_of_frame(source.name, frame)}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, sync=False) as scratch, scratch.open("wb") as file:
            np.save(file, found)
        finite = found[0][np.isfinite(found[0])]
        return weight_map(found[0], (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0))

    def close(self) -> None:
        """Write what was collected."""

    def _recorded(self, key: str) -> Any:
        if key not in self.info:
            raise SegkdError(f"the student records no {key}: save it with info={{{key!r}: ...}}")
        return self.info[key]


class MaskResults(MapResults):
    """Writes each mask as a palette PNG below ``masks``: class ids as indices, the student's colours as palette."""

    noun, others = "none", "detectors"
    reads = ("sliding", "window", "stride", "flip", "scales")
    writes = ("alpha",)

    def __init__(self, info: Mapping[str, Any], out: Path, alpha: float = 0.5) -> None:
        super().__init__(info, out)
        self.colors, self.ignore_index, self.alpha = self._recorded("colors"), info.get("ignore_index", 255), alpha
        # Every index that is no class is white.
        self.palette = colorize(np.arange(256)[None], self.colors, self.ignore_index).tobytes()

    def add(self, source: Source, frame: int | None, image: np.ndarray, found: Any) -> Picture:
        """Write a mask and return it laid over its image."""
        indexed = Image.fromarray(found)
        indexed.putpalette(self.palette)
        save_picture(indexed, self.out / "masks" / f"{_of_frame(source.name, frame)}.png")
        return overlay(image, found, self.colors, self.alpha, self.ignore_index)


class BoxResults(MapResults):
    """Collects boxes and writes ``detections.json``: of each image its size, and boxes, labels and scores."""

    noun, others = "a detector", "segmentation"
    writes = ("score_threshold",)

    def __init__(self, info: Mapping[str, Any], out: Path, score_threshold: float = 0.3) -> None:
        super().__init__(info, out)
        self.names, self.colors, self.threshold = self._recorded("classes"), self._recorded("colors"), score_threshold
        self.images: dict[str, Any] = {}

    def add(self, source: Source, frame: int | None, image: np.ndarray, found: Any) -> Picture:
        """Keep an image's boxes and return them drawn over it."""
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


RESULTS: dict[str, type[MapResults]] = {"segmentation": MaskResults, "detection": BoxResults}
"""By task; of one's own it is `MapResults`."""


def save_picture(picture: Image.Image, path: Path, **options: Any) -> None:
    """Write a picture whole or not at all, in the format that its suffix says; its folder is made if absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, sync=False) as scratch:  # of many, and made again as easily
        picture.save(scratch, **options)


def _of_frame(name: Path, frame: int | None) -> Path:
    return name if frame is None else name / f"frame_{frame:06d}"
