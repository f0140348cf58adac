"""Shares: the weight that gives a term's gradient a share of the task loss's, whatever trains it."""

import copy
import math
from pathlib import Path

import pytest
import torch
from nets import Net, batch, cross_entropy
from processes import in_two_processes
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from segkd import Distiller, Term
from segkd.balance import EVERY, FIRST, Balance
from segkd.errors import SegkdError
from segkd.losses import CWD, PixelKD
from segkd.schedules import Linear

IMAGES, MASKS = batch(4)


def make(share: float = 0.5, **arguments: object) -> Distiller:
    torch.manual_seed(0)
    terms = {
        "kd": Term(PixelKD(), share=share),
        "features": Term(CWD(), student="encoder", teacher="encoder", share=2 * share, connector="conv1x1"),
        "fixed": Term(PixelKD(temperature=4.0), weight=0.25),
    }
    return Distiller(Net(), Net(width=9), terms, cross_entropy(), **arguments)  # type: ignore[arg-type]


def norm(value: Tensor, student: nn.Module) -> float:
    gradients = torch.autograd.grad(value, list(student.parameters()), retain_graph=True, allow_unused=True)
    return math.sqrt(sum(float(each.double().square().sum()) for each in gradients if each is not None))


def norms(distiller: Distiller, images: Tensor = IMAGES, masks: Tensor = MASKS) -> dict[str, float]:
    """Measure each term by itself, with all other weights 0."""
    plain = copy.deepcopy(distiller)
    student, teacher = plain.student, plain.teacher
    found = {"task": norm(plain.task_loss(student(images), masks), student)}
    with torch.no_grad():
        logits, features = teacher(images), teacher.encoder(images)
    found["kd"] = norm(PixelKD()(student(images), logits), student)
    connected = plain.connectors["features"](student.encoder(images))
    return {**found, "features": norm(CWD()(connected, features), student)}


def test_a_terms_gradient_has_its_share_of_the_task_losss() -> None:
    distiller = make()
    expected = norms(distiller)
    out = distiller(IMAGES, MASKS)
    assert out.weights["task"] == 1.0
    assert out.weights["fixed"] == 0.25
    assert out.weights["kd"] == pytest.approx(0.5 * expected["task"] / expected["kd"], rel=1e-5)
    assert out.weights["features"] == pytest.approx(1.0 * expected["task"] / expected["features"], rel=1e-5)
    total = sum(out.weights[name] * value for name, value in out.terms.items())
    torch.testing.assert_close(out.loss.detach(), total)
    assert not any(parameter.grad is not None for parameter in distiller.parameters())


def test_norms_are_exponential_means_measured_at_first_and_then_seldom() -> None:
    distiller, kept = make(), []
    means: dict[str, float] = {}
    for step in range(FIRST + EVERY + 2):
        images, masks = batch(4, seed=step)
        due = step < FIRST or step % EVERY == 0
        if due:
            now = norms(distiller, images, masks)
            means = {name: 0.9 * means[name] + 0.1 * value if means else value for name, value in now.items()}
        kept.append(distiller(images, masks).weights["kd"])
        assert kept[-1] == pytest.approx(0.5 * means["task"] / means["kd"], rel=1e-4)
    assert len(set(kept)) == FIRST + 1
    assert distiller.balance is not None
    assert distiller.balance.gradients() == pytest.approx(means, rel=1e-4)


def test_a_schedule_multiplies_the_share_and_a_task_weight_the_task_loss() -> None:
    plain = make()(IMAGES, MASKS).weights
    out = make(task_weight=2.0, schedule={"kd": Linear(0.5, 0.5), "task": Linear(0.1, 0.1)})
    weights = out(IMAGES, MASKS, progress=0.5).weights
    assert weights["kd"] == pytest.approx(2 * 0.5 * plain["kd"])
    assert weights["features"] == pytest.approx(2 * plain["features"])
    assert weights["task"] == pytest.approx(0.2)


def test_the_state_goes_on_where_it_stood() -> None:
    one, other = make(), make()
    for step in range(5):
        one(*batch(4, seed=step))
    other.load_state_dict(one.state_dict())
    images, masks = batch(4, seed=9)
    assert one(images, masks).weights == other(images, masks).weights
    assert int(other.balance.seen) == 6


def test_without_gradient_nothing_is_measured_or_counted() -> None:
    distiller = make().eval()
    with torch.no_grad():
        weights = distiller(IMAGES, MASKS).weights
    assert (weights["kd"], weights["features"]) == (0.5, 1.0)
    assert int(distiller.balance.seen) == 0
    assert distiller.balance.gradients() == {}


def test_a_batch_without_labels_leaves_the_task_losss_norm_as_it_was() -> None:
    distiller = make()
    distiller(IMAGES, MASKS)
    before = distiller.balance.gradients()
    for target, labelled in ((None, None), (MASKS, torch.zeros(4, dtype=torch.bool))):
        out = distiller(IMAGES, target, labelled=labelled)
        assert math.isfinite(out.weights["kd"])
        assert distiller.balance.gradients()["task"] == before["task"]
    assert int(distiller.balance.seen) == 3


def test_a_first_batch_whose_labels_are_all_ignored_measures_no_task_loss() -> None:
    distiller = make()
    out = distiller(IMAGES, torch.full_like(MASKS, 255))
    assert "task" not in distiller.balance.gradients()
    assert (out.weights["kd"], out.weights["features"]) == (0.5, 1.0)
    expected = norms(distiller)["task"]
    distiller(IMAGES, MASKS)
    assert distiller.balance.gradients()["task"] == pytest.approx(expected, rel=1e-5)
    distiller(IMAGES, torch.full_like(MASKS, 255))
    assert distiller.balance.gradients()["task"] == pytest.approx(expected, rel=1e-5)


def nothing(student: Tensor, teacher: Tensor, target: Tensor | None = None) -> Tensor:
    return 0.0 * student.sum()


def test_a_term_without_gradient_has_weight_0_and_that_is_said_once() -> None:
    for loss in (nothing, lambda student, teacher, target: student.detach().sum()):
        distiller = Distiller(Net(), Net(), {"none": Term(loss, share=1.0)}, cross_entropy())
        with pytest.warns(UserWarning, match="term 'none' has no gradient on the student's parameters") as said:
            outs = [distiller(IMAGES, MASKS) for _ in range(3)]
        assert len(said) == 1
        assert [out.weights["none"] for out in outs] == [0.0] * 3
        outs[-1].loss.backward()
        assert all(parameter.grad.isfinite().all() for parameter in distiller.student.parameters())


@pytest.mark.parametrize("share", [-0.1, math.nan, math.inf])
def test_a_share_is_finite_and_at_least_0(share: float) -> None:
    with pytest.raises(SegkdError, match="share must be finite and at least 0"):
        Term(PixelKD(), share=share)


def test_a_weight_beside_a_share_is_refused() -> None:
    with pytest.raises(SegkdError, match="a weight or a share, not both"):
        Term(PixelKD(), weight=2.0, share=0.5)
    with pytest.raises(SegkdError, match="share of the task loss's gradient: task_weight is 0"):
        make(task_weight=0.0)


def test_a_share_of_0_takes_the_term_out() -> None:
    distiller = make(share=0.0)
    out = distiller(IMAGES, MASKS)
    assert out.weights["kd"] == 0.0


def test_without_shares_there_is_no_state() -> None:
    distiller = Distiller(Net(), Net(), {"kd": Term(PixelKD())}, cross_entropy())
    assert distiller.balance is None
    assert not any("balance" in key for key in distiller.state_dict())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_weights_are_about_the_same(dtype: torch.dtype) -> None:
    plain = make()(IMAGES, MASKS).weights
    with torch.autocast("cpu", dtype=dtype):
        weights = make()(IMAGES, MASKS).weights
    assert weights == pytest.approx(plain, rel=0.05)


def test_a_measurement_changes_no_gradient() -> None:
    measured, fixed = make(), make()
    weights = measured(IMAGES, MASKS).weights
    for name in ("kd", "features"):
        fixed.terms[name].weight = weights[name]
    fixed.balance = None
    measured.balance.load_state_dict(Balance(measured.balance.shares).state_dict())
    gradients = []
    for distiller in (measured, fixed):
        distiller.student.load_state_dict(make().student.state_dict())
        distiller(IMAGES, MASKS).loss.backward()
        gradients.append([parameter.grad for parameter in distiller.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_it_measures_the_same_and_compiles_once(backend: str) -> None:
    plain, compiled = make(), make()
    compiled.compile(backend=backend)
    torch._dynamo.utils.counters.clear()
    for step in range(FIRST + 3):
        images, masks = batch(4, seed=step)
        outs = [distiller(images, masks, progress=step / 100) for distiller in (plain, compiled)]
        assert outs[0].weights == pytest.approx(outs[1].weights, rel=1e-3)
        for out in outs:
            out.loss.backward()
    for a, b in zip(plain.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-4)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 6


def worker(rank: int, folder: Path) -> None:
    distiller = without_batch_norm()
    wrapped = DistributedDataParallel(distiller)
    half = slice(2 * rank, 2 * rank + 2)
    both = wrapped(IMAGES[half], MASKS[half])
    both.loss.backward()
    # One process has labels, the other none: both measure, and neither waits for ever.
    labelled = torch.tensor([rank == 0, False])
    later = wrapped(IMAGES[half], MASKS[half], labelled=labelled)
    found = [both.weights, later.weights, distiller.balance.gradients()]
    # Both, then one of them, have ignored labels alone: each process decides alike.
    for ignored in ((True, True), (True, False)):
        wrapped(IMAGES[half], MASKS[half].masked_fill(torch.tensor(ignored[rank]), 255))
        found.append(distiller.balance.gradients())
    torch.save(found, folder / f"{rank}.pt")


def without_batch_norm() -> Distiller:
    torch.manual_seed(0)
    student, teacher = Net(norm=False), Net(width=9, norm=False)
    return Distiller(student, teacher, {"kd": Term(PixelKD(), share=0.5)}, cross_entropy())


@pytest.mark.slow
def test_processes_average_their_norms(tmp_path: Path) -> None:
    in_two_processes(worker, tmp_path)
    of_both = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    assert of_both[0] == of_both[1]
    halves = []
    for rank in range(2):
        half = slice(2 * rank, 2 * rank + 2)
        single = without_batch_norm()
        single(IMAGES[half], MASKS[half])
        halves.append(single.balance.gradients())
    kd = sum(each["kd"] for each in halves) / 2
    # Each process's task loss counts for the labels that it has.
    shares = [float((MASKS[2 * rank : 2 * rank + 2] != 255).sum()) for rank in range(2)]
    task = sum(each["task"] * share / (sum(shares) / 2) for each, share in zip(halves, shares, strict=True)) / 2
    assert of_both[0][0]["kd"] == pytest.approx(0.5 * task / kd, rel=1e-4)
    assert all(math.isfinite(value) for value in of_both[0][1].values())
    before, ignored, after = (gradients["task"] for gradients in of_both[0][2:])
    assert ignored == before != after
