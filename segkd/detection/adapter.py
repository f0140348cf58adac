"""How a batch of images and boxes goes through two detectors, and what terms can read of them."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from segkd.adapter import Adapter
from segkd.detection.adversarial import ADVERSARIAL, fooled, fooling_images
from segkd.detection.feature_maps import fpn_maps
from segkd.detection.heads import DenseHead, Place, dense_head
from segkd.detection.output import DenseOutput, DetectorOutput, Regions, TwoStageOutput
from segkd.detection.targets import Targets, check_batch
from segkd.errors import SegkdError
from segkd.losses._common import resize
from segkd.reads import Route, route
from segkd.taps import inner
from segkd.term import Term

_UP_TO_THE_HEAD = (
    "fpn.",
    f"{ADVERSARIAL}.",
    "pyramid.",
    "regions.",
    "backbone.",
)  # what a term reads of a teacher whose head need not run


class Batch(NamedTuple):
    """What one detector gets: the transformed images, for the student the transformed targets, and adversarial images.

    The latter are those of the same batch, at the same sizes, where terms read them.
    """

    images: ImageList
    targets: Targets | None
    adversarial: ImageList | None = None


class DetectionAdapter(Adapter):
    """Runs detectors part by part, so that both see the same resized images and run no further than terms need.

    The student, a RetinaNet, FCOS, GFL, ATSS or a two-stage detector of torchvision, runs whole; its losses are those
    of ``student(images, targets)``. The teacher runs its backbone and FPN; its head too if a term reads it, which it
    can of a one-stage teacher. The student's own transform resizes the images, once, to a size that it draws in
    training; the teacher gets the same tensors, renormalised if its mean or deviation differ.

    A term reads ``"fpn"``, the FPN maps, paired by stride, one pair at a time; ``"pyramid"``, a `DetectorOutput`, which
    has them all and the images' sizes; ``"head"``, a `DenseOutput`, as `CrossKDClass` and `CrossKDBox` do;
    ``"regions"``, a `TwoStageOutput`, as `CrossKDTwoStage` does; or ``"adversarial"``, the FPN maps of images that fool
    the teacher, as `InconsistentKD` does. The distiller's images are a list of float (3, H, W) in [0, 1], its target a
    list of dicts, see `Targets`; the task loss is in the detector. An adapter serves one distiller.

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

    outputs: ClassVar[tuple[str, ...]] = ("fpn", "pyramid", "head", "regions", ADVERSARIAL)
    needs_task_loss: ClassVar[bool] = False

    transform: GeneralizedRCNNTransform

    def __init__(self) -> None:
        super().__init__()
        self.num_classes = 0
        self.keep: set[Place] = set()
        # A list, so that teachers are no children of this: those of which no term reads the head.
        self.headless: list[nn.Module] = []
        # Likewise the one that is fooled, if any.
        self.fooled: list[nn.Module] = []

    def prepare(self, student: nn.Module, teacher: Any, terms: Mapping[str, Term]) -> None:
        """Take over the student's transform, and check that the terms fit the detectors.

        A loss may have ``places``, the tower features that it reads of both heads, and ``check_heads(term, student,
        teacher)``, which raises where these do not fit together.

        Raises:
            SegkdError: a model is no detector known here, a term reads the head of a two-stage one or the regions
                of a one-stage one, a loss refuses the heads, several teachers are normalised differently, or it is
                not one one-stage teacher that is fooled.
        """
        teachers = dict(teacher) if isinstance(teacher, Mapping) else {"teacher": teacher}
        live = {name: model for name, model in teachers.items() if model is not None}
        head = _head("student", student)
        heads = {name: _head("teacher" if len(live) == 1 else name, model) for name, model in live.items()}
        detector: Any = inner(student)
        self.transform = detector.transform
        own = [inner(model).transform for model in live.values()]
        norms = [(list(transform.image_mean), list(transform.image_std)) for transform in own]
        if any(norm != norms[0] for norm in norms):
            raise SegkdError("several detectors as teachers must have the same image_mean and image_std")
        if norms:
            self.set_normalization((self.transform.image_mean, self.transform.image_std), norms[0])
        if head is not None:
            self.num_classes = head.num_classes
        else:  # without background, which torchvision counts
            self.num_classes = detector.roi_heads.box_predictor.cls_score.out_features - 1
        routes = {name: route(name, term, teachers) for name, term in terms.items()}
        for name, term in terms.items():
            if term.size == "label":
                raise SegkdError(f"term {name!r}: targets of detection have no size, so size cannot be 'label'")
            self._check_heads(name, term, routes[name], head, heads)
        self.keep = {place for term in terms.values() for place in getattr(term.loss, "places", ())}
        read = {of for where in routes.values() for of in where.teacher if not f"{of[1]}.".startswith(_UP_TO_THE_HEAD)}
        self.headless = [model for name, model in live.items() if name not in {of for of, _ in read}]
        self.fooled = [live[name] for name in fooled(routes, [of for of, view in heads.items() if view], self.outputs)]

    def _check_heads(
        self, name: str, term: Term, where: Route, head: DenseHead | None, heads: Mapping[str, DenseHead | None]
    ) -> None:
        views = [("student", place, head) for place in where.student]
        views += [("teacher", place, heads[of]) for of, place in where.teacher if of in heads]
        for side, place, view in views:
            if place == "head" and view is None:
                raise SegkdError(f"term {name!r} reads 'head', which the {side}, a two-stage detector, has not")
            if place == "regions" and view is not None:
                raise SegkdError(f"term {name!r} reads 'regions', which the {side}, a one-stage detector, has not")
        if not hasattr(term.loss, "check_heads"):
            return
        try:
            for of in where.teachers & heads.keys():
                term.loss.check_heads(term, head, heads[of])
        except SegkdError as error:
            raise SegkdError(f"term {name!r}: {error}") from None

    def inputs(self, images: Any, target: Any = None) -> tuple[Batch, Batch, Targets | None]:
        """Return the transformed batch as each detector gets it, and the transformed targets; see `check_batch`."""
        if target is not None:
            check_batch(images, target, self.num_classes)
        fooling = fooling_images(self.fooled[0], images, target) if self.fooled and target is not None else []
        transformed, target = self.transform(images, target)
        seen = [transformed]
        if fooling:  # as the transform does, at the sizes that it has drawn for the others
            pairs = zip(fooling, transformed.image_sizes, strict=True)
            fooling = [resize(self.transform.normalize(x)[None], size)[0] for x, size in pairs]
            together = self.transform.batch_images(fooling, self.transform.size_divisible)
            seen.append(ImageList(together, transformed.image_sizes))
        for_teacher = [self._renormalized(each) for each in seen]
        return Batch(seen[0], target, *seen[1:]), Batch(for_teacher[0], None, *for_teacher[1:]), target

    def _renormalized(self, images: ImageList) -> ImageList:
        found = self.renormalize(images.tensors)
        if found is not images.tensors:
            # What pads the smaller images is 0 in each detector's own normalisation.
            for image, (height, width) in zip(found, images.image_sizes, strict=True):
                image[:, height:] = 0
                image[:, :, width:] = 0
        return ImageList(found, images.image_sizes)

    def hide(self, images: Any, target: Any, labelled: Tensor, ignore_index: int | None) -> Any:
        """Return the targets with no box in images that have no label, whatever they say of these."""
        if not isinstance(target, (list, tuple)) or len(target) != len(images):
            return target  # `inputs` says what is wrong with it
        return [
            of_image if has_label else {"boxes": image.new_zeros(0, 4), "labels": image.new_zeros(0, dtype=torch.int64)}
            for image, of_image, has_label in zip(images, target, labelled.tolist(), strict=True)
        ]

    def select(self, output: Any, target: Any, index: Tensor) -> tuple[Any, Any]:
        """Return the output and the targets of some images alone; a two-stage detector's losses are made in its run."""
        if not isinstance(output, DenseOutput):
            raise SegkdError(
                "a two-stage detector learns from whole batches: give it labelled and unlabelled images in turn, the "
                "latter with target=None"
            )
        numbers = index.tolist()
        return output.of_images(numbers), [target[i] for i in numbers]

    def run(self, side: str, model: nn.Module, inputs: Batch) -> DetectorOutput:
        """Run a detector: the student whole, the teacher as far as terms read it."""
        output = self._run(side, model, inputs)
        if inputs.adversarial is not None and (side == "student" or inner(model) is inner(self.fooled[0])):
            output.adversarial = fpn_maps(inner(model), inputs.adversarial)[1]
        return output

    def _run(self, side: str, model: nn.Module, inputs: Batch) -> DetectorOutput:
        detector = inner(model)
        named, maps = fpn_maps(detector, inputs.images)
        stops = side == "teacher" and any(model is each for each in self.headless)
        if isinstance(detector, GeneralizedRCNN):
            # Without targets, proposals are not drawn in training mode: there is nothing that could be learned.
            stops = stops or (inputs.targets is None and detector.training)
            return TwoStageOutput(
                inputs.images, maps, detector, named, *(() if stops else _two_stage_run(detector, inputs, named))
            )
        if stops:
            return DetectorOutput(inputs.images, maps)
        # Views of the maps, so that a gradient at one is the head's alone, without what P5 does to P6.
        return self.headed(model, inputs.images, {stride: x.view_as(x) for stride, x in maps.items()})

    def headed(self, model: nn.Module, images: ImageList, maps: dict[int, Tensor]) -> DenseOutput:
        """Run a one-stage detector's head on FPN maps by stride, from fine to coarse."""
        head = dense_head(inner(model))
        return DenseOutput(images, maps, head, *head.run(list(maps.values()), self.keep))

    def read(self, side: str, name: str, output: Any) -> Any:
        """Return maps by stride for ``"fpn"`` and ``"adversarial"``, and the whole output for every other name."""
        if name == ADVERSARIAL and not output.adversarial:
            raise SegkdError(f"a term reads {ADVERSARIAL!r}, which are made of labels, and this batch has none")
        return {"fpn": output.maps, ADVERSARIAL: output.adversarial}.get(name, output)

    def task_loss(
        self, output: Any, target: Any, loss: Callable[[Tensor, Tensor], Tensor] | None, weights: Tensor | None
    ) -> dict[str, Tensor]:
        """Return the losses that the detector itself gives in training, by its names for them."""
        if loss is not None or weights is not None:
            raise SegkdError("detectors bring their own losses: leave task_loss and pixel_weighting out")
        if isinstance(output, DenseOutput):
            return output.loss(target)
        if not output.losses:
            raise SegkdError("a two-stage detector has losses in training mode only: call distiller.train()")
        return output.losses

    def example(self, model: nn.Module, size: int) -> Batch:
        """Return a batch of one image of zeros, of that size or the coarsest stride, as if it were transformed."""
        size = max(size, 128)
        images = ImageList(super().example(model, size), [(size, size)])
        return Batch(images, None, images if self.fooled else None)


def _head(side: str, model: nn.Module) -> DenseHead | None:
    """Return the view of a one-stage detector's head, None for a two-stage detector."""
    if isinstance(inner(model), GeneralizedRCNN):
        return None
    try:
        return dense_head(model)
    except SegkdError as error:
        raise SegkdError(f"the {side}: {error}; or give a two-stage detector of torchvision") from error


def _two_stage_run(model: Any, inputs: Batch, named: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Regions | None]:
    """Run what follows the FPN and return its losses and the regions that it learns from: none in evaluation mode."""
    dtype = next(model.rpn.parameters()).dtype
    # In bfloat16, as autocast would have them, proposals are pixels off.
    with torch.autocast(inputs.images.tensors.device.type, enabled=False):
        full = {name: x.to(dtype) for name, x in named.items()}
        proposals, of_rpn = model.rpn(inputs.images, full, inputs.targets)
    heads, drawn = model.roi_heads, dict[str, list[Tensor]]()
    pools = {"all": heads.box_roi_pool, "with_object": heads.mask_roi_pool}
    # The heads draw the regions within their run, and pool the maps there.
    hooks = [
        pool.register_forward_pre_hook(lambda _, given, name=name: drawn.update({name: list(given[1])}))
        for name, pool in pools.items()
        if pool is not None
    ]
    try:
        _, of_boxes = heads(named, proposals, inputs.images.image_sizes, inputs.targets)
    finally:
        for hook in hooks:
            hook.remove()
    regions = Regions(drawn["all"], drawn.get("with_object")) if heads.training else None
    return {**of_boxes, **of_rpn}, regions
