"""Average precision as COCO defines it: over everything seen by all processes, counted by faster-coco-eval in C++."""

import importlib.util
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from segkd.errors import SegkdError

MOST_DETECTIONS = 100  # of each class and image the best so many detections count
AREAS = ("all", "small", "medium", "large")
"""COCO's ranges of objects' areas: up to 32^2 pixels, up to 96^2, and above; what lies between belongs to both."""
_OUTSIDE = 1e11  # an area outside all of `AREAS`
Rows = NDArray[np.float64]


class DetectionMetrics(Metric):
    """COCO's average precision of boxes (xyxy), with at most 100 detections an image, and of each class.

    Boxes of every image are kept until :meth:`compute`. Between processes they are exchanged as a few long tensors, so
    that processes may have seen different numbers of images, boxes, or none.

    Args:
        class_names: the names of classes 1 to K.
        kwargs: for `torchmetrics.Metric`.

    Raises:
        SegkdError: faster-coco-eval is not installed.
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = False
    predicted: list[Tensor]
    true: list[Tensor]
    counts: list[Tensor]
    images: Tensor

    def __init__(self, class_names: Sequence[str], **kwargs: Any) -> None:
        if importlib.util.find_spec("faster_coco_eval") is None:
            raise SegkdError('average precision needs faster-coco-eval: pip install "segkd[detection]"')
        super().__init__(**kwargs)
        self.class_names = list(class_names)
        self.add_state("predicted", [], dist_reduce_fx="cat")  # n times box, score, label
        self.add_state("true", [], dist_reduce_fx="cat")  # m times box, label, area, whether crowd, whether difficult
        self.add_state("counts", [], dist_reduce_fx="cat")  # of each image how many of each
        self.add_state("images", torch.tensor(0), dist_reduce_fx=None)  # how many; of each process, once exchanged

    def update(self, predictions: Sequence[dict[str, Tensor]], targets: Sequence[dict[str, Tensor]]) -> None:
        """Add a batch.

        Args:
            predictions: of each image ``boxes`` (n, 4) xyxy, ``scores`` (n,), ``labels`` (n,).
            targets: of each image ``boxes`` (m, 4) in the same pixels, ``labels`` (m,); ``crowd`` and ``difficult``,
                bool (m,), and ``area`` (m,) in pixels if there are any; the area is that of the box without. A
                detection of a crowd or a difficult object counts neither for nor against the model. Within a crowd lies
                what overlaps it with half of its own area; a difficult object, which is Pascal VOC's, is matched by the
                IoU as any other.

        Raises:
            SegkdError: lists of different length, or a label outside 1 to K.
        """
        if len(predictions) != len(targets):
            raise SegkdError(f"metrics got predictions of {len(predictions)} images for {len(targets)} targets")
        for prediction, target in zip(predictions, targets, strict=True):
            for name, labels in (("prediction", prediction["labels"]), ("target", target["labels"])):
                wrong = labels[(labels < 1) | (labels > len(self.class_names))]
                if wrong.numel():
                    raise SegkdError(f"metrics for labels 1 to {len(self.class_names)} met the {name} {int(wrong[0])}")
            boxes = target["boxes"]
            none = boxes.new_zeros(len(boxes))
            area = target.get("area", (boxes[:, 2:] - boxes[:, :2]).double().prod(1))
            flags = (target.get("crowd", none) != 0, target.get("difficult", none) != 0)
            self.predicted.append(_flat(prediction["boxes"], prediction["scores"], prediction["labels"]))
            self.true.append(_flat(boxes, target["labels"], area, *flags))
            counts = _flat(torch.tensor([len(prediction["labels"])]), torch.tensor([len(boxes)]))
            self.counts.append(counts.to(boxes.device))
            self.images += 1

    def compute(self) -> dict[str, Any]:
        """Return the measures of all that was added.

        Returns:
            ``ap``: mean over IoU 0.50 to 0.95 and classes; ``ap50`` and ``ap75``: at one IoU; ``ap_small``,
            ``ap_medium`` and ``ap_large``: of objects up to 32^2, up to 96^2 and above, in pixels of the targets' boxes
            (COCO's own figures are of images at their stored size); ``class_ap`` and ``class_ap50``: lists of K. All in
            [0, 1]; NaN where there is no object.
        """
        counts = _rows(self.counts, 2).astype(np.int64)
        predicted = np.split(_rows(self.predicted, 6), counts[:, 0].cumsum()[:-1])
        true = np.split(_rows(self.true, 8), counts[:, 1].cumsum()[:-1])
        # Processes have been given the images in turn. Of equal scores COCO takes that of the first image first.
        places = np.concatenate([np.arange(number) for number in self.images.reshape(-1).tolist()])
        order = places.argsort(kind="stable")
        classes = range(len(self.class_names))
        precision = _precisions([predicted[i] for i in order], [true[i] for i in order], len(classes))
        whole = precision[..., 0]
        measured: dict[str, Any] = {"ap": _mean(whole), "ap50": _mean(whole[0]), "ap75": _mean(whole[5])}
        measured |= {f"ap_{name}": _mean(precision[..., place]) for place, name in enumerate(AREAS) if place}
        measured["class_ap"] = [_mean(whole[:, :, column]) for column in classes]
        measured["class_ap50"] = [_mean(whole[0, :, column]) for column in classes]
        return measured


def _flat(*columns: Tensor) -> Tensor:
    """Put columns (n,) or (n, 4) side by side as float64 and flatten them into what is kept and exchanged.

    float32 would round scores, areas and boxes. But torchmetrics exchanges float32 for a process that has seen nothing,
    so that each number goes as two halves of its bits.
    """
    sides = [column.detach().cpu().double() for column in columns]
    rows = torch.cat([side if side.dim() == 2 else side[:, None] for side in sides], dim=1)
    return rows.flatten().view(torch.float32).to(columns[0].device)


def _rows(state: list[Tensor] | Tensor, columns: int) -> Rows:
    """Return a state, which is a list, or one tensor once it was exchanged, as (n, columns)."""
    if not isinstance(state, Tensor):
        state = torch.cat(state) if state else torch.zeros(0)
    return state.cpu().view(torch.float64).reshape(-1, columns).numpy()


def _precisions(found: Sequence[Rows], true: Sequence[Rows], num_classes: int) -> NDArray[np.float64]:
    """Return (10, 101, K, 4): the precision at each IoU, recall, class and of `AREAS`, -1 where there is no object.

    A detection takes the free object of its class with the highest IoU, one that counts before one that is ignored.
    Ignored are crowds, difficult objects, and those outside the range of areas; a detection that takes one counts
    neither way. Of a crowd the IoU is the intersection over the detection's area; of a difficult object it is the plain
    IoU. Both may be taken any number of times, as COCO and Pascal VOC have it.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    if not any(map(len, true)):
        return np.full((10, 101, num_classes, len(AREAS)), -1.0)
    categories = [{"id": label, "name": str(label)} for label in range(1, num_classes + 1)]
    sides = COCO(), COCO()
    for side, images in zip(sides, (map(_objects, true, found), map(_detections, found)), strict=True):
        annotations = _numbered(images)
        side.dataset = {"images": [{"id": i} for i in range(len(true))], "categories": categories}
        side.dataset["annotations"] = annotations
        side.createIndex()
    evaluation = COCOeval_faster(*sides, iouType="bbox", print_function=lambda *_: None)
    evaluation.params.maxDets = [MOST_DETECTIONS]
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation.eval["precision"][..., -1]


def _objects(true: Rows, found: Rows) -> list[dict[str, Any]]:
    """Return an image's objects as COCO has them.

    COCO knows no object that is ignored and yet matched by plain IoU, but for those outside the range of areas. Such a
    one is taken once only, so that a difficult object stands there as often as it may be taken.
    """
    counts = np.bincount(found[:, 5].astype(int), minlength=int(true[:, 4].max(initial=0)) + 1).clip(
        max=MOST_DETECTIONS
    )
    objects = []
    for box, (label, area, crowd, difficult) in zip(_sides(true), true[:, 4:].tolist(), strict=True):
        is_copied = bool(difficult and not crowd)
        what = {"bbox": box, "category_id": int(label), "area": _OUTSIDE if is_copied else area, "iscrowd": int(crowd)}
        objects += [dict(what) for _ in range(counts[int(label)] if is_copied else 1)]
    return objects


def _detections(found: Rows) -> list[dict[str, Any]]:
    return [
        {"bbox": box, "category_id": int(label), "score": score, "area": box[2] * box[3], "iscrowd": 0}
        for box, (score, label) in zip(_sides(found), found[:, 4:].tolist(), strict=True)
    ]


def _sides(rows: Rows) -> list[list[float]]:
    """Return x, y, width, height of boxes xyxy."""
    return np.concatenate([rows[:, :2], rows[:, 2:4] - rows[:, :2]], axis=1).tolist()


def _numbered(images: Iterable[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return the annotations of all images, which get their image's number and one of their own, from 1 on."""
    annotations = [{**what, "image_id": index} for index, rows in enumerate(images) for what in rows]
    return [{**what, "id": number} for number, what in enumerate(annotations, start=1)]


def _mean(precision: NDArray[np.float64]) -> float:
    """Return the mean where there are objects, NaN without any."""
    there = precision[precision >= 0]
    return float(there.mean()) if there.size else float("nan")
