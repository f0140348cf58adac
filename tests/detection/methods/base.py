"""What every method on detectors must hold; each one's test class inherits it."""

import copy
import dataclasses
import doctest
import functools
import itertools
from typing import Any

import torch
from detection.detectors import NO_BOXES, batch, detector, distil
from torch import Tensor
from torch.utils._pytree import tree_map

from segkd import Distiller, DistillOutput, Term
from segkd.losses import Loss

IMAGES, TARGETS = batch()
SMALL = [torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))]
PARTLY_OUTSIDE = [{"boxes": torch.tensor([[-20.0, -9.0, 30.0, 40.0], [50.0, 50.0, 99.0, 80.0]])}]
PARTLY_OUTSIDE[0]["labels"] = torch.tensor([1, 2])


@functools.cache
def tiny(kind: str, seed: int, channels: int = 64, copy: int = 0) -> Any:
    """Return a detector of `detector`, the same one each time; it has no state that running it changes."""
    return detector(kind, seed, channels, min_size=64)


def halved(output: Any) -> Any:
    """Return what a detector gave in float16."""
    kept = [name for name in ("maps", "predictions", "towers") if hasattr(output, name)]
    return dataclasses.replace(output, **{name: tree_map(torch.Tensor.half, getattr(output, name)) for name in kept})


class MethodTests:
    """Subclass it as ``TestX`` and set the attributes; no test of its own is collected here."""

    loss: type[Loss]
    settings: tuple[dict[str, Any], ...] = ({},)
    """The keyword arguments to check it under."""
    kinds: tuple[str, ...] = ("gfl",)
    """Detectors, of both sides alike."""
    needs_boxes = True
    """Whether it is 0 without boxes."""
    channels = 96
    """Of a teacher's maps, where it takes others than the student's 64."""
    needs_heads = False
    """Whether it runs the detectors' layers, so that what they gave cannot be changed."""
    zero = True
    """Whether it is 0 where the student is the teacher."""

    def distiller(self, kind: str, settings: dict[str, Any], student: Any = None, channels: int = 64) -> Distiller:
        student = tiny(kind, 0) if student is None else student
        with torch.random.fork_rng():
            torch.manual_seed(2)
            return distil(student, tiny(kind, 1, channels), {"own": Term(self.loss(**settings))}, task_weight=0.0)

    def step(self, distiller: Distiller, images: Any = IMAGES, targets: Any = TARGETS) -> tuple[Tensor, DistillOutput]:
        """Return the term's value, once it is sane and the gradient too, and the whole output."""
        distiller.zero_grad()
        out = distiller(images, targets)
        out.loss.backward()
        value = out.terms["own"]
        assert value.isfinite()
        assert value >= 0
        assert all(p.grad is None or p.grad.isfinite().all() for p in distiller.parameters())
        assert all(parameter.grad is None for parameter in distiller.teacher.parameters())
        return value, out

    def test_trains_the_student_and_its_own_layers(self) -> None:
        for kind, settings in itertools.product(self.kinds, self.settings):
            distiller = self.distiller(kind, settings)
            assert self.step(distiller)[0] > 0
            grads = [parameter.grad for parameter in distiller.student.backbone.parameters()]
            assert sum(grad is not None and bool(grad.any()) for grad in grads) > len(grads) / 2
            assert [name for name, p in distiller.losses["own"].named_parameters() if p.grad is None] == []
            # Small images: P6 and P7 are maps of one cell.
            self.step(distiller, SMALL, PARTLY_OUTSIDE)

    def test_images_without_boxes(self) -> None:
        for settings in self.settings:
            distiller = self.distiller(self.kinds[0], settings)
            nowhere, _ = self.step(distiller, targets=[NO_BOXES] * 2)
            in_one, _ = self.step(distiller, targets=[NO_BOXES, TARGETS[1]])
            assert in_one > 0
            assert (nowhere == 0) == self.needs_boxes

    def test_what_it_trains_is_saved_and_restored(self) -> None:
        distillers = [self.distiller(self.kinds[0], self.settings[0], channels=self.channels) for _ in range(2)]
        with torch.no_grad():
            for parameter in distillers[0].losses.parameters():
                parameter.add_(0.1)
        distillers[1].load_state_dict(distillers[0].state_dict())
        values = [self.step(distiller)[0] for distiller in distillers]
        assert values[0] == values[1] > 0

    def test_is_zero_where_the_student_is_the_teacher(self) -> None:
        for settings in self.settings if self.zero else ():
            value, _ = self.step(self.distiller(self.kinds[0], settings, tiny(self.kinds[0], 1, copy=1)))
            assert value < 1e-5

    def test_double_precision_is_the_same_to_rounding(self) -> None:
        for kind in self.kinds:
            own = {"own": Term(self.loss(**self.settings[0]))}
            models = [copy.deepcopy(tiny(kind, seed)).double() for seed in (0, 1)]
            with torch.random.fork_rng():
                torch.manual_seed(2)  # as for the method's layers below
                double = distil(*models, own, task_weight=0.0).double()
            found = double([image.double() for image in IMAGES], TARGETS).terms["own"]
            expected = self.distiller(kind, self.settings[0])(IMAGES, TARGETS).terms["own"]
            torch.testing.assert_close(found.float(), expected, rtol=1e-3, atol=1e-6)

    def test_half_precision_is_finite_and_in_float32(self) -> None:
        for settings in self.settings:
            distiller = self.distiller(self.kinds[0], settings)
            with torch.autocast("cpu", torch.bfloat16):
                out = distiller(IMAGES, TARGETS)
            assert out.loss.dtype == torch.float32
            assert out.loss.isfinite()
            maps = list(out.student.maps.values())
            assert maps[0].dtype == torch.bfloat16
            # No further: oneDNN's bfloat16 gradient of P7's convolution is not finite on so small a map.
            grads = torch.autograd.grad(out.loss, maps, allow_unused=True)
            assert all(grad.isfinite().all() for grad in grads if grad is not None)
            if self.needs_heads:
                continue
            narrow = [halved(output) for output in (out.student, out.teacher)]
            value = distiller.losses["own"](*narrow, distiller.adapter.inputs(IMAGES, TARGETS)[2])
            assert value.dtype == torch.float32
            assert value.isfinite()

    def test_prints_its_settings(self) -> None:
        for settings in self.settings:
            assert all(f"{key}={value!r}" in repr(self.loss(**settings)) for key, value in settings.items())

    def test_the_docstring_example_holds(self) -> None:
        names = vars(__import__(self.loss.__module__, fromlist=["_"]))
        (example,) = doctest.DocTestFinder(recurse=False).find(self.loss, globs=dict(names))
        assert doctest.DocTestRunner().run(example) == (0, len(example.examples))
        assert example.examples
