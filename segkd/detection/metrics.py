"""Average precision as COCO defines it: over everything seen by all processes."""

import importlib.util
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from segkd.detection.average_precision import AREAS, Detections, Truth, precisions
from segkd.errors import SegkdError


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
            self.counts.append(
                _flat(torch.tensor([len(prediction["labels"])]), torch.tensor([len(boxes)])).to(boxes.device)
            )
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
        order = np.concatenate([np.arange(number) for number in self.images.reshape(-1).tolist()]).argsort(
            kind="stable"
        )
        precision = precisions(
            [
                Detections(rows[:, :4], rows[:, 4], rows[:, 5].astype(np.int64))
                for rows in (predicted[i] for i in order)
            ],
            [
                Truth(rows[:, :4], rows[:, 4].astype(np.int64), rows[:, 5], rows[:, 6] > 0, rows[:, 7] > 0)
                for rows in (true[i] for i in order)
            ],
            len(self.class_names),
        )
        whole = precision[..., 0]
        measured: dict[str, Any] = {"ap": _mean(whole), "ap50": _mean(whole[0]), "ap75": _mean(whole[5])}
        measured |= {f"ap_{name}": _mean(precision[..., place]) for place, (name, *_) in enumerate(AREAS) if place}
        measured["class_ap"] = [_mean(whole[:, :, column]) for column in range(len(self.class_names))]
        measured["class_ap50"] = [_mean(whole[0, :, column]) for column in range(len(self.class_names))]
        return measured


def _flat(*columns: Tensor) -> Tensor:
    """Put columns (n,) or (n, 4) side by side as float64 and flatten them into what is kept and exchanged.

    float32 would round scores, areas and boxes. But torchmetrics exchanges float32 for a process that has seen nothing,
    so that each number goes as two halves of its bits.
    """
    sides = [column.detach().cpu().double() for column in columns]
    rows = torch.cat([side if side.dim() == 2 else side[:, None] for side in sides], dim=1)
    return rows.flatten().view(torch.float32).to(columns[0].device)


def _rows(state: list[Tensor] | Tensor, columns: int) -> NDArray[np.float64]:
    """Return a state, which is a list, or one tensor once it was exchanged, as (n, columns)."""
    if not isinstance(state, Tensor):
        state = torch.cat(state) if state else torch.zeros(0)
    return state.cpu().view(torch.float64).reshape(-1, columns).numpy()


def _mean(precision: NDArray[np.float64]) -> float:
    """Return the mean where there are objects, NaN without any."""
    there = precision[precision >= 0]
    return float(there.mean()) if there.size else float("nan")
