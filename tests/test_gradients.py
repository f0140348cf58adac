"""The loss of a measured step: gradients that were measured in the place of a backward pass of its own."""

from pathlib import Path

import pytest
import torch
from nets import Net, batch, cross_entropy
from processes import in_two_processes
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from segkd import Distiller, Term
from segkd.balance import FIRST
from segkd.gradients import leaves_of
from segkd.losses import CWD, PixelKD
from segkd.schedules import Linear

IMAGES, MASKS = batch(4)


def nothing(student: Tensor, teacher: Tensor, target: Tensor | None = None) -> Tensor:
    return 0.0 * student.sum()


class Counted(torch.autograd.Function):
    """The same value; counts how often a gradient comes back through it."""

    passes = 0

    @staticmethod
    def forward(ctx: object, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        Counted.passes += 1
        return gradient


class CountedNet(Net):
    def forward(self, images: Tensor) -> Tensor:
        return Counted.apply(super().forward(images))  # type: ignore[no-any-return]


def make(schedule: dict | None = None, **more: Term) -> Distiller:
    torch.manual_seed(0)
    terms = {
        "kd": Term(PixelKD(), share=0.5),
        "features": Term(CWD(), student="encoder", teacher="encoder", share=1.0, connector="conv1x1"),
        **more,
    }
    return Distiller(CountedNet(), Net(width=9), terms, cross_entropy(), task_weight=0.5, schedule=schedule)


class TestReuse:
    """Measured gradients in the place of a backward pass: what segkd's own training does."""

    def gradients(self, distiller: Distiller, factor: float = 1.0) -> list[Tensor]:
        (factor * distiller(IMAGES, MASKS, progress=0.5).loss).backward()
        return [parameter.grad for parameter in distiller.parameters() if parameter.requires_grad]

    def test_saves_one_pass_and_gives_the_same_gradients(self) -> None:
        found, passes = [], []
        for reuse in (False, True):
            distiller = make({"kd": Linear(0.5, 0.7), "task": Linear(0.3, 0.4)})
            distiller.balance.reuse = reuse
            Counted.passes = 0
            found.append(self.gradients(distiller, factor=0.25))
            passes.append(Counted.passes)
        # Logits are read by the task loss and the pixels' term: measured once each, and again by the loss's own pass.
        assert passes == [3, 2]
        assert all(each is not None for each in found[1])
        for plain, reused in zip(*found, strict=True):
            torch.testing.assert_close(reused, plain, rtol=1e-5, atol=1e-7)

    def test_between_measurements_nothing_differs(self) -> None:
        found = []
        for reuse in (False, True):
            distiller = make()
            distiller.balance.reuse = reuse
            state = {"norms": torch.tensor([1.0, 0.5, 0.25]), "seen": torch.tensor(FIRST + 1)}
            distiller.balance.load_state_dict(state)
            found.append(self.gradients(distiller))
        assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))

    def test_a_term_with_a_weight_of_its_own_is_no_part_of_it(self) -> None:
        found = []
        for reuse in (False, True):
            distiller = make(fixed=Term(PixelKD(temperature=4.0), weight=0.25))
            distiller.balance.reuse = reuse
            found.append(self.gradients(distiller))
        assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))

    def test_a_hook_on_a_parameter_works_once(self) -> None:
        found = []
        for reuse in (False, True):
            distiller = make()
            distiller.balance.reuse = reuse
            next(distiller.student.parameters()).register_hook(lambda gradient: 2 * gradient)
            found.append(self.gradients(distiller))
        assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))

    def test_gradients_add_up_over_steps_and_reach_other_leaves(self) -> None:
        distiller = make()
        distiller.balance.reuse = True
        images = IMAGES.clone().requires_grad_()
        loss = distiller(images, MASKS).loss
        loss.backward(retain_graph=True)
        once = [images.grad.clone(), *(each.grad.clone() for each in distiller.student.parameters())]
        assert all(each.abs().sum() > 0 for each in once)
        loss.backward()
        twice = [images.grad, *(each.grad for each in distiller.student.parameters())]
        for a, b in zip(once, twice, strict=True):
            torch.testing.assert_close(2 * a, b)

    def test_a_batch_without_labels_and_a_term_without_gradient(self) -> None:
        distiller = make()
        distiller.balance.reuse = True
        distiller(IMAGES, None).loss.backward()
        assert all(each.grad.isfinite().all() for each in distiller.student.parameters())
        idle = Distiller(Net(), Net(), {"none": Term(nothing, share=1.0)}, cross_entropy())
        idle.balance.reuse = True
        with pytest.warns(UserWarning, match="has no gradient"):
            idle(IMAGES, MASKS).loss.backward()
        assert all(each.grad.isfinite().all() for each in idle.student.parameters())


@pytest.mark.slow
def test_compiled_the_gradients_are_the_same() -> None:
    found = []
    for reuse in (False, True):
        distiller = make()
        distiller.balance.reuse = reuse
        distiller.compile(backend="aot_eager")
        distiller(IMAGES, MASKS).loss.backward()
        found.append([each.grad for each in distiller.parameters() if each.requires_grad])
    for plain, reused in zip(*found, strict=True):
        torch.testing.assert_close(reused, plain, rtol=1e-4, atol=1e-6)


def worker(rank: int, folder: Path) -> None:
    found = []
    for reuse in (False, True):
        distiller = make()
        distiller.balance.reuse = reuse
        half = slice(2 * rank, 2 * rank + 2)
        wrapped = DistributedDataParallel(distiller)
        wrapped(IMAGES[half], MASKS[half]).loss.backward()
        found.append([each.grad for each in distiller.parameters() if each.requires_grad])
    torch.save(found, folder / f"{rank}.pt")


@pytest.mark.slow
def test_processes_average_the_gradients(tmp_path: Path) -> None:
    in_two_processes(worker, tmp_path)
    one, other = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    for plain, reused, elsewhere in zip(*one, other[1], strict=True):
        torch.testing.assert_close(reused, plain, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(reused, elsewhere, rtol=0, atol=0)


def test_leaves_are_found_whatever_lies_between() -> None:
    first, second, fixed = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True), torch.ones(3)
    deep = first
    for _ in range(3000):  # deeper than Python may recurse
        deep = deep * 1.0
    alone = torch.ones((), requires_grad=True)
    values = [(deep + fixed).sum(), (second * first).sum(), fixed.sum(), alone]
    assert {id(leaf) for leaf in leaves_of(values)} == {id(first), id(second), id(alone)}
