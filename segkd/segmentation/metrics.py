"""mIoU as the field means it: one confusion matrix over the whole validation set."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from segkd.errors import SegkdError


class SegmentationMetrics(Metric):
    """One confusion matrix over everything seen, summed over processes, and what is read from it.

    Args:
        classes: number of classes C.
        ignore_index: the label that is left out.
        kwargs: for `torchmetrics.Metric`.
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = False
    confusion: Tensor

    def __init__(self, classes: int, ignore_index: int = 255, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.classes = classes
        self.ignore_index = ignore_index
        self.add_state("confusion", torch.zeros(classes, classes, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, logits_or_pred: Tensor, target: Tensor) -> None:
        """Count one batch: logits (B, C, H, W) or classes (B, H, W), and labels (B, H, W).

        Raises:
            SegkdError: shapes that do not go together, or a label or prediction that is no class.
        """
        pred = logits_or_pred.argmax(1) if logits_or_pred.ndim == target.ndim + 1 else logits_or_pred
        if pred.shape != target.shape:
            raise SegkdError(
                f"metrics take logits (B, C, H, W) or classes (B, H, W) and labels (B, H, W), got "
                f"{tuple(logits_or_pred.shape)} and {tuple(target.shape)}"
            )
        kept = target != self.ignore_index
        target, pred = target[kept].long(), pred[kept].long()
        for name, values in (("label", target), ("prediction", pred)):
            wrong = values[(values < 0) | (values >= self.classes)]
            if wrong.numel():
                raise SegkdError(
                    f"metrics for {self.classes} classes (ignore_index {self.ignore_index}) met the {name} "
                    f"{int(wrong[0])}"
                )
        self.confusion += torch.bincount(target * self.classes + pred, minlength=self.classes**2).view_as(
            self.confusion
        )

    def compute(self) -> dict[str, Any]:
        """Return the measures of all that was counted.

        Returns:
            ``miou``: mean IoU over the classes that occur in a label or a prediction; ``pixel_accuracy``: share of
            pixels that are right; ``class_accuracy``: mean over the classes that occur in a label of the share of
            their pixels that are right; ``iou``: list of C, NaN for a class that occurs in neither. All in [0, 1],
            NaN where nothing was counted.
        """
        confusion = self.confusion.cpu().double()  # rows: labels; columns: predictions
        right, labelled, predicted = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
        iou = right / (labelled + predicted - right)
        return {
            "miou": float(iou.nanmean()),
            "pixel_accuracy": float(right.sum() / confusion.sum()),
            "class_accuracy": float((right / labelled).nanmean()),
            "iou": iou.tolist(),
        }
