"""How a batch of images and boxes goes through two detectors, and what terms can read of them."""

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from segkd.adapter import Adapter
from segkd.detection.crosskd import CrossKD
from segkd.detection.heads import DenseHead, Place, dense_head
from segkd.detection.output import DenseOutput, DetectorOutput, TwoStageOutput
from segkd.detection.targets import Targets, check_batch
from segkd.errors import SegkdError
from segkd.term import Term
from segkd.trial import undisturbed


class Batch(NamedTuple):
    """What one detector gets: the transformed images, and for the student the transformed targets."""

    images: ImageList
    targets: Targets | None


class DetectionAdapter(Adapter):
    """Runs detectors part by part, so that both see the same resized images and run no further than terms need.

    The student, a RetinaNet, FCOS, GFL or a two-stage detector of torchvision, runs whole; its losses are those of
    ``student(images, targets)``. The teacher runs its backbone and FPN; its head too if a term reads it, which it can
    of a one-stage teacher. The student's own transform resizes the images, once, to a size that it draws in training;
    the teacher gets the same tensors, renormalised if its mean or deviation differ.

    A term reads ``"fpn"``, the FPN maps, paired by stride, or ``"head"``, a `DenseOutput`, as `CrossKDClass` and
    `CrossKDBox` do. The distiller's images are a list of float (3, H, W) in [0, 1], its target a list of dicts, see
    `Targets`; the task loss is in the detector. An adapter serves one distiller.

    Example:
        >>> import torch
        >>> from segkd import Distiller, Term
        >>> from segkd.losses import PKD
        >>> from segkd.detection.models import build_detector
        >>> student, teacher = (build_detector(arch, "resnet18", 3, min_size=64) for arch in ("gfl", "retinanet"))
        >>> terms = {"pkd": Term(PKD(), student="fpn", teacher="fpn", weight=10.0)}
        >>> distiller = Distiller(student, teacher, terms, adapter=DetectionAdapter())
        >>> target = {"boxes": torch.tensor([[4.0, 8.0, 40.0, 60.0]]), "labels": torch.tensor([3])}
        >>> out = distiller([torch.rand(3, 64, 80)], [target])
        >>> sorted(out.terms), sorted(out.parts)
        (['pkd', 'task'], ['bbox_regression', 'classification', 'distribution'])
    """

    outputs: ClassVar[tuple[str, ...]] = ("fpn", "head")
    needs_task_loss: ClassVar[bool] = False

    transform: GeneralizedRCNNTransform

    def __init__(self) -> None:
        super().__init__()
        self.num_classes = 0
        self.keep: set[Place] = set()
        self.teacher_head = False

    def prepare(self, student: nn.Module, teacher: nn.Module | None, terms: Mapping[str, Term]) -> None:
        """Take over the student's transform, and check that the terms fit the detectors.

        Raises:
            SegkdError: a model is no detector known here, or a term reads the head of a two-stage one; CrossKD's
                student and teacher differ in family, classes, anchors per cell or FPN strides, or in channels without
                connector.
        """
        models: dict[str, Any] = {"student": student} if teacher is None else {"student": student, "teacher": teacher}
        heads = {side: _head(side, model) for side, model in models.items()}
        transforms = [model.transform for model in models.values()]
        if teacher is not None:
            self.set_normalization(*((transform.image_mean, transform.image_std) for transform in transforms))
        self.transform = transforms[0]
        self.num_classes = _num_classes(student, heads["student"])
        for name, term in terms.items():
            if term.size == "label":
                raise SegkdError(f"term {name!r}: targets of detection have no size, so size cannot be 'label'")
            for side, source in (("student", term.student), ("teacher", term.teacher)):
                if source == "head" and heads[side] is None:
                    raise SegkdError(f"term {name!r} reads 'head', which the {side}, a two-stage detector, has not")
            if isinstance(term.loss, CrossKD):
                _check_crosskd(name, term, heads)
        losses = [term.loss for term in terms.values() if isinstance(term.loss, CrossKD)]
        self.keep = {(loss.branch, loss.index) for loss in losses}
        self.teacher_head = any(
            term.teacher != "fpn" and not f"{term.teacher}.".startswith("backbone.") for term in terms.values()
        )
        if losses:
            strides = {side: self._strides(model) for side, model in models.items()}
            if strides["student"] != strides["teacher"]:
                raise SegkdError(f"CrossKD needs detectors of the same FPN strides, got {strides}")

    @torch.no_grad()
    def _strides(self, model: nn.Module) -> list[int]:
        with undisturbed(model):
            return list(_fpn(model, self.example(model, 64).images)[1])

    def inputs(self, images: Any, target: Any = None) -> tuple[Batch, Batch, Targets | None]:
        """Return the transformed batch as each detector gets it, and the transformed targets.

        Args:
            images: list of float (3, H, W) in [0, 1]; sizes may differ.
            target: `Targets`, or None for a run without losses.

        Raises:
            SegkdError: images or targets are not as they must be, see `check_batch`.
        """
        if target is not None:
            check_batch(images, target, self.num_classes)
        transformed, target = self.transform(images, target)
        sizes = transformed.image_sizes
        for_teacher = self.renormalize(transformed.tensors)
        if for_teacher is not transformed.tensors:
            # What pads the smaller images is 0 in each detector's own normalisation.
            for image, (height, width) in zip(for_teacher, sizes, strict=True):
                image[:, height:] = 0
                image[:, :, width:] = 0
        return Batch(transformed, target), Batch(ImageList(for_teacher, sizes), None), target

    def run(self, side: str, model: nn.Module, inputs: Batch) -> DetectorOutput:
        """Run a detector: the student whole, the teacher as far as terms read it."""
        named, maps = _fpn(model, inputs.images)
        if side == "teacher" and not self.teacher_head:
            return DetectorOutput(inputs.images, maps)
        if _is_two_stage(model):
            return TwoStageOutput(inputs.images, maps, _two_stage_losses(model, inputs, named))
        head = dense_head(model)
        return DenseOutput(inputs.images, maps, head, *head.run(list(maps.values()), self.keep))

    def read(self, side: str, name: str, output: Any) -> Any:
        """Return the FPN maps by stride for ``"fpn"``, the whole `DenseOutput` for ``"head"``."""
        return output.maps if name == "fpn" else output

    def task_loss(
        self, output: Any, target: Any, loss: Callable[[Tensor, Tensor], Tensor] | None, weights: Tensor | None
    ) -> dict[str, Tensor]:
        """Return the losses that the detector itself gives in training, by its names for them.

        Args:
            output: what `run` returned for the student.
            target: the transformed targets.
            loss: None: the losses are the detector's own.
            weights: None.
        """
        if loss is not None or weights is not None:
            raise SegkdError("detectors bring their own losses: leave task_loss and pixel_weighting out")
        if target is None:
            raise SegkdError(
                "a detector's losses need targets: a list of dicts with 'boxes' and 'labels', one per image"
            )
        if isinstance(output, DenseOutput):
            return output.loss(target)
        if not output.losses:
            raise SegkdError("a two-stage detector has losses in training mode only: call distiller.train()")
        return output.losses

    def example(self, model: nn.Module, size: int) -> Batch:
        """Return a batch of one image of zeros, of that size or the coarsest stride, as if it were transformed."""
        size = max(size, 128)
        return Batch(ImageList(super().example(model, size), [(size, size)]), None)


def _inner(model: nn.Module) -> Any:
    """Return the detector itself, where it is compiled."""
    return getattr(model, "_orig_mod", model)


def _is_two_stage(model: nn.Module) -> bool:
    return isinstance(_inner(model), GeneralizedRCNN)


def _head(side: str, model: nn.Module) -> DenseHead | None:
    """Return the view of a one-stage detector's head, None for a two-stage detector."""
    if _is_two_stage(model):
        return None
    try:
        return dense_head(model)
    except SegkdError as error:
        raise SegkdError(f"the {side}: {error}; or give a two-stage detector of torchvision") from error


def _num_classes(model: Any, head: DenseHead | None) -> int:
    """Return the number of classes without background."""
    return model.roi_heads.box_predictor.cls_score.out_features - 1 if head is None else head.num_classes


def _check_crosskd(name: str, term: Term, heads: Mapping[str, Any]) -> None:
    """Raise unless a CrossKD term reads both heads and they fit together."""
    loss: Any = term.loss
    kind, student, teacher = type(loss).__name__, heads["student"], heads["teacher"]
    if (term.student, term.teacher, term.connector) != ("head", "head", None):
        raise SegkdError(f"term {name!r}: {kind} reads 'head' on both sides, and its connector is {kind}(channels=...)")
    for what in ("family", "num_classes", "anchors_per_cell"):
        of_student, of_teacher = getattr(student, what), getattr(teacher, what)
        if of_student != of_teacher:
            raise SegkdError(
                f"term {name!r}: {kind} needs heads of the same {what.replace('_', ' ')}, the student's has "
                f"{of_student}, the teacher's {of_teacher}"
            )
    channels = (student.channels, teacher.channels)
    if channels != (loss.channels or (student.channels, student.channels)):
        raise SegkdError(
            f"term {name!r}: the student's head has {channels[0]} channels, the teacher's {channels[1]}: give {kind} "
            f"channels={list(channels)}"
        )


def _fpn(model: Any, images: ImageList) -> tuple[dict[str, Tensor], dict[int, Tensor]]:
    """Return the FPN maps (B, D, h, w) by the backbone's names and by stride, from fine to coarse."""
    maps = model.backbone(images.tensors)
    named = {"0": maps} if isinstance(maps, Tensor) else maps
    side, stride, by_stride = max(images.tensors.shape[-2:]), 1, {}
    for x in named.values():
        # Sizes are rounded up, so that on a small image several maps are of one cell: each has half the cells at least.
        stride = max(2 * stride, 2 ** round(math.log2(side / max(x.shape[-2:]))))
        by_stride[stride] = x
    return named, by_stride


def _two_stage_losses(model: Any, inputs: Batch, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Run what follows the FPN and return its losses: none in evaluation mode."""
    dtype = next(model.rpn.parameters()).dtype
    # In bfloat16, as autocast would have them, proposals are pixels off.
    with torch.autocast(inputs.images.tensors.device.type, enabled=False):
        full = {name: x.to(dtype) for name, x in named.items()}
        proposals, of_rpn = model.rpn(inputs.images, full, inputs.targets)
    _, of_boxes = model.roi_heads(named, proposals, inputs.images.image_sizes, inputs.targets)
    return {**of_boxes, **of_rpn}
