"""What differs between tasks: how a batch runs through both models, and how their outputs are read.

`Adapter` is for dense prediction: any module that maps images to logits. A task whose models take or return something
else derives from it and overrides what differs.
"""

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from segkd.errors import SegkdError
from segkd.losses._common import class_ids
from segkd.network import Network, Preprocess, map_classes, merged_classes
from segkd.outputs import of_images, read_auxiliary, read_logits
from segkd.step import Step
from segkd.supervision import Labelled, Supervision
from segkd.taps import Taps, uncompiled
from segkd.term import Term
from segkd.upsampling import NATIVE, LastUpsampling

Normalization = tuple[Sequence[float], Sequence[float]]
"""Mean and standard deviation of each channel, in the units of the raw image (0 to 1)."""

BEFORE = "before the last upsampling"
"""The key under which `Live.run` has the logits before their last upsampling, in the model's own classes."""


class Adapter(Supervision):
    """Runs models that map images to logits, and computes their losses at label size, see `Supervision`.

    Args:
        student_normalization: (mean, std) that the given images were normalised with. Needed with the next one only.
        teacher_normalization: (mean, std) that the teacher was trained with: it gets the images renormalised to that.
            None gives it the student's images.
        class_map: the student class of each teacher class, or None for no class. Where several teacher classes have one
            student class, their probabilities are added. None: both models have the same classes.
        auxiliary_weight: weight of the task loss on the student's auxiliary logits, when it returns any; 0 ignores
            them.

    Raises:
        SegkdError: only one normalisation is given, or a student class is left without teacher class.
    """

    outputs: ClassVar[tuple[str, ...]] = ("logits", "aux")
    """Names that a term can read of a model's output; every other name is a module path."""
    needs_task_loss: ClassVar[bool] = True
    """Whether the distiller must be given a task loss; False where the models bring their own."""

    scale: Tensor | None
    shift: Tensor | None

    def __init__(
        self,
        student_normalization: Normalization | None = None,
        teacher_normalization: Normalization | None = None,
        class_map: Sequence[int | None] | None = None,
        auxiliary_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.auxiliary_weight = auxiliary_weight
        # An object that adds what is stored for a batch's views to its target, such as images that fool a teacher.
        self.kept: Any = None
        self.class_map = None if class_map is None else merged_classes(class_map)
        self.register_buffer("scale", None, persistent=False)
        self.register_buffer("shift", None, persistent=False)
        if teacher_normalization is not None:
            if student_normalization is None:
                raise SegkdError("teacher_normalization needs student_normalization: what the given images have")
            self.set_normalization(student_normalization, teacher_normalization)

    def set_normalization(self, student: Normalization, teacher: Normalization) -> None:
        """Set `renormalize` to convert images from the student's normalisation to the teacher's."""
        (mean_s, std_s), (mean_t, std_t) = (
            [torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1) for values in pair]
            for pair in (student, teacher)
        )
        same = torch.equal(mean_s, mean_t) and torch.equal(std_s, std_t)
        self.scale, self.shift = (None, None) if same else (std_s / std_t, (mean_s - mean_t) / std_t)

    def renormalize(self, images: Tensor) -> Tensor:
        """Return images (B, 3, H, W) converted from the student's normalisation to the teacher's."""
        if self.scale is None or self.shift is None:
            return images
        return images * self.scale.to(images) + self.shift.to(images)

    def prepare(self, student: nn.Module, teacher: Any, terms: Mapping[str, Term]) -> None:
        """Inspect the models and the terms once, before the first run: here there is nothing to do.

        Args:
            student: as it was given to the distiller.
            teacher: the teacher's module, a mapping where teachers have names; None where none is a live model.
            terms: by name.

        Raises:
            SegkdError: they do not fit together.
        """

    def hide(self, images: Any, target: Any, labelled: Tensor, ignore_index: int | None) -> Any:
        """Return a batch's target with the labels of unlabelled images removed: here set to ``ignore_index``.

        Args:
            images: the distiller's input.
            target: the labels; returned unchanged where the task loss has no ``ignore_index``.
            labelled: (B,) bool, which images have labels.
            ignore_index: the task loss's, or None.
        """
        if ignore_index is None or not isinstance(target, Tensor) or target.dim() != 3:
            return target
        return torch.where(labelled.to(target.device)[:, None, None], class_ids(target), ignore_index)

    def inputs(self, images: Any, target: Any = None) -> tuple[Any, Any, Any]:
        """Return the student's input, the teacher's input and the target of one batch.

        Labels of any integer type become int64, as torch's losses want them.
        """
        for_teacher = images if self.scale is None else self.renormalize(images)
        return images, for_teacher, class_ids(target) if isinstance(target, Tensor) else target

    def run(self, side: str, model: nn.Module, inputs: Any) -> Any:
        """Run one side's model, ``"student"`` or ``"teacher"``, on its inputs and return its output."""
        return model(inputs)

    def read(self, side: str, name: str, output: Any) -> Any:
        """Read ``name``, one of `outputs`, from one side's output.

        Here it is one tensor, ``"logits"`` or ``"aux"``, the teacher's in the student's classes. A subclass may return
        a list, paired with the other side's by position, a mapping, paired by key, or anything that its losses read.
        """
        found = read_logits(output) if name == "logits" else read_auxiliary(output)
        if found is None:
            raise SegkdError(f"a term reads 'aux', but the {side} returns no auxiliary logits")
        return found if self.class_map is None or side == "student" else self.map_classes(found)

    def has_auxiliary(self, output: Any) -> bool:
        """Return whether a model's output holds auxiliary logits."""
        return read_auxiliary(output) is not None

    def map_classes(self, logits: Tensor) -> Tensor:
        """Return the teacher's logits (B, C_t, h, w) in the student's classes (B, C_s, h, w)."""
        return logits if self.class_map is None else map_classes(logits, self.class_map)

    def select(self, output: Any, target: Any, index: Tensor) -> tuple[Any, Any]:
        """Return the student's output and the target of the images with these indices (N,) alone."""
        return of_images(output, index), of_images(target, index)

    def example(self, model: nn.Module, size: int) -> Any:
        """Return zeros (1, C, size, size) to try the model with, as its first convolution or its `Preprocess` needs."""
        parameter = next(model.parameters(), torch.zeros(()))
        preprocess = getattr(model, "preprocess", None)
        if isinstance(preprocess, Preprocess):
            sides = preprocess.size or [-(-size // preprocess.multiple) * preprocess.multiple] * 2
            return torch.zeros(1, preprocess.channels, *sides).to(parameter)
        first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
        return torch.zeros(1, 3 if first is None else first.in_channels, size, size).to(parameter)


class Live:
    """A model that runs on each batch; of its activations only those that are read are kept.

    As a teacher it runs without gradient.

    Args:
        module: any module; of a `Network` the logits are read in the student's classes, and tokens as maps.
        adapter: runs it; the distiller sets its own.
        side: ``"student"`` or ``"teacher"``, see `Adapter`.
        owner: what error messages call it.
    """

    runs: ClassVar[bool] = True
    """Whether it runs on each batch."""

    def __init__(
        self, module: nn.Module, adapter: Adapter | None = None, side: str = "teacher", owner: str = "teacher"
    ) -> None:
        self.module, self.adapter, self.side, self.owner = module, adapter or Adapter(), side, owner
        self.taps = Taps(module, ())
        self.upsampling: LastUpsampling | None = None
        given = uncompiled(module)
        self.network = given if isinstance(given, Network) else None

    def offers(self, reads: Collection[str]) -> Mapping[str, Any]:
        """Hook the modules among the places; return all places, their shapes as yet unknown (None)."""
        self.remove()
        self.upsampling = LastUpsampling(self.module) if self.keeps_native(reads) else None
        paths = (place for place in reads if place not in (*self.adapter.outputs, NATIVE))
        self.taps = Taps(self.module, paths, self.owner)
        return dict.fromkeys(reads)

    def keeps_native(self, reads: Collection[str]) -> bool:
        """Whether the logits are wanted before their last upsampling."""
        return NATIVE in reads

    def remove(self) -> None:
        """Take the hooks off the model."""
        self.taps.remove()
        if self.upsampling is not None:
            self.upsampling.remove()

    def __call__(self, step: Step, reads: Collection[str]) -> dict[str, Any]:
        """Run the model on the step's images and return each place's value; gradients reach only the images, if any."""
        on_images = isinstance(step.images, Tensor) and step.images.requires_grad
        with torch.set_grad_enabled(torch.is_grad_enabled() and on_images):
            return self.read(self.run(step.images), reads)

    def run(self, inputs: Any, model: nn.Module | None = None) -> dict[str, Any]:
        """Run the model, or ``model`` in its place; return its output at ``""`` and its tapped tensors by path."""
        found: dict[str, Any] = {path: [] for path in self.taps.paths}
        self.taps.found.update(found)
        call = partial(self.adapter.run, self.side, self.module if model is None else model, inputs)
        try:
            if self.upsampling is None:
                return {"": call(), **found}
            output, native = self.upsampling.run(call, inputs)
            return {"": output, BEFORE: native, **found}
        finally:
            self.taps.found.clear()

    def read(self, found: dict[str, Any], reads: Collection[str]) -> dict[str, Any]:
        """Return what a run gave at each place; ``"aux"`` is left out where there is none."""
        native = found.pop(BEFORE, None)
        for place in reads:
            if place == NATIVE:
                found[place] = self.in_classes(native)
            elif place not in self.adapter.outputs:
                if self.network is not None:
                    found[place] = [self.network.as_map(x) for x in found[place]]
            elif place != "aux" or self.adapter.has_auxiliary(found[""]):
                found[place] = self.adapter.read(self.side, place, found[""])
                if self.network is not None and self.network.class_map and place in ("logits", "aux"):
                    found[place] = self.network.map_classes(found[place])
        return found

    def in_classes(self, logits: Tensor) -> Tensor:
        """Return logits (B, C, h, w) of the model in the student's classes."""
        logits = logits if self.side == "student" else self.adapter.map_classes(logits)
        return logits if self.network is None else self.network.map_classes(logits)


def labelled_images(
    adapter: Adapter, step: Step, student: Mapping[str, Any], teacher: Mapping[str, Any], ignore_index: Any
) -> Labelled:
    """Return what was read for the labelled images alone; ``ignore_index`` is the task loss's."""
    output, target = student[""], step.target
    logits = [student.get("logits"), teacher.get("logits"), teacher.get("aux")]
    if step.labelled is None:
        return Labelled(output, target, logits)
    index, count = step.labelled.nonzero()[:, 0], len(step.labelled)
    is_any = len(index) > 0
    if not is_any:
        if adapter.needs_task_loss and not isinstance(ignore_index, int):
            return Labelled(output, None, logits)
        # None is labelled: one image is kept, its labels ignored, so that every process joins in counting over all.
        index = torch.zeros_like(step.labelled[:1], dtype=torch.long)
    if len(index) == count:
        return Labelled(output, target, logits, is_any=is_any)
    output, target = adapter.select(output, target, index)
    return Labelled(output, target, [None if x is None else x[index] for x in logits], index, count, is_any)
