"""The distiller: runs the models once, evaluates the terms and returns one output."""

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from segkd.adapter import Adapter, Live, labelled_images
from segkd.balance import Balance
from segkd.errors import SegkdError, is_number, nearest
from segkd.network import unit
from segkd.reads import evaluate, route, teacher_named
from segkd.schedules import Schedule, summed
from segkd.step import Step, View, check_labelled
from segkd.supervision import supervised
from segkd.teachers import Teacher, given_outputs, named_teachers, offered
from segkd.term import Term, named_terms
from segkd.trial import Trial, check_classes, check_known
from segkd.weighting.base import PixelLoss, PixelWeighting


@dataclass
class DistillOutput:
    """The result of one distillation step.

    Attributes:
        loss: scalar to call ``backward`` on: the sum of each term times its weight.
        terms: each term's unweighted value, detached; ``"task"`` is the task loss.
        weights: the weight of each at this progress, its schedule and share included.
        student: the student's output.
        teacher: the teacher's output, or the outputs given in its place; by name with several teachers, None without.
        pixel_weights: (B, H, W) weights on the task loss in [0, 1]; None without pixel weighting or labels.
        parts: the detached values that add up to the task loss: ``"main"``, or what the adapter names (a detector's).
    """

    loss: Tensor
    terms: dict[str, Tensor]
    weights: dict[str, float]
    student: Any
    teacher: Any = None
    pixel_weights: Tensor | None = None
    parts: dict[str, Tensor] = field(default_factory=dict)


class Distiller(nn.Module):
    """A student, frozen teachers, and a list of named terms read from them.

    The student is neither wrapped nor renamed: ``distiller.student is student``. Teachers are frozen, stay in eval
    mode, run one after the other without gradient, follow ``.to()``, and are in neither ``parameters()`` nor
    ``state_dict()``. Connectors are in both. Wrap the whole distiller in DDP or ``torch.compile``.

    Args:
        student: maps images to logits (see `segkd.adapter.read_logits` for the outputs that are understood), or a
            `segkd.network.Network`, which takes raw images.
        teacher: likewise, or another `segkd.teachers.Teacher`; several as a mapping by name. None trains the student
            on the task loss alone: the plain baseline, through the same code.
        terms: terms by name, as a mapping or as (name, term) pairs. ``"task"`` is the task loss's own name.
        task_loss: called ``task_loss(logits, target)`` with logits at label size. None for models that bring their own
            loss, such as detectors.
        pixel_weighting: weighs the task loss of each pixel: `segkd.weighting.RelativeDifficulty`, or any
            `PixelWeighting`. The task loss then needs a ``reduction`` attribute, as torch's have.
        schedule: for each named term a function of progress that multiplies its weight, such as `alw` or
            ``{"kd": Linear(1, 0)}``.
        task_weight: multiplies the task loss, finite and at least 0.
        adapter: runs a batch through the models and reads their outputs; the default is for images to logits. For a
            teacher that is no `Network` it also holds the normalisation and the class map.
        example: an input that the models accept, which is run once to find their channels. None tries zeros
            (1, channels, 64, 64), then 224 x 224.

    Raises:
        SegkdError: at construction: a path names no module, a term no teacher, or a schedule no term; channels differ
            without connector, or classes without class_map; a name is used twice; or a teacher cannot give what is read
            of it.

    Example:
        >>> from segkd.losses import PixelKD
        >>> student, teacher = nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(3, 5, 3, padding=1)
        >>> distiller = Distiller(student, teacher, {"kd": Term(PixelKD())}, nn.CrossEntropyLoss(ignore_index=255))
        >>> out = distiller(torch.randn(2, 3, 16, 16), torch.randint(0, 5, (2, 16, 16)))
        >>> sorted(out.terms)
        ['kd', 'task']
    """

    student: nn.Module
    teachers: dict[str, Teacher]
    """By name; a single teacher given without a name is called ``"teacher"``."""

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | Teacher | Mapping[str, nn.Module | Teacher] | None,
        terms: Mapping[str, Term] | Iterable[tuple[str, Term]],
        task_loss: Callable[[Tensor, Tensor], Tensor] | None = None,
        pixel_weighting: PixelWeighting | None = None,
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
        if not (is_number(task_weight) and task_weight >= 0):
            raise SegkdError(f"task_weight must be a finite number of at least 0, got {task_weight!r}")
        self.task_weight = task_weight
        self.adapter = adapter if adapter is not None else Adapter()
        if task_loss is None and self.adapter.needs_task_loss:
            raise SegkdError("these models need a task_loss, such as torch.nn.CrossEntropyLoss(ignore_index=255)")
        shares = {name: term.share for name, term in self.terms.items() if term.share is not None}
        if shares and not task_weight:
            raise SegkdError(f"term {next(iter(shares))!r} has a share of the task loss's gradient: task_weight is 0")
        self.balance = Balance(shares) if shares else None
        self.student, self.task_loss, self.pixel_weighting = student, task_loss, pixel_weighting
        self.teachers = named_teachers(teacher, student, self.adapter)
        self._student = Live(student, self.adapter, "student", "student")
        self.pixels = None if pixel_weighting is None else PixelLoss(task_loss, pixel_weighting)
        self._plan()
        self.losses = nn.ModuleDict({n: t.loss for n, t in self.terms.items() if isinstance(t.loss, nn.Module)})
        self.connectors = nn.ModuleDict()
        try:
            self._prepare(example)
        except BaseException:
            self.detach_hooks()  # the student outlives a distiller whose construction failed
            raise

    @property
    def teacher(self) -> Any:
        """The teacher's module; with several a dict by name. None without a teacher, or if it is no live model."""
        modules = self._models()
        return modules if len(modules) > 1 else next(iter(modules.values()), None)

    def forward(
        self,
        images: Any,
        target: Any,
        progress: float | None = None,
        *,
        labelled: Tensor | None = None,
        teacher: Mapping[str, Any] | None = None,
        views: list[View] | Tensor | None = None,
        teacher_images: Any = None,
        crops: Tensor | None = None,
    ) -> DistillOutput:
        """Run one step.

        Args:
            images: what the student takes: (B, 3, H, W), raw for a `Network`, else normalised for it.
            target: (B, H, W) labels; None: no image is labelled, and the task loss is 0.
            progress: training progress ``step / total_steps``, in [0, 1] (clamped); a schedule or weighting needs it.
            labelled: (B,) bool, which images have labels; None: all. Task loss and pixel weighting use these alone, the
                terms use all images, with the others' labels ignored if the task loss has an ``ignore_index``.
            teacher: the teacher's outputs by place, used instead of running it; with several teachers these by name,
                and one that is left out runs. Logits must be in the student's classes.
            views: each image's view, (epoch, index), as a list or int (B, 2), for a stored teacher or a loss that asks.
            teacher_images: what the teachers get instead of ``images``, in the form that they take.
            crops: float (B, 4), where in its whole image each view lies, see `segkd.step.Step`.

        Raises:
            SegkdError: progress is missing or not a number, or a shape does not fit.
        """
        done = self._check_progress(progress)
        given = {} if teacher is None else self._given(teacher, images)
        wants_gradient = any(getattr(term.loss, "needs_image_grad", False) for term in self.terms.values())
        if wants_gradient and isinstance(images, Tensor) and torch.is_grad_enabled():
            images = unit(images).detach().requires_grad_()
        ignored = getattr(self.task_loss, "ignore_index", None)
        if labelled is not None:
            check_labelled(labelled, images, target)
            target = self.adapter.hide(images, target, labelled, ignored)
        if target is not None and self.adapter.kept is not None:
            target = self.adapter.kept.complete(target, views)
        for_student, for_teacher, target = self.adapter.inputs(images, target)
        step = Step(images, target, labelled, views, done, crops)
        of_teacher = replace(step, images=for_teacher if teacher_images is None else teacher_images)
        # Teachers first: their temporary activations are freed before the student's, which are kept for backward.
        taught = {
            name: given[name] if name in given else each(of_teacher, self.reads[name])
            for name, each in self.teachers.items()
        }
        student = self._student.read(self._student.run(for_student), self._reads_student)

        if target is None:
            device = next((parameter.device for parameter in self.student.parameters()), None)
            parts, pixel_weights = {"main": torch.zeros((), device=device)}, None
        else:
            weigher, weighed = {} if self._weigher is None else taught[self._weigher], None
            with_labels = labelled_images(self.adapter, step, student, weigher, ignored)
            if self.pixels is not None and with_labels.target is not None:
                weighed = self.pixels.weights(with_labels.logits, with_labels.target, done)
            parts, pixel_weights = supervised(self.adapter, self.task_loss, self.pixels, with_labels, weighed)
        values: dict[str, Tensor] = {"task": functools.reduce(torch.add, parts.values())}
        values |= evaluate(self.terms, self._routes, self.connectors, self.adapter, step, student, taught)

        weights = {"task": self.task_weight, **{name: term.weight for name, term in self.terms.items()}}
        if self.balance is None:
            loss, weights = summed(values, weights, self.schedule, done)
        else:
            has_labels = target is not None if labelled is None else labelled
            loss, weights = self.balance(self.student, values, weights, has_labels, self.schedule, progress)
        values, parts = ({name: value.detach() for name, value in named.items()} for named in (values, parts))
        outputs = {name: found.get("", found) for name, found in taught.items()}
        shown = outputs if len(outputs) > 1 else next(iter(outputs.values()), None)
        return DistillOutput(loss, values, weights, student[""], shown, pixel_weights, parts)

    def train(self, mode: bool = True) -> "Distiller":
        """Set the student's and connectors' mode; teachers stay in eval mode."""
        super().train(mode)
        for module in self._live():
            module.eval()
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Distiller":
        super()._apply(fn, recurse)
        for module in self._live():
            module._apply(fn, recurse)
        return self

    def detach_hooks(self) -> None:
        """Remove the feature hooks from all models, once distillation is over."""
        for model in (self._student, *self.teachers.values()):
            if isinstance(model, Live):
                model.remove()

    def _models(self) -> dict[str, nn.Module | None]:
        """Return each teacher's module by name; None for one that is no live model."""
        return {name: getattr(teacher, "module", None) for name, teacher in self.teachers.items()}

    def _live(self) -> list[nn.Module]:
        return [module for module in self._models().values() if module is not None]

    def _plan(self) -> None:
        """Set where each term reads, which teacher the pixel weighting reads, and the places read of each model."""
        weighting = self.pixel_weighting
        asked = None if weighting is None else getattr(weighting, "teacher", "" if self.teachers else None)
        if not self.teachers and (self.terms or asked is not None):
            raise SegkdError(f"no teacher is given, but {next(iter(self.terms), 'pixel_weighting')!r} reads one")
        self._routes = {name: route(name, term, self.teachers) for name, term in self.terms.items()}
        self._weigher = None if asked is None else teacher_named("pixel_weighting", asked, self.teachers)
        student = [place for where in self._routes.values() for place in where.student]
        self._reads_student = tuple(dict.fromkeys([*student, *([] if weighting is None else ["logits"])]))
        teacher = [pair for where in self._routes.values() for pair in where.teacher]
        teacher += [] if self._weigher is None else [(self._weigher, "logits"), (self._weigher, "aux")]
        self.reads = {name: tuple(dict.fromkeys(p for of, p in teacher if of == name)) for name in self.teachers}

    def _prepare(self, example: Any) -> None:
        """Hook the models, run them once on an example, make the connectors and check what the terms read."""
        self._student.offers(self._reads_student)
        offers = {name: offered(name, teacher, self.reads[name]) for name, teacher in self.teachers.items()}
        for name, term in self.terms.items():
            for of in self._routes[name].teachers:
                if getattr(term.loss, "needs_live", False) and not getattr(self.teachers[of], "runs", False):
                    raise SegkdError(f"{_needs_live(name, term)}, and {of!r} is a {type(self.teachers[of]).__name__}")
        models = self.teacher if self.teachers.keys() <= {"teacher"} else self._models()
        self.adapter.prepare(self.student, models, self.terms)
        self._shapes: dict[str, dict[str, Any]] = {}
        if not (self.terms or self.pixels):
            return
        trial = Trial(self._student, self._reads_student, example)
        for name, teacher in self.teachers.items():
            self._shapes[name] = trial.teach(name, teacher, self.reads[name], offers[name])
        for name, term in self.terms.items():
            connector = trial.connector(name, term, self._routes[name])
            if connector is not None:
                self.connectors[name] = connector
            trial.prepare(name, term, self._routes[name], connector)
        if self._weigher is not None and not trial.failure([self._weigher]):
            taught = trial.teachers[self._weigher]
            if self.pixels is not None:
                self.pixels.check_auxiliary(taught.get("aux"))
            check_classes("pixel_weighting", trial.student["logits"], taught["logits"])
            check_known("pixel_weighting: the teacher", taught["logits"])

    def _check_progress(self, progress: float | None) -> float:
        if progress is None:
            if self.schedule or self.pixel_weighting is not None:
                raise SegkdError("this distiller has a schedule or pixel weighting: give progress=step / total_steps")
            return 0.0
        if progress != progress:
            raise SegkdError("progress must be a number in [0, 1], got nan")
        return min(max(progress, 0.0), 1.0)

    def _given(self, outputs: Mapping[str, Any], images: Any) -> dict[str, Mapping[str, Any]]:
        """Check given outputs against what the terms read, and return them by teacher."""
        given = given_outputs(outputs, self.teachers, self.reads, self._shapes, images)
        for name, term in self.terms.items():
            if getattr(term.loss, "needs_live", False) and self._routes[name].teachers & given.keys():
                raise SegkdError(f"{_needs_live(name, term)}: its outputs cannot be given")
        return given


def _needs_live(name: str, term: Term) -> str:
    return f"term {name!r}: {type(term.loss).__name__} runs layers of the teacher itself"
