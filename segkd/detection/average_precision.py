"""COCO's average precision of boxes, counted by faster-coco-eval in C++; difficult objects beside crowds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_DETECTIONS = 100
"""Of each class and image the best so many detections count."""
IOUS = tuple(np.linspace(0.5, 0.95, 10))
AREAS = (("all", 0.0, 1e10), ("small", 0.0, 32.0**2), ("medium", 32.0**2, 96.0**2), ("large", 96.0**2, 1e10))
"""Name, smallest and largest area of an object in pixels; both ends belong to it."""

_OUTSIDE = 1e11
"""An area outside all of `AREAS`."""


@dataclass(frozen=True)
class Detections:
    """What a model found in one image: float64 boxes (n, 4) xyxy, float64 scores (n,), labels (n,) in 1 to K."""

    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Truth:
    """What there is in one image: float64 boxes (m, 4) xyxy, labels, areas (m,) in pixels, and the two flags (m,)."""

    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    areas: NDArray[np.float64]
    crowd: NDArray[np.bool_]
    difficult: NDArray[np.bool_]


def precisions(found: Sequence[Detections], true: Sequence[Truth], num_classes: int) -> NDArray[np.float64]:
    """Return the precision at each IoU threshold, recall, class and range of areas, -1 where there is no object.

    A detection takes the free object of its class with the highest IoU, one that counts before one that is ignored.
    Ignored are crowds, difficult objects, and those outside the range of areas; a detection that takes one counts
    neither way. Of a crowd the IoU is the intersection over the detection's area; of a difficult object it is the plain
    IoU. Both may be taken any number of times, as COCO and Pascal VOC have it.

    Args:
        found: of each image.
        true: of each image.
        num_classes: K.

    Returns:
        (10, 101, K, 4): IoU 0.50 to 0.95, recall 0 to 1, class, `AREAS`.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    if not any(len(image.labels) for image in true):
        return np.full((len(IOUS), 101, num_classes, len(AREAS)), -1.0)
    truth, detections = COCO(), COCO()
    shared = {
        "images": [{"id": index} for index in range(len(true))],
        "categories": [{"id": label, "name": str(label)} for label in range(1, num_classes + 1)],
    }
    truth.dataset = {**shared, "annotations": _numbered(map(_objects, true, found))}
    detections.dataset = {**shared, "annotations": _numbered(map(_detections, found))}
    for side in (truth, detections):
        side.createIndex()
    evaluation = COCOeval_faster(truth, detections, iouType="bbox", print_function=lambda *_: None)
    evaluation.params.iouThrs = np.array(IOUS)
    evaluation.params.maxDets = [MOST_DETECTIONS]
    evaluation.params.areaRng = [[least, most] for _, least, most in AREAS]
    evaluation.params.areaRngLbl = [name for name, *_ in AREAS]
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation.eval["precision"][..., -1]


def _objects(true: Truth, found: Detections) -> list[dict[str, Any]]:
    """Return an image's objects as COCO has them.

    COCO knows no object that is ignored and yet matched by plain IoU, but for those outside the range of areas. Such a
    one is taken once only, so that a difficult object stands there as often as it may be taken.
    """
    counts = np.bincount(found.labels, minlength=max(true.labels, default=0) + 1).clip(max=MOST_DETECTIONS)
    objects = []
    for box, label, area, crowd, difficult in zip(
        _sides(true.boxes), true.labels.tolist(), true.areas.tolist(), true.crowd, true.difficult, strict=True
    ):
        is_copied = bool(difficult and not crowd)
        what = {"bbox": box, "category_id": label, "area": _OUTSIDE if is_copied else area, "iscrowd": int(crowd)}
        objects += [dict(what) for _ in range(counts[label] if is_copied else 1)]
    return objects


def _detections(found: Detections) -> list[dict[str, Any]]:
    rows = zip(_sides(found.boxes), found.labels.tolist(), found.scores.tolist(), strict=True)
    return [
        {"bbox": box, "category_id": label, "score": score, "area": box[2] * box[3], "iscrowd": 0}
        for box, label, score in rows
    ]


def _sides(boxes: NDArray[np.float64]) -> list[list[float]]:
    """Return x, y, width, height of boxes xyxy."""
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).tolist()


def _numbered(images: Any) -> list[dict[str, Any]]:
    """Return the annotations of all images, which get their image's number and one of their own, from 1 on."""
    annotations = [{**what, "image_id": index} for index, rows in enumerate(images) for what in rows]
    for number, annotation in enumerate(annotations, start=1):
        annotation["id"] = number
    return annotations
