"""Average precision as COCO defines it: over everything seen by all processes, by a fast implementation in C++."""

import importlib.util
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.detection import MeanAveragePrecision

from segkd.errors import SegkdError

_NAMES = {
    "ap": "map",
    "ap50": "map_50",
    "ap75": "map_75",
    "ap_small": "map_small",
    "ap_medium": "map_medium",
    "ap_large": "map_large",
}
"""Our names of torchmetrics' measures."""


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

    def __init__(self, class_names: Sequence[str], **kwargs: Any) -> None:
        if importlib.util.find_spec("faster_coco_eval") is None:
            raise SegkdError('average precision needs faster-coco-eval: pip install "segkd[detection]"')
        super().__init__(**kwargs)
        self.class_names = list(class_names)
        # All flat and float32, as is what torchmetrics exchanges for a process that has seen nothing.
        self.add_state("predicted", [], dist_reduce_fx="cat")  # n times box, score, label
        self.add_state("true", [], dist_reduce_fx="cat")  # m times box, label, whether to ignore, area
        self.add_state("counts", [], dist_reduce_fx="cat")  # of each image how many of each

    def update(self, predictions: Sequence[dict[str, Tensor]], targets: Sequence[dict[str, Tensor]]) -> None:
        """Add a batch.

        Args:
            predictions: of each image ``boxes`` (n, 4) xyxy, ``scores`` (n,), ``labels`` (n,).
            targets: of each image ``boxes`` (m, 4) in the same pixels, ``labels`` (m,); ``crowd`` and ``difficult``,
                bool (m,), and ``area`` (m,) if there are any. A detection of a crowd or a difficult object counts
                neither for nor against the model; Pascal VOC's own measure ignores the difficult ones likewise.

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
            ignored = (target.get("crowd", none) != 0) | (target.get("difficult", none) != 0)
            self.predicted.append(_flat(prediction["boxes"], prediction["scores"], prediction["labels"]))
            self.true.append(_flat(boxes, target["labels"], ignored, target.get("area", none)))
            self.counts.append(torch.tensor([len(prediction["labels"]), len(boxes)], device=boxes.device).float())

    def compute(self) -> dict[str, Any]:
        """Return the measures of all that was added.

        Returns:
            ``ap``: mean over IoU 0.50 to 0.95 and classes; ``ap50`` and ``ap75``: at one IoU; ``ap_small``,
            ``ap_medium`` and ``ap_large``: of objects up to 32^2, up to 96^2 and above, in pixels of the targets' boxes
            (COCO's own figures are of images at their stored size); ``class_ap`` and ``class_ap50``: lists of K. All in
            [0, 1]; NaN where there is no object.
        """
        metric = MeanAveragePrecision(backend="faster_coco_eval", extended_summary=True, sync_on_compute=False)
        metric.warn_on_many_detections = False
        counts = _rows(self.counts, 2).long()
        predicted = _rows(self.predicted, 6).split(counts[:, 0].tolist())
        true = _rows(self.true, 7).split(counts[:, 1].tolist())
        metric.update(
            [{"boxes": rows[:, :4], "scores": rows[:, 4], "labels": rows[:, 5].long()} for rows in predicted],
            [
                {
                    "boxes": rows[:, :4],
                    "labels": rows[:, 4].long(),
                    "iscrowd": rows[:, 5].long(),
                    "area": rows[:, 6],
                }
                for rows in true
            ],
        )
        result = metric.compute()
        measured: dict[str, Any] = {ours: _value(result[theirs]) for ours, theirs in _NAMES.items()}
        measured["class_ap"] = [float("nan")] * len(self.class_names)
        measured["class_ap50"] = list(measured["class_ap"])
        if "precision" in result:
            # IoU, recall, class, area range (all first), number of detections (100 last); -1 where there is no object.
            precision = result["precision"][:, :, :, 0, -1]
            # reshape: torchmetrics makes a scalar of a single class.
            for column, label in enumerate(result["classes"].reshape(-1).tolist()):
                measured["class_ap"][label - 1] = _value(precision[:, :, column].mean())
                measured["class_ap50"][label - 1] = _value(precision[0, :, column].mean())
        return measured


def _flat(*columns: Tensor) -> Tensor:
    """Put columns (n,) or (n, 4) side by side and flatten them, as float32: labels are small enough to be exact."""
    sides = [column.detach().float() for column in columns]
    return torch.cat([side if side.dim() == 2 else side[:, None] for side in sides], dim=1).flatten()


def _rows(state: list[Tensor] | Tensor, columns: int) -> Tensor:
    """Return a state, which is a list, or one tensor once it was exchanged, as (n, columns)."""
    if not isinstance(state, Tensor):
        state = torch.cat(state) if state else torch.zeros(0)
    return state.cpu().reshape(-1, columns)


def _value(measure: Tensor) -> float:
    return float(measure) if measure >= 0 else float("nan")
