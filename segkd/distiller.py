"""The distiller: runs both models once, evaluates the terms and returns one output."""

import copy
import functools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from segkd.adapter import Adapter
from segkd.connectors import make_connector
from segkd.errors import SegkdError, nearest
from segkd.losses._common import resize
from segkd.schedules import Schedule
from segkd.taps import Taps
from segkd.term import Term, named_terms, paired
from segkd.trial import check_channels, check_classes, check_maps, is_map, undisturbed
from segkd.weighting import RelativeDifficulty


@dataclass
class DistillOutput:
    """What one step gives.

    Attributes:
        loss: scalar to call ``backward`` on: the sum of each term times its weight.
        terms: each term's unweighted value, detached; ``"task"`` is the task loss.
        weights: the weight each one had at this progress.
        student: what the student returned.
        teacher: what the teacher returned; None without teacher.
        pixel_weights: (B, H, W) weights on the task loss in [0, 1], or None.
        parts: what the task loss consists of, detached, where the adapter knows parts of it: a detector's losses.
    """

    loss: Tensor
    terms: dict[str, Tensor]
    weights: dict[str, float]
    student: Any
    teacher: Any = None
    pixel_weights: Tensor | None = None
    parts: dict[str, Tensor] = field(default_factory=dict)


class Distiller(nn.Module):
    """A student, a frozen teacher, and a list of named terms read from the two.

    The student is neither wrapped nor renamed: ``distiller.student is student``. The teacher is frozen, stays in eval
    mode, runs without gradient, follows ``.to()``, and is in neither ``parameters()`` nor ``state_dict()``. Connectors
    are in both. The whole distiller is what DDP and ``torch.compile`` wrap.

    Args:
        student: maps images to logits; see `segkd.adapter.read_logits` for what it may return.
        teacher: likewise. None trains the student on the task loss alone: the plain baseline, through the same code.
        terms: named terms, as a mapping or as (name, term) pairs. ``"task"`` is the task loss's own name.
        task_loss: called ``task_loss(logits, target)`` with logits at label size. None for models that bring their own
            loss, such as detectors.
        pixel_weighting: `RelativeDifficulty`, or None. The task loss then needs a ``reduction`` attribute, as torch's
            have.
        schedule: for each named term a function of progress that multiplies its weight, such as `alw` or
            ``{"kd": Linear(1, 0)}``.
        task_weight: multiplies the task loss, finite and at least 0.
        adapter: how a batch goes through the models; the default is for images to logits. It also holds another
            normalisation or other classes of the teacher.
        example: an input that both models accept, to find their channels with; needed where zeros of
            (1, channels, 64, 64) do not work. None tries those.

    Raises:
        SegkdError: at construction: a path names no module, channels or classes differ without connector or class_map,
            a name stands twice, a schedule names no term, or a teacher has no auxiliary head where one is needed.

    Example:
        >>> from segkd.losses import PixelKD
        >>> student, teacher = nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(3, 5, 3, padding=1)
        >>> distiller = Distiller(student, teacher, {"kd": Term(PixelKD())}, nn.CrossEntropyLoss(ignore_index=255))
        >>> out = distiller(torch.randn(2, 3, 16, 16), torch.randint(0, 5, (2, 16, 16)))
        >>> sorted(out.terms)
        ['kd', 'task']
    """

    student: nn.Module
    teacher: nn.Module | None
    _pixel_loss: Callable[[Tensor, Tensor], Tensor] | None

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | None,
        terms: Mapping[str, Term] | Iterable[tuple[str, Term]],
        task_loss: Callable[[Tensor, Tensor], Tensor] | None = None,
        pixel_weighting: RelativeDifficulty | None = None,
        schedule: Mapping[str, Schedule] | None = None,
        adapter: Adapter | None = None,
        example: Any = None,
        task_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.terms = named_terms(terms)
        self.schedule = dict(schedule or {})
        for name, factor in self.schedule.items():
            if name not in ("task", *self.terms):
                raise SegkdError(f"the schedule names no term: {name!r}, {nearest(name, ('task', *self.terms))}")
            if not callable(factor):
                raise SegkdError(f"the schedule of {name!r} must be a function of progress, got {factor!r}")
        if not 0 <= task_weight < math.inf:
            raise SegkdError(f"task_weight must be a finite number of at least 0, got {task_weight}")
        self.task_weight = task_weight
        if teacher is None and (self.terms or pixel_weighting is not None):
            raise SegkdError(f"no teacher is given, but {next(iter(self.terms), 'pixel_weighting')!r} reads one")
        self.student = student
        # A plain attribute, not a child: the teacher must stay out of parameters() and state_dict().
        self.__dict__["teacher"] = None if teacher is None else _freeze(teacher, student)
        self.task_loss = task_loss
        self.pixel_weighting = pixel_weighting
        self.adapter = adapter if adapter is not None else Adapter()
        if task_loss is None and self.adapter.needs_task_loss:
            raise SegkdError("these models need a task_loss, such as torch.nn.CrossEntropyLoss(ignore_index=255)")
        # No child either: it shares the task loss's buffers (class weights), which are in state_dict() once already.
        self.__dict__["_pixel_loss"] = None if pixel_weighting is None else _unreduced(task_loss)
        self.losses = nn.ModuleDict({n: t.loss for n, t in self.terms.items() if isinstance(t.loss, nn.Module)})
        self.connectors = nn.ModuleDict()
        self._taps: dict[str, Taps] = {}
        try:
            for side, model in self._models().items():
                paths = [getattr(term, side) for term in self.terms.values()]
                self._taps[side] = Taps(model, (path for path in paths if path not in self.adapter.outputs), side)
            self.adapter.prepare(student, teacher, self.terms)
            self._connect(example)
        except BaseException:
            self.detach_hooks()  # the student outlives a distiller that could not be made
            raise

    def forward(self, images: Any, target: Any, progress: float | None = None) -> DistillOutput:
        """Run one step.

        Args:
            images: what the student takes, (B, 3, H, W) normalised for it.
            target: (B, H, W) labels.
            progress: of training, in [0, 1] (clamped): ``step / total_steps``. Required with a schedule or pixel
                weighting.

        Raises:
            SegkdError: progress is missing or not a number, or a shape does not fit.
        """
        progress = self._check_progress(progress)
        for_student, for_teacher, target = self.adapter.inputs(images, target)
        teacher = None
        if self.teacher is not None:
            # First, so that its passing activations are gone before the student's, which stay for backward.
            with torch.no_grad():
                teacher = self._run("teacher", self.teacher, for_teacher)
        student = self._run("student", self.student, for_student)

        parts, pixel_weights = self._task(student, teacher, target, progress)
        values: dict[str, Tensor] = {"task": functools.reduce(torch.add, parts.values())}
        for name, term in self.terms.items():
            values[name] = self._evaluate(name, term, student, teacher, target)
        for taps in self._taps.values():
            taps.clear()

        weights = {
            name: (self.task_weight if name == "task" else self.terms[name].weight)
            * (self.schedule[name](progress) if name in self.schedule else 1.0)
            for name in values
        }
        loss = torch.stack([weights[name] * value for name, value in values.items()]).sum()
        values, parts = ({name: value.detach() for name, value in named.items()} for named in (values, parts))
        return DistillOutput(loss, values, weights, student, teacher, pixel_weights, parts)

    def train(self, mode: bool = True) -> "Distiller":
        """Set the student's and connectors' mode; the teacher stays in eval mode."""
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Distiller":
        super()._apply(fn, recurse)
        if self.teacher is not None:
            self.teacher._apply(fn, recurse)
        return self

    def detach_hooks(self) -> None:
        """Take the feature hooks off both models, once distillation is over."""
        for taps in self._taps.values():
            taps.remove()

    def _models(self) -> dict[str, nn.Module]:
        return {"student": self.student} if self.teacher is None else {"student": self.student, "teacher": self.teacher}

    def _run(self, side: str, model: nn.Module, inputs: Any) -> Any:
        with self._taps[side].recording():
            return self.adapter.run(side, model, inputs)

    def _check_progress(self, progress: float | None) -> float:
        if progress is None:
            if self.schedule or self.pixel_weighting is not None:
                raise SegkdError("this distiller has a schedule or pixel weighting: give progress=step / total_steps")
            return 0.0
        if progress != progress:
            raise SegkdError("progress must be a number in [0, 1], got nan")
        return min(max(progress, 0.0), 1.0)

    def _task(
        self, student: Any, teacher: Any, target: Any, progress: float
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        if self.pixel_weighting is None:
            value, shown = self.adapter.task_loss(student, target, self.task_loss, None), None
        else:
            has_auxiliary = self.adapter.has_auxiliary(teacher)
            weights = self.pixel_weighting(
                self.adapter.read("student", "logits", student).detach(),
                self.adapter.read("teacher", "logits", teacher),
                self.adapter.read("teacher", "aux", teacher) if has_auxiliary else None,
                target,
                progress,
            )
            value, shown = self.adapter.task_loss(student, target, self._pixel_loss, weights.scaled), weights.map
        parts = {"main": value} if isinstance(value, Tensor) else value
        auxiliary = self.adapter.auxiliary_loss(student, target, self.task_loss)
        return (parts if auxiliary is None else {**parts, "auxiliary": auxiliary}), shown

    def _read(self, name: str, term: Term, student: Any, teacher: Any) -> list[tuple[Any, Any]]:
        """Return what a term compares: pairs of tensors, or of what else the adapter hands out."""
        found = []
        for side, source, output in (("student", term.student, student), ("teacher", term.teacher, teacher)):
            if source in self.adapter.outputs:
                found.append(self.adapter.read(side, source, output))
            else:
                found.append(self._taps[side].tensors(source))
        return paired(name, term, *found)

    def _evaluate(self, name: str, term: Term, student: Any, teacher: Any, target: Any) -> Tensor:
        total = []
        for s, t in self._read(name, term, student, teacher):
            if name in self.connectors:
                s = self.connectors[name](s)
            if is_map(s) and is_map(t):
                if term.size == "label":
                    height, width = self.adapter.label_size(target)
                else:
                    height, width = (t if term.size == "teacher" else s).shape[2:]
                s, t = resize(s, (height, width)), resize(t, (height, width))
            total.append(term.loss(s, t, target))
        return torch.stack(total).sum()

    @torch.no_grad()
    def _connect(self, example: Any) -> None:
        """Run both models once on an example, make the connectors and check what the terms read."""
        if not (self.terms or self.pixel_weighting):
            return
        outputs: dict[str, Any] = {}
        failure = ""
        for side, model in self._models().items():
            try:
                outputs[side] = self._try_out(side, model, example)
            except Exception as error:
                if example is not None:
                    raise
                # Zeros need not suit every model: what cannot be tried out is checked at the first step.
                reason = str(error).strip().partition("\n")[0]
                failure = f"the {side} does not take zeros ({type(error).__name__}: {reason})"
        for name, term in self.terms.items():
            if isinstance(term.connector, nn.Module):
                self.connectors[name] = term.connector
            if failure:
                if isinstance(term.connector, str):
                    raise SegkdError(f"term {name!r} needs the models' channels, but {failure}: give example=<input>")
                continue
            read = self._read(name, term, *outputs.values())
            check_maps(name, term, read)
            pairs = [(s, t) for s, t in read if is_map(s) and is_map(t)]
            if isinstance(term.connector, str):
                channels = {(s.shape[1], t.shape[1]) for s, t in pairs}
                if len(channels) != 1:
                    raise SegkdError(
                        f"term {name!r} compares {len(pairs)} maps with channels {sorted(channels)}: a connector maps "
                        "from one number of channels to one"
                    )
                ((of_student, of_teacher),) = channels
                self.connectors[name] = make_connector(term.connector, of_student, of_teacher).to(pairs[0][0])
            elif term.connector is None and not getattr(term.loss, "any_channels", False):
                check_channels(name, term, pairs)
        if self.pixel_weighting is not None and not failure:
            if self.pixel_weighting.needs_auxiliary and not self.adapter.has_auxiliary(outputs["teacher"]):
                raise SegkdError(self.pixel_weighting.NO_AUXILIARY)
            check_classes("pixel_weighting", *(self.adapter.read(side, "logits", outputs[side]) for side in outputs))
        for taps in self._taps.values():
            taps.clear()

    def _try_out(self, side: str, model: nn.Module, example: Any) -> Any:
        """Return the model's output for the example, or for zeros."""
        model = getattr(model, "_orig_mod", model)  # nothing is compiled for this
        with undisturbed(model):
            if example is not None:
                return self._run(side, model, self.adapter.inputs(example)[side == "teacher"])
            try:
                return self._run(side, model, self.adapter.example(model, 64))
            except Exception:  # a model of any make: the next size is the judge
                return self._run(side, model, self.adapter.example(model, 224))


def _freeze(teacher: nn.Module, student: nn.Module) -> nn.Module:
    theirs = {id(parameter) for parameter in teacher.parameters()}
    if teacher is student or any(id(parameter) in theirs for parameter in student.parameters()):
        raise SegkdError("student and teacher share parameters: freezing the teacher would freeze the student")
    return teacher.eval().requires_grad_(False)


def _unreduced(task_loss: Any) -> Callable[[Tensor, Tensor], Tensor]:
    if not hasattr(task_loss, "reduction"):
        raise SegkdError(
            f"pixel_weighting needs a task loss with a 'reduction' attribute, {type(task_loss).__name__} has none"
        )
    unreduced = copy.copy(task_loss)
    unreduced.reduction = "none"
    return unreduced
