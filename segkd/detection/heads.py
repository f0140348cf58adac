"""One view of the heads of RetinaNet, FCOS, GFL and ATSS: two towers of four blocks, their features kept and reused."""

from collections.abc import Iterable, Sequence
from functools import cached_property
from types import SimpleNamespace
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.image_list import ImageList

from segkd.detection.atss_detector import ATSS
from segkd.detection.feature_maps import fpn_strides
from segkd.detection.gfl import GFL
from segkd.detection.towers import rows
from segkd.errors import SegkdError
from segkd.losses._common import full_precision
from segkd.taps import Taps, inner

Branch = Literal["class", "box"]
Place = tuple[Branch, int]
"""A tower's feature: the branch, and after how many of its blocks; after 0 it is the FPN map itself."""

BLOCKS = 4


class DenseHead:
    """What methods need of a one-stage detector's head, whatever its family; made by `dense_head`.

    Attributes:
        family: ``"retinanet"``, ``"fcos"``, ``"gfl"`` or ``"atss"``.
        num_classes: without background.
        anchors_per_cell: how many anchors, priors or points each cell of an FPN map has.
        channels: of the FPN maps and of the towers' features.
    """

    family: ClassVar[str]
    towers: ClassVar[dict[Branch, str]] = {"class": "classification_head.conv", "box": "regression_head.conv"}
    """Path of each branch's tower in the head: a sequence of ``step`` modules a block, each ending with its ReLU."""
    step: ClassVar[int] = 1
    told: ClassVar[int]
    """What ``detector.compute_loss`` is told beside anchors: 1, their number on each level; 2, images' shapes too."""

    def __init__(self, detector: Any) -> None:
        self.detector, self.head = detector, detector.head
        self.channels: int = detector.backbone.out_channels
        self.num_classes, self.anchors_per_cell = self._counts()

    def _counts(self) -> tuple[int, int]:
        """Return the number of classes without background and of anchors per cell."""
        return self.head.classification_head.num_classes - 1, self.head.classification_head.num_anchors

    @cached_property
    def strides(self) -> list[int]:
        """Of the FPN maps, from fine to coarse."""
        return fpn_strides(self.detector)

    def run(self, maps: Sequence[Tensor], keep: Iterable[Place] = ()) -> tuple[dict[str, Tensor], dict[Place, Any]]:
        """Run the head on the FPN maps, (B, channels, h, w) each.

        Returns:
            What ``detector.head`` returns, level by level, row by row: ``"cls_logits"`` (B, N, classes),
            ``"bbox_regression"`` (B, N, 4 or 68) and for FCOS and ATSS ``"bbox_ctrness"`` (B, N, 1); and for each place
            in ``keep`` the list of the levels' features (B, channels, h, w).
        """
        paths = {(of, blocks): f"{self.towers[of]}.{self.step * blocks - 1}" for of, blocks in keep}
        taps = Taps(self.head, (path for (_, index), path in paths.items() if index))
        try:
            with taps.recording() as found:
                predictions = self.head(list(maps))
            kept = {place: found[path] if place[1] else list(maps) for place, path in paths.items()}
        finally:
            taps.remove()
        return predictions, kept

    def blocks(self, branch: Branch, start: int = 0) -> nn.Sequential:
        """Return a branch's blocks after the first ``start``: the head's own modules."""
        return self.head.get_submodule(self.towers[branch])[self.step * start :]

    def tail(self, branch: Branch, features: Sequence[Tensor], index: int) -> dict[str, Tensor]:
        """Return a branch's predictions, as `run` does, from its tower's features after ``index`` blocks.

        The features of all levels, (B, channels, h, w) each, are not changed.
        """
        blocks = self.blocks(branch, index)
        predict = self._classes if branch == "class" else self._boxes
        levels = [predict(blocks(x), level) for level, x in enumerate(features)]
        return {name: torch.cat([level[name] for level in levels], 1) for name in levels[0]}

    def _classes(self, feature: Tensor, level: int) -> dict[str, Tensor]:
        """Return one level's class predictions (B, n, ...) from the class tower's last feature."""
        head = self.head.classification_head
        return {"cls_logits": _rows(head.cls_logits(feature), head.num_classes)}

    def _boxes(self, feature: Tensor, level: int) -> dict[str, Tensor]:
        """Return one level's box predictions (B, n, ...) from the box tower's last feature."""
        raise NotImplementedError

    def foreground(self, predictions: dict[str, Tensor]) -> Tensor:
        """Return the class logits (B, N, num_classes), without torchvision's column for background.

        No loss knows that column as a class: it is trained to be 0 everywhere.
        """
        # Element-wise functions take several times as long on the CPU where there are gaps between the rows.
        return predictions["cls_logits"][..., 1:].contiguous()

    def anchors(self, images: ImageList, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return for each image the anchors, priors or points (N, 4), xyxy in pixels, always in float32."""
        # torchvision makes them in the maps' type: in bfloat16 those beyond 256 pixels would be rounded.
        sizes = [x.new_empty(x.shape[-2:], dtype=torch.promote_types(x.dtype, torch.float32)) for x in maps]
        return self.detector.anchor_generator(images, sizes)

    def match(
        self,
        targets: list[dict[str, Tensor]],
        anchors: list[Tensor],
        anchors_per_level: list[int],
        image_shapes: list[tuple[int, int]] | None = None,
    ) -> list[Tensor]:
        """Return per image (N,) int64 what each anchor is to learn, as the detector itself decides it.

        An index into the boxes, -1 for background, -2 for an anchor that takes no part, such as GFL's in the padding
        beyond ``image_shapes``. ``detector.head.compute_loss(targets, head_outputs, anchors, matched_idxs)`` then gives
        the losses that ``detector(images, targets)`` returns in training.
        """
        compute_loss: Any = type(self.detector).compute_loss
        more = (anchors_per_level, image_shapes)[: self.told]
        return compute_loss(_UpToTheHead(self.detector), targets, {}, anchors, *more)

    def decode(self, predictions: dict[str, Tensor], anchors: list[Tensor]) -> Tensor:
        """Return the predicted boxes (B, N, 4), xyxy in pixels, not clipped, in float32 also under autocast."""
        with full_precision(predictions["bbox_regression"]) as (regression,):
            return self._decode(regression, torch.stack(anchors))

    def _decode(self, regression: Tensor, anchors: Tensor) -> Tensor:
        raise NotImplementedError


class _UpToTheHead:
    """A detector whose ``compute_loss`` returns what it would have its head compute the loss of: the matches.

    torchvision has its matching within `compute_loss`; this runs that code itself, and leaves the detector as it is.
    """

    head = SimpleNamespace(compute_loss=lambda targets, head_outputs, anchors, matched_idxs: matched_idxs)

    def __init__(self, detector: nn.Module) -> None:
        self.detector = detector

    def __getattr__(self, name: str) -> Any:
        return getattr(self.detector, name)


class _RetinaNetHead(DenseHead):
    family = "retinanet"
    told = 0

    def _boxes(self, feature: Tensor, level: int) -> dict[str, Tensor]:
        return {"bbox_regression": _rows(self.head.regression_head.bbox_reg(feature), 4)}

    def _decode(self, regression: Tensor, anchors: Tensor) -> Tensor:
        boxes = self.detector.box_coder.decode_single(regression.flatten(0, 1), anchors.flatten(0, 1))
        return boxes.view_as(anchors)


class _FCOSHead(DenseHead):
    family = "fcos"
    step = 3
    told = 1

    def _boxes(self, feature: Tensor, level: int) -> dict[str, Tensor]:
        head = self.head.regression_head
        return {
            "bbox_regression": _rows(F.relu(head.bbox_reg(feature)), 4),
            "bbox_ctrness": _rows(head.bbox_ctrness(feature), 1),
        }

    def _decode(self, regression: Tensor, anchors: Tensor) -> Tensor:
        return self.detector.box_coder.decode(regression, anchors)


class _TowersHead(DenseHead):
    told = 2
    towers: ClassVar[dict[Branch, str]] = {"class": "class_tower", "box": "box_tower"}

    def _counts(self) -> tuple[int, int]:
        return self.head.num_classes, 1

    def _classes(self, feature: Tensor, level: int) -> dict[str, Tensor]:
        return {"cls_logits": rows(self.head.class_predictor(feature))}

    def _boxes(self, feature: Tensor, level: int) -> dict[str, Tensor]:
        return {name: rows(x) for name, x in self.head.predict_boxes(feature, level).items()}

    def foreground(self, predictions: dict[str, Tensor]) -> Tensor:
        return predictions["cls_logits"]

    def _decode(self, regression: Tensor, anchors: Tensor) -> Tensor:
        return self.head.decode(regression, anchors)


class _GFLHead(_TowersHead):
    family = "gfl"


class _ATSSHead(_TowersHead):
    family = "atss"


_FAMILIES: dict[type[nn.Module], type[DenseHead]] = {
    RetinaNet: _RetinaNetHead,
    FCOS: _FCOSHead,
    GFL: _GFLHead,
    ATSS: _ATSSHead,
}


def dense_head(detector: nn.Module) -> DenseHead:
    """Return the view of a one-stage detector's head.

    Raises:
        SegkdError: it is no RetinaNet, FCOS, GFL or ATSS.
    """
    found = inner(detector)
    for family, view in _FAMILIES.items():
        if isinstance(found, family):
            return view(found)
    known = ", ".join(family.__name__ for family in _FAMILIES)
    raise SegkdError(f"a {type(found).__name__} has no dense head that CrossKD knows: {known} have")


def check_heads(
    kind: str,
    term: Any,
    student: DenseHead,
    teacher: DenseHead,
    families: Sequence[str] = ("retinanet", "fcos", "gfl", "atss"),
    same: Sequence[str] = ("family", "num_classes", "anchors_per_cell", "strides"),
) -> None:
    """Raise `SegkdError` unless a term of this kind reads both heads, of these families, and what is the same is so."""
    if (term.student, term.teacher.rpartition(":")[2], term.connector) != ("head", "head", None):
        raise SegkdError(f"{kind} reads 'head' on both sides, without connector")
    for what in same:
        of_student, of_teacher = getattr(student, what), getattr(teacher, what)
        if of_student != of_teacher:
            noun = "FPN strides" if what == "strides" else what.replace("_", " ")
            raise SegkdError(
                f"{kind} needs heads of the same {noun}, the student's has {of_student}, the teacher's {of_teacher}"
            )
    if student.family not in families:
        raise SegkdError(f"{kind} is for heads of {' or '.join(families)}, these are of {student.family}")


def _rows(x: Tensor, width: int) -> Tensor:
    """Return (B, h*w*A, width) of (B, A*width, h, w): cell by cell, row by row."""
    return x.unflatten(1, (-1, width)).permute(0, 3, 4, 1, 2).reshape(x.shape[0], -1, width)
