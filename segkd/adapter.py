"""All that differs between tasks: how a batch goes through both models, and how what they return is read.

`Adapter` is the one for dense prediction: any module that maps images to logits. A task whose models take or return
something else subclasses it and overrides what differs.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from segkd.class_map import map_classes, merged_classes
from segkd.errors import SegkdError
from segkd.losses._common import class_ids, resize, share_of_all
from segkd.preprocess import Preprocess
from segkd.term import Term

Normalization = tuple[Sequence[float], Sequence[float]]
"""Mean and standard deviation of each channel, in the units of the raw image (0 to 1)."""


def read_logits(output: Any) -> Tensor:
    """Return the logits (B, C, h, w) of what a model returned.

    Reads a tensor, an object with ``.logits`` (transformers), a mapping with ``"out"`` (torchvision) or ``"logits"``,
    and a tuple or list whose first entry is the logits.

    Raises:
        SegkdError: none of these.
    """
    found = output
    if not isinstance(output, Tensor):
        if isinstance(getattr(output, "logits", None), Tensor):
            found = output.logits
        elif isinstance(output, Mapping):
            found = output.get("out", output.get("logits"))
        elif isinstance(output, (tuple, list)) and output:
            found = output[0]
    if not isinstance(found, Tensor) or found.dim() != 4:
        shape = f" of shape {tuple(found.shape)}" if isinstance(found, Tensor) else ""
        raise SegkdError(
            f"cannot read logits (B, C, H, W) from a {type(output).__name__}{shape}: a model returns a tensor, a "
            "mapping with 'out' or 'logits', a tuple that starts with the logits, or an object with .logits"
        )
    return found


def read_auxiliary(output: Any) -> Tensor | None:
    """Return the auxiliary head's logits (B, C, h, w) of what a model returned, or None when there are none.

    Reads a mapping's ``"aux"``, an object's ``.aux_logits``, and a 4-dimensional second entry of a tuple or list.
    """
    found: Any = None
    if isinstance(output, Mapping):
        found = output.get("aux")
    elif isinstance(output, (tuple, list)):
        found = output[1] if len(output) > 1 else None
    elif not isinstance(output, Tensor):
        found = getattr(output, "aux_logits", None)
    return found if isinstance(found, Tensor) and found.dim() == 4 else None


class Adapter(nn.Module):
    """Runs models that map images to logits and takes their losses at label size.

    Args:
        student_normalization: (mean, std) that the given images were normalised with. Needed with the next one only.
        teacher_normalization: (mean, std) that the teacher was trained with; images are renormalised for it. None gives
            it the student's images.
        class_map: for each teacher class the student class it belongs to, or None for no class. Several teacher classes
            of one student class add their probabilities. None: both have the same classes.
        auxiliary_weight: weight of the task loss on the student's auxiliary logits, when it returns any; 0 ignores
            them.

    Raises:
        SegkdError: only one normalisation is given, or a student class is left without teacher class.
    """

    outputs: ClassVar[tuple[str, ...]] = ("logits", "aux")
    """What a term can read of what a model returned; every other name is a module path."""
    needs_task_loss: ClassVar[bool] = True
    """Whether the distiller must be given a task loss; False where the models bring their own."""

    def __init__(
        self,
        student_normalization: Normalization | None = None,
        teacher_normalization: Normalization | None = None,
        class_map: Sequence[int | None] | None = None,
        auxiliary_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.auxiliary_weight = auxiliary_weight
        self.class_map = None if class_map is None else merged_classes(class_map)
        self.scale: Tensor | None
        self.shift: Tensor | None
        self.register_buffer("scale", None, persistent=False)
        self.register_buffer("shift", None, persistent=False)
        if teacher_normalization is not None:
            if student_normalization is None:
                raise SegkdError("teacher_normalization needs student_normalization: what the given images have")
            self.set_normalization(student_normalization, teacher_normalization)

    def set_normalization(self, student: Normalization, teacher: Normalization) -> None:
        """Have `renormalize` turn images of the student's normalisation into those of the teacher's."""
        (mean_s, std_s), (mean_t, std_t) = (
            [torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1) for values in pair]
            for pair in (student, teacher)
        )
        same = torch.equal(mean_s, mean_t) and torch.equal(std_s, std_t)
        self.scale, self.shift = (None, None) if same else (std_s / std_t, (mean_s - mean_t) / std_t)

    def renormalize(self, images: Tensor) -> Tensor:
        """Return images (B, 3, H, W) of the student's normalisation in the teacher's: themselves if it is the same."""
        if self.scale is None or self.shift is None:
            return images
        return images * self.scale.to(images) + self.shift.to(images)

    def prepare(self, student: nn.Module, teacher: Any, terms: Mapping[str, Term]) -> None:
        """Look at the models and the terms once, before the first run: here nothing depends on them.

        Args:
            student: as it was given to the distiller.
            teacher: likewise; None where there is none that runs; a mapping by name where there are several.
            terms: by name.

        Raises:
            SegkdError: they do not fit together.
        """

    def inputs(self, images: Any, target: Any = None) -> tuple[Any, Any, Any]:
        """Return what the student gets and what the teacher gets of one batch, and the target that belongs to it.

        Labels of any integer type become int64, as torch's losses want them.
        """
        target = class_ids(target) if isinstance(target, Tensor) else target
        return images, self.renormalize(images), target

    def hide(self, images: Any, target: Any, labelled: Tensor, ignore_index: int | None) -> Any:
        """Return a batch's target without what it says of images that have no label: here that all is ignored.

        Args:
            images: as they were given.
            target: likewise.
            labelled: (B,) bool.
            ignore_index: the task loss's; None: labels stay as they are.
        """
        if ignore_index is None or not isinstance(target, Tensor) or target.dim() != 3:
            return target
        return torch.where(labelled.to(target.device)[:, None, None], class_ids(target), ignore_index)

    def select(self, output: Any, target: Any, index: Tensor) -> tuple[Any, Any]:
        """Return what the student returned, and the target, of some images of the batch alone.

        Args:
            output: of all images.
            target: likewise.
            index: (N,) numbers of images.
        """
        return _of_images(output, index), _of_images(target, index)

    def run(self, side: str, model: nn.Module, inputs: Any) -> Any:
        """Return what the model of one side, ``"student"`` or ``"teacher"``, returns for its inputs."""
        return model(inputs)

    def read(self, side: str, name: str, output: Any) -> Any:
        """Return what ``name`` in `outputs` stands for in one side's output.

        One tensor here: ``"logits"`` or ``"aux"``, the teacher's in the student's classes. An adapter may return a
        list, paired with the other side's by position, a mapping, paired by key, or anything that its losses read.
        """
        if name == "logits":
            logits = read_logits(output)
        else:
            auxiliary = read_auxiliary(output)
            if auxiliary is None:
                raise SegkdError(f"a term reads 'aux', but the {side} returns no auxiliary logits")
            logits = auxiliary
        return self.map_classes(logits) if side == "teacher" else logits

    def has_auxiliary(self, output: Any) -> bool:
        """Return whether a model's output holds auxiliary logits."""
        return read_auxiliary(output) is not None

    def map_classes(self, logits: Tensor) -> Tensor:
        """Return the teacher's logits (B, C_t, h, w) in the student's classes (B, C_s, h, w)."""
        return logits if self.class_map is None else map_classes(logits, self.class_map)

    def label_size(self, target: Tensor) -> tuple[int, int]:
        """Return (H, W) of the labels."""
        return target.shape[-2], target.shape[-1]

    def task_loss(
        self, output: Any, target: Any, loss: Callable[[Tensor, Tensor], Tensor] | None, weights: Tensor | None
    ) -> Tensor | dict[str, Tensor]:
        """Return the student's task loss at label size: a scalar, or named parts whose sum it is.

        Args:
            output: what the student returned.
            target: (B, H, W) labels.
            loss: the task loss; unreduced, (B, H, W), where ``weights`` are given; None where models bring their own.
            weights: (B, H, W) normalised pixel weights, or None.
        """
        assert loss is not None
        logits = read_logits(output)
        if target.dim() != 3 or target.shape[0] != logits.shape[0]:
            raise SegkdError(f"labels must be (B, H, W) with B={logits.shape[0]}, got {tuple(target.shape)}")
        size = self.label_size(target)
        if weights is None:
            return mean_over_labelled(loss, resize(logits, size), target)
        value = loss(resize(logits, size), target)
        if value.shape != weights.shape:
            raise SegkdError(
                f"pixel_weighting needs the task loss of each pixel, {tuple(weights.shape)}: with reduction='none' "
                f"{type(loss).__name__} gave {tuple(value.shape)}"
            )
        return (value * weights).sum()

    def auxiliary_loss(
        self, output: Any, target: Any, loss: Callable[[Tensor, Tensor], Tensor] | None
    ) -> Tensor | None:
        """Return the task loss of the student's auxiliary logits times its weight, or None when there are none."""
        auxiliary = read_auxiliary(output) if self.auxiliary_weight else None
        if auxiliary is None:
            return None
        value = self.task_loss(auxiliary, target, loss, None)
        assert isinstance(value, Tensor)
        return self.auxiliary_weight * value

    def example(self, model: nn.Module, size: int) -> Any:
        """Return an input to try the model with: zeros (1, C, size, size) as its first convolution takes them."""
        preprocess = getattr(model, "preprocess", None)
        if isinstance(preprocess, Preprocess):
            sides = preprocess.size or [-(-size // preprocess.multiple) * preprocess.multiple] * 2
            return torch.zeros(1, preprocess.channels, *sides).to(next(model.parameters(), torch.zeros(())))
        first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
        parameter = next(model.parameters(), None)
        channels = first.in_channels if first is not None else 3
        zeros = torch.zeros(1, channels, size, size)
        return zeros if parameter is None else zeros.to(parameter)


def mean_over_labelled(loss: Any, logits: Tensor, target: Tensor) -> Tensor:
    """Return a task loss; where it is a mean over the labelled pixels, that over those of all processes.

    Args:
        loss: a mean over the pixels that it does not ignore, as torch's losses are: its ``reduction`` is ``"mean"`` and
            it has an ``ignore_index``. Any other is taken as it is.
        logits: (B, C, H, W) at label size.
        target: (B, H, W) labels.
    """
    count = _count(loss, target)
    if count is None:
        value: Tensor = loss(logits, target)
        return value
    # Cross-entropy's mean over no pixel is 0 / 0: a batch that counts for nothing teaches nothing, it is no
    # NaN. Its gradient is NaN too where class weights are the reason, but 0 where all labels are ignored.
    target = torch.where(count > 0, target, loss.ignore_index)
    return torch.where(count > 0, loss(logits, target), 0.0) * share_of_all(count)


def _of_images(value: Any, index: Tensor) -> Any:
    """Return some images' part of what holds tensors (B, ...) of a batch."""
    if isinstance(value, Tensor):
        return value[index.to(value.device)] if value.dim() else value
    if isinstance(value, Mapping):
        return {key: _of_images(of, index) for key, of in value.items()}
    if isinstance(value, (tuple, list)):
        return [_of_images(of, index) for of in value]
    if isinstance(getattr(value, "logits", None), Tensor):
        return {"out": _of_images(value.logits, index), "aux": _of_images(getattr(value, "aux_logits", None), index)}
    return value


def _count(loss: Any, target: Tensor) -> Tensor | None:
    """Return how many pixels count, or the sum of their weights, in a loss that averages over those; else None."""
    ignored = getattr(loss, "ignore_index", None)
    if not isinstance(ignored, int) or getattr(loss, "reduction", "") != "mean":
        return None
    counted, of_classes = target != ignored, getattr(loss, "weight", None)
    if isinstance(of_classes, Tensor) and of_classes.dim() == 1:
        # A label that is no class is the loss's to refuse.
        return (counted * of_classes[target.clamp(0, len(of_classes) - 1)]).sum()
    return counted.sum()
