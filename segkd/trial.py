"""Running the models once when a distiller is made, without changing them, to check that what terms read fits."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from segkd.adapter import Live
from segkd.connectors import make_connector
from segkd.errors import SegkdError
from segkd.losses._common import UNKNOWN
from segkd.outputs import is_map, tensors_of
from segkd.reads import Route, calls, read
from segkd.taps import uncompiled
from segkd.term import Term
from segkd.upsampling import NATIVE

_SCORES = ("logits", "aux")
"""Places with one channel for each class."""


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Run what is inside in eval mode, so that no running statistic changes; then restore modes and random state."""
    modes = [(module, module.training) for module in model.modules()]
    devices = {parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"}
    model.eval()
    try:
        with torch.random.fork_rng(devices=list(devices)):
            yield
    finally:
        for module, training in modes:
            module.training = training


class Trial:
    """What the models gave for one input: the given example, or zeros where there is none."""

    def __init__(self, student: Live, reads: Collection[str], example: Any) -> None:
        self.adapter, self.example = student.adapter, example
        self.failures: dict[str, str] = {}
        self.student = self._run("", student, reads)
        self.teachers: dict[str, dict[str, Any]] = {}

    def teach(self, name: str, teacher: Any, reads: Collection[str], shapes: Mapping[str, Any]) -> dict[str, Any]:
        """Run a live teacher too, or take the shapes that another one offered; return the known shapes by place."""
        if isinstance(teacher, Live):
            found = self._run(name, teacher, reads)
        else:
            found = {place: _like(shape) for place, shape in shapes.items() if shape is not None}
            if any(place not in found for place in reads):
                self.failures[name] = f"the shapes of the teacher {name!r} are not known: give a module as connector"
        self.teachers[name] = found
        return {place: [tuple(x.shape[1:]) for x in tensors_of(value)] for place, value in found.items()}

    def failure(self, teachers: Iterable[str]) -> str:
        """Return why nothing is known of the student or of one of these teachers; empty if all is well."""
        return next((self.failures[name] for name in ("", *teachers) if name in self.failures), "")

    @torch.no_grad()
    def _run(self, name: str, live: Live, reads: Collection[str]) -> dict[str, Any]:
        model = uncompiled(live.module)  # nothing is compiled for this
        try:
            with undisturbed(model):
                found = self._found(live, model)
        except Exception as error:
            if self.example is not None:
                raise
            # Zeros need not suit every model: what cannot be tried out is checked at the first step.
            reason = str(error).strip().partition("\n")[0]
            self.failures[name] = (
                f"the {live.owner} does not take zeros ({type(error).__name__}: {reason}): give example=<input>"
            )
            return {}
        return live.read(found, reads)

    def _found(self, live: Live, model: nn.Module) -> dict[str, Any]:
        if self.example is not None:
            return live.run(self.adapter.inputs(self.example)[live.side == "teacher"], model)
        try:
            return live.run(self.adapter.example(model, 64), model)
        except Exception:  # which errors a model raises is not known: the larger size decides
            return live.run(self.adapter.example(model, 224), model)

    def connector(self, name: str, term: Term, where: Route) -> nn.Module | None:
        """Check that what a term reads fits, and return its connector, None without; for lists one for each pair."""
        given, count, is_list = term.connector, len(where.student), any(where.lists)
        is_made = given is not None and not isinstance(given, nn.Module)
        if is_list:
            if given is None:  # whether these fit is left to the loss, but for classes that it would take as known
                self._check_known(name, term, where)
                return None
            if count != len(where.teacher):
                raise SegkdError(
                    f"term {name!r}: connectors map place to place, and it reads {count} of the student and "
                    f"{len(where.teacher)} of the teacher"
                )
            if not is_made:
                if not isinstance(given, nn.ModuleList) or len(given) != count:
                    raise SegkdError(f"term {name!r} reads {count} places: its connectors are a ModuleList of {count}")
                return given
        if failure := self.failure(where.teachers):
            if is_made:
                raise SegkdError(f"term {name!r} needs the models' channels, but {failure}")
            return given  # type: ignore[return-value]
        found = read(name, term, where, self.student, self.teachers, self.adapter)
        pairs = [pair for s, t in found for pair in zip(s, t, strict=True)]
        # What a user's own loss takes is not known: it may be the tokens (B, N, C) of a transformer.
        if is_made or type(term.loss).__module__.startswith("segkd.losses"):
            for pair in pairs:
                for side, path, x in zip(("student", "teacher"), (term.student, term.teacher), pair, strict=True):
                    if isinstance(x, Tensor) and x.dim() != 4:
                        raise SegkdError(
                            f"term {name!r}: the {side}'s module {path!r} gives {tuple(x.shape)}, not a map "
                            "(B, C, H, W): read a module whose output is one; of tokens a segkd.network.Network with "
                            "as_map= makes maps"
                        )
        maps = [(s, t) for s, t in pairs if is_map(s) and is_map(t)]
        if given is None and not getattr(term.loss, "any_channels", False):
            is_score = term.student in _SCORES and str(term.teacher).rpartition(":")[2] in _SCORES
            for s, t in maps:
                if is_score:
                    check_classes(f"term {name!r}", s, t)
                    self._check_known(name, term, where)
                elif s.shape[1] != t.shape[1]:
                    raise SegkdError(
                        f"term {name!r}: the student's {term.student!r} has {s.shape[1]} channels, the teacher's "
                        f"{term.teacher!r} has {t.shape[1]}: give connector='conv1x1'"
                    )
        if not is_made:
            return given  # type: ignore[return-value]
        return nn.ModuleList(_made(name, term, [pair]) for pair in pairs) if is_list else _made(name, term, maps)

    def _check_known(self, name: str, term: Term, where: Route) -> None:
        """Raise if a loss that asks for all classes reads logits of a teacher that lacks some."""
        if getattr(term.loss, "known", None) is not None:
            return
        for of, place in where.teacher:
            logits = self.teachers[of].get(place) if place in (*_SCORES, NATIVE) else None
            if isinstance(logits, Tensor):
                which = f"the teacher {of!r}" if len(self.teachers) > 1 else "the teacher"
                check_known(f"term {name!r}: {which}", logits)

    def prepare(self, name: str, term: Term, where: Route, connector: nn.Module | None) -> None:
        """Call the loss's ``prepare``, if it has one, with what it will compare, see `Term`."""
        prepare = getattr(term.loss, "prepare", None)
        if prepare is None:
            return
        if failure := self.failure(where.teachers):
            raise SegkdError(f"term {name!r} needs the models' channels, but {failure}")
        pairs = read(name, term, where, self.student, self.teachers, self.adapter)
        if connector is not None:
            with torch.no_grad(), undisturbed(connector):
                each: Any = connector if any(where.lists) else [connector]
                pairs = [([connect(x) for connect, x in zip(each, s, strict=True)], t) for s, t in pairs]
        prepare(*calls(term, where, pairs)[0])


def _like(shape: Any) -> Any:
    """Return meta tensors (1, ...) of these shapes, in lists and mappings where the shapes are."""
    if isinstance(shape, Mapping):
        return {key: _like(each) for key, each in shape.items()}
    return [_like(each) for each in shape] if isinstance(shape, list) else torch.zeros(1, *shape, device="meta")


def _made(name: str, term: Term, pairs: list[tuple[Tensor, Tensor]]) -> nn.Module:
    channels = {(s.shape[1], t.shape[1]) for s, t in pairs}
    if len(channels) != 1:
        raise SegkdError(
            f"term {name!r} compares {len(pairs)} maps with channels {sorted(channels)}: a connector maps "
            "from one number of channels to one"
        )
    ((of_student, of_teacher),) = channels
    assert term.connector is not None
    return make_connector(term.connector, of_student, of_teacher).to(pairs[0][0])


def check_classes(where: str, student: Tensor, teacher: Tensor) -> None:
    """Raise unless both logits (B, C, h, w), the teacher's in the student's classes, have as many classes.

    Args:
        where: the beginning of the error message.
        student: its logits.
        teacher: its logits.
    """
    if student.shape[1] != teacher.shape[1]:
        raise SegkdError(
            f"{where}: the student has {student.shape[1]} classes, the teacher {teacher.shape[1]}: give the student "
            "class of each teacher class, as Adapter(class_map=...), or as teacher.class_map in a config"
        )


def check_known(where: str, logits: Tensor) -> None:
    """Raise if a teacher's logits (B, C, h, w) say of a class that it does not know it; of shapes alone nothing is.

    Args:
        where: the beginning of the error message, such as ``"the teacher"``.
        logits: in the student's classes.
    """
    lacking = [] if logits.is_meta else (logits == UNKNOWN).all((0, 2, 3)).nonzero()[:, 0].tolist()
    if lacking:
        raise SegkdError(f"{where} lacks the classes {lacking}; PixelKD(known=0.5) leaves them out")
