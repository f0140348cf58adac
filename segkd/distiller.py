"""The distiller: runs both models once, evaluates the terms and returns one output."""

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from segkd.adapter import Adapter
from segkd.connectors import make_connector
from segkd.errors import SegkdError, nearest
from segkd.losses._common import resize
from segkd.schedules import Schedule
from segkd.taps import Taps
from segkd.term import Term
from segkd.weighting import RelativeDifficulty

OUTPUTS = ("logits", "aux")
"""What a term reads from a model's return value; every other name is a module path."""


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
    """

    loss: Tensor
    terms: dict[str, Tensor]
    weights: dict[str, float]
    student: Any
    teacher: Any = None
    pixel_weights: Tensor | None = None


class Distiller(nn.Module):
    """A student, a frozen teacher, and a list of named terms read from the two.

    The student is neither wrapped nor renamed: ``distiller.student is student``. The teacher is frozen, stays in eval
    mode, runs without gradient, follows ``.to()``, and is in neither ``parameters()`` nor ``state_dict()``. Connectors
    are in both. The whole distiller is what DDP and ``torch.compile`` wrap.

    Args:
        student: maps images to logits; see `segkd.adapter.read_logits` for what it may return.
        teacher: likewise. None trains the student on the task loss alone: the plain baseline, through the same code.
        terms: named terms, as a mapping or as (name, term) pairs. ``"task"`` is the task loss's own name.
        task_loss: called ``task_loss(logits, target)`` with logits at label size.
        pixel_weighting: `RelativeDifficulty`, or None. The task loss then needs a ``reduction`` attribute, as torch's
            have.
        schedule: for each named term a function of progress that multiplies its weight, such as `alw` or
            ``{"kd": Linear(1, 0)}``.
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

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | None,
        terms: Mapping[str, Term] | Iterable[tuple[str, Term]],
        task_loss: Callable[[Tensor, Tensor], Tensor],
        pixel_weighting: RelativeDifficulty | None = None,
        schedule: Mapping[str, Schedule] | None = None,
        adapter: Adapter | None = None,
        example: Any = None,
    ) -> None:
        super().__init__()
        self.terms = _named_terms(terms)
        self.schedule = dict(schedule or {})
        for name in self.schedule:
            if name not in ("task", *self.terms):
                raise SegkdError(f"the schedule names no term: {name!r}, {nearest(name, ('task', *self.terms))}")
        if teacher is None and (self.terms or pixel_weighting is not None):
            raise SegkdError(f"no teacher is given, but {next(iter(self.terms), 'pixel_weighting')!r} reads one")
        self.student = student
        # A plain attribute, not a child: the teacher must stay out of parameters() and state_dict().
        self.__dict__["teacher"] = None if teacher is None else _freeze(teacher, student)
        self.task_loss = task_loss
        self.pixel_weighting = pixel_weighting
        self.adapter = adapter if adapter is not None else Adapter()
        self._pixel_loss = _unreduced(task_loss) if pixel_weighting is not None else None
        self.losses = nn.ModuleDict({n: t.loss for n, t in self.terms.items() if isinstance(t.loss, nn.Module)})
        self.connectors = nn.ModuleDict()
        paths = [[getattr(t, side) for t in self.terms.values()] for side in ("student", "teacher")]
        self._taps = {
            side: Taps(model, (path for path in wanted if path not in OUTPUTS), side)
            for side, model, wanted in zip(("student", "teacher"), (student, self.teacher), paths, strict=True)
            if model is not None
        }
        self._connect(example)

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
        for_student, for_teacher = self.adapter.inputs(images)
        student = self._run("student", self.student, for_student)
        teacher = None
        if self.teacher is not None:
            with torch.no_grad():
                teacher = self._run("teacher", self.teacher, for_teacher)

        values: dict[str, Tensor] = {}
        values["task"], pixel_weights = self._task(student, teacher, target, progress)
        label_size = self.adapter.label_size(target)
        for name, term in self.terms.items():
            values[name] = self._evaluate(name, term, student, teacher, target, label_size)
        for taps in self._taps.values():
            taps.clear()

        weights = {
            name: (1.0 if name == "task" else self.terms[name].weight)
            * (self.schedule[name](progress) if name in self.schedule else 1.0)
            for name in values
        }
        loss = torch.stack([weights[name] * value for name, value in values.items()]).sum()
        detached = {name: value.detach() for name, value in values.items()}
        return DistillOutput(loss, detached, weights, student, teacher, pixel_weights)

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

    def _run(self, side: str, model: nn.Module, inputs: Any) -> Any:
        with self._taps[side].recording():
            return self.adapter.run(model, inputs)

    def _check_progress(self, progress: float | None) -> float:
        if progress is None:
            if self.schedule or self.pixel_weighting is not None:
                raise SegkdError("this distiller has a schedule or pixel weighting: give progress=step / total_steps")
            return 0.0
        if progress != progress:
            raise SegkdError("progress must be a number in [0, 1], got nan")
        return min(max(progress, 0.0), 1.0)

    def _task(self, student: Any, teacher: Any, target: Any, progress: float) -> tuple[Tensor, Tensor | None]:
        if self.pixel_weighting is None:
            value, shown = self.adapter.task_loss(student, target, self.task_loss, None), None
        else:
            assert self._pixel_loss is not None
            has_auxiliary = self.adapter.has_auxiliary(teacher)
            weights = self.pixel_weighting(
                self.adapter.read("student", "logits", student).detach(),
                self.adapter.read("teacher", "logits", teacher),
                self.adapter.read("teacher", "aux", teacher) if has_auxiliary else None,
                target,
                progress,
            )
            value = self.adapter.task_loss(student, target, self._pixel_loss, weights.scaled)
            shown = weights.map
        auxiliary = self.adapter.auxiliary_loss(student, target, self.task_loss)
        return (value if auxiliary is None else value + auxiliary), shown

    def _read(self, side: str, name: str, output: Any) -> list[Tensor]:
        if name in OUTPUTS:
            return [self.adapter.read(side, name, output)]
        return _tensors(self._taps[side].outputs(name))

    def _evaluate(
        self, name: str, term: Term, student: Any, teacher: Any, target: Any, label_size: tuple[int, int]
    ) -> Tensor:
        of_student, of_teacher = (
            self._read("student", term.student, student),
            self._read("teacher", term.teacher, teacher),
        )
        if len(of_student) != len(of_teacher) or not of_student:
            raise SegkdError(
                f"term {name!r} reads {len(of_student)} tensors of the student ({term.student}) and "
                f"{len(of_teacher)} of the teacher ({term.teacher}): they pair one to one"
            )
        total = []
        for s, t in zip(of_student, of_teacher, strict=True):
            if name in self.connectors:
                s = self.connectors[name](s)
            if s.dim() == 4 and t.dim() == 4:
                sizes = {"teacher": t.shape[2:], "student": s.shape[2:], "label": label_size}
                height, width = sizes[term.size]
                s, t = resize(s, (height, width)), resize(t, (height, width))
            total.append(term.loss(s, t, target))
        return torch.stack(total).sum()

    @torch.no_grad()
    def _connect(self, example: Any) -> None:
        """Run both models once on an example, make the connectors and check what the terms read."""
        if self.teacher is None or not (self.terms or self.pixel_weighting):
            return
        outputs = {
            side: self._try_out(side, model, example)
            for side, model in (("student", self.student), ("teacher", self.teacher))
        }
        known = all(output is not None for output in outputs.values())
        for name, term in self.terms.items():
            if isinstance(term.connector, nn.Module):
                self.connectors[name] = term.connector
            if not known:
                if isinstance(term.connector, str):
                    raise SegkdError(
                        f"term {name!r} needs the models' channels for its connector: give example=<input>"
                    )
                continue
            read = [self._read(side, getattr(term, side), outputs[side]) for side in ("student", "teacher")]
            if isinstance(term.connector, str):
                if any(len(tensors) != 1 for tensors in read):
                    raise SegkdError(f"term {name!r} reads several tensors: a connector maps a single one")
                connector = make_connector(term.connector, read[0][0].shape[1], read[1][0].shape[1])
                self.connectors[name] = connector.to(read[0][0].device)
            elif term.connector is None and not getattr(term.loss, "any_channels", False):
                self._check_channels(name, term, *read)
        if known and self.pixel_weighting is not None:
            if self.pixel_weighting.needs_auxiliary and not self.adapter.has_auxiliary(outputs["teacher"]):
                raise SegkdError(self.pixel_weighting.NO_AUXILIARY)
            classes = [self.adapter.read(s, "logits", outputs[s]).shape[1] for s in ("student", "teacher")]
            if classes[0] != classes[1]:
                raise SegkdError(_classes_differ("pixel_weighting", *classes))
        for taps in self._taps.values():
            taps.clear()

    def _check_channels(self, name: str, term: Term, student: list[Tensor], teacher: list[Tensor]) -> None:
        for s, t in zip(student, teacher, strict=False):
            if s.dim() == t.dim() == 4 and s.shape[1] != t.shape[1]:
                if term.student in OUTPUTS and term.teacher in OUTPUTS:
                    raise SegkdError(_classes_differ(f"term {name!r}", s.shape[1], t.shape[1]))
                raise SegkdError(
                    f"term {name!r}: the student's {term.student!r} has {s.shape[1]} channels, the teacher's "
                    f"{term.teacher!r} has {t.shape[1]}: give connector='conv1x1'"
                )

    def _try_out(self, side: str, model: nn.Module, example: Any) -> Any:
        """Return the model's output for an example, in eval mode; None when no example is given and zeros fail."""
        modes = [(module, module.training) for module in model.modules()]
        model.eval()
        try:
            with torch.random.fork_rng(devices=[]):
                if example is not None:
                    return self._run(side, model, self.adapter.inputs(example)[side == "teacher"])
                for size in (64, 224):
                    try:
                        return self._run(side, model, self.adapter.example(model, size))
                    except Exception:  # any model, any reason: what cannot be tried out is checked at the first step
                        continue
            return None
        finally:
            for module, training in modes:
                module.training = training


def _named_terms(terms: Mapping[str, Term] | Iterable[tuple[str, Term]]) -> dict[str, Term]:
    pairs = list(terms.items() if isinstance(terms, Mapping) else terms)
    named: dict[str, Term] = {}
    for name, term in pairs:
        if name in named:
            raise SegkdError(f"the term name {name!r} is used twice")
        if name == "task":
            raise SegkdError("the term name 'task' is the task loss's own: choose another")
        if not name.isidentifier() or hasattr(nn.ModuleDict, name):
            raise SegkdError(
                f"the term name {name!r} must be an identifier that is no attribute of torch.nn.ModuleDict"
            )
        if not isinstance(term, Term):
            raise SegkdError(f"term {name!r} must be a segkd.Term, got {type(term).__name__}")
        named[name] = term
    return named


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


def _classes_differ(where: str, student: int, teacher: int) -> str:
    return (
        f"{where}: the student has {student} classes, the teacher {teacher}: give Adapter(class_map=...), the student "
        "class of each teacher class"
    )


def _tensors(outputs: list[Any]) -> list[Tensor]:
    """Return the tensors of a module's outputs in order: of each call, and of a list, tuple or mapping it returned."""
    found: list[Tensor] = []
    for output in outputs:
        if isinstance(output, Tensor):
            found.append(output)
        elif isinstance(output, Mapping):
            found += _tensors(list(output.values()))
        elif isinstance(output, (tuple, list)):
            found += _tensors(list(output))
    return found
