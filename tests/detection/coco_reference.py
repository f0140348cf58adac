"""Random images with objects and detections, and what pycocotools measures of them."""

import contextlib
import io
from typing import Any

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

NAMES = ["cat", "dog", "bird"]
Image = dict[str, Any]


def scene(
    seed: int,
    images: int = 12,
    detections: tuple[int, int] = (0, 9),
    whole: bool = False,
    ties: bool = False,
    difficult: bool = False,
) -> list[Image]:
    """Draw images, some of them empty; most detections are near an object.

    Args:
        seed: what is drawn.
        images: how many.
        detections: smallest and largest number of an image, the latter exclusive.
        whole: whether corners and areas are whole numbers, so that IoUs are often at a threshold.
        ties: whether many scores are equal.
        difficult: whether some objects are difficult.
    """
    g = np.random.default_rng(seed)
    drawn = []
    for _ in range(images):
        count, found = int(g.integers(0, 7)), int(g.integers(*detections))
        boxes, made_up = _boxes(g, count), _boxes(g, found)
        labels, others = g.integers(1, 4, count), g.integers(1, 4, found)
        if count:
            source = g.integers(0, count, found)
            made_up = np.where(g.random((found, 1)) < 0.7, boxes[source] + g.normal(0, 6, (found, 4)), made_up)
            others = np.where(g.random(found) < 0.8, labels[source], others)
        area, scores = (boxes[:, 2:] - boxes[:, :2]).prod(1) * g.uniform(0.4, 1, count), g.random(found)
        if whole:
            boxes, made_up, area = (x.round() for x in (boxes, made_up, area))
        for corners in (boxes, made_up):
            corners[:, 2:] = np.maximum(corners[:, 2:], corners[:, :2] + 1)
        drawn.append(
            {
                "boxes": boxes,
                "labels": labels,
                "area": area,
                "crowd": g.random(count) < 0.2,
                "difficult": (g.random(count) < 0.3) & difficult,
                "found": {"boxes": made_up, "labels": others, "scores": scores.round(1) if ties else scores},
            }
        )
    return drawn


def _boxes(g: np.random.Generator, count: int) -> Any:
    corners = g.random((count, 2)) * 300
    return np.concatenate([corners, corners + g.random((count, 2)) ** 2 * 200 + 2], 1)


def pairs_of(images: list[Image]) -> list[tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """Return predictions and targets as `DetectionMetrics` takes them."""
    as_tensors = [
        [{k: torch.from_numpy(v) for k, v in part.items() if k != "found"} for part in (image["found"], image)]
        for image in images
    ]
    return [(found, true) for found, true in as_tensors]


class _Evaluation(COCOeval):
    """Counts difficult objects as crowds, which are ignored and taken any number of times, but by plain IoU."""

    def computeIoU(self, imgId: int, catId: int) -> Any:
        objects = self._gts[imgId, catId]
        flags = [gt["iscrowd"] for gt in objects]
        for gt in objects:
            gt["iscrowd"] = gt["own_crowd"]
        ious = super().computeIoU(imgId, catId)
        for gt, flag in zip(objects, flags, strict=True):
            gt["iscrowd"] = flag
        return ious


def reference(images: list[Image]) -> dict[str, Any]:
    """Return what pycocotools measures, under the names of `DetectionMetrics`."""
    truth, detections = COCO(), COCO()
    shared = {"images": [{"id": i} for i in range(len(images))], "categories": [{"id": k} for k in (1, 2, 3)]}
    truth.dataset, detections.dataset = ({**shared, "annotations": []} for _ in range(2))
    for index, image in enumerate(images):
        flags = (
            {"own_crowd": int(c), "iscrowd": int(c or d)}
            for c, d in zip(image["crowd"], image["difficult"], strict=True)
        )
        _add(truth, index, image, [{**f, "area": float(a)} for f, a in zip(flags, image["area"], strict=True)])
        found, sides = image["found"], np.diff(image["found"]["boxes"].reshape(-1, 2, 2), axis=1)[:, 0]
        scores = zip(found["scores"], sides.prod(1), strict=True)
        _add(detections, index, found, [{"score": float(score), "area": float(area)} for score, area in scores])
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        detections.createIndex()
        evaluation = _Evaluation(truth, detections, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    names = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
    measured: dict[str, Any] = {n: v if v >= 0 else np.nan for n, v in zip(names, evaluation.stats, strict=False)}
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    precision = np.where(precision < 0, np.nan, precision)
    return {
        **measured,
        "class_ap": precision.mean((0, 1)).tolist(),
        "class_ap50": precision[0].mean(0).tolist(),
    }


def _add(side: COCO, index: int, image: Image, rest: list[dict[str, Any]]) -> None:
    for box, label, more in zip(image["boxes"], image["labels"], rest, strict=True):
        number = len(side.dataset["annotations"]) + 1
        what = {"id": number, "image_id": index, "category_id": int(label), "bbox": [*box[:2], *(box[2:] - box[:2])]}
        side.dataset["annotations"].append({**what, **more})
