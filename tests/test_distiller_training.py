"""The distiller in a training loop: precision, accumulation, batches without labels, compilation, several processes."""

import copy
from pathlib import Path

import pytest
import torch
from nets import CLASSES, Net, WithAux, batch, cross_entropy, seeded
from processes import in_two_processes
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from segkd import Distiller, Term
from segkd.losses import CWD, ICSD, PKD, PixelKD
from segkd.schedules import alw
from segkd.segmentation.task_losses import OHEM, Focal, Sum
from segkd.weighting import RelativeDifficulty

IMAGES, MASKS = batch(4)
LABELLED = MASKS.masked_fill(MASKS == 255, 0)
"""As many labels in each part of the batch, so that the parts' means average to the whole's."""


def make(
    norm: bool = True,
    task_loss: nn.Module | None = None,
    ignore_index: int | None = None,
    **arguments: object,
) -> Distiller:
    terms = {
        "icsd": Term(ICSD(ignore_index=ignore_index), weight=0.1),
        "kd": Term(PixelKD(ignore_index=ignore_index), weight=2.0),
        "features": Term(CWD(), student="encoder", teacher="encoder", weight=3.0, connector="conv1x1"),
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Distiller(
            Net(norm=norm),
            WithAux(width=9),
            terms,
            task_loss or cross_entropy(),
            schedule=alw(rise=("task", "icsd"), fall=("kd",)),
            **arguments,  # type: ignore[arg-type]
        )


def gradients(module: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.grad.clone() for name, parameter in module.named_parameters()}


def test_a_loop_of_ones_own_lowers_the_loss() -> None:
    distiller = make()
    optimizer = torch.optim.SGD(distiller.parameters(), lr=0.05, momentum=0.9)
    distiller.train()
    losses, steps = [], 30
    for step in range(steps):
        out = distiller(IMAGES, MASKS, progress=step / steps)
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        losses.append({name: float(value) for name, value in out.terms.items()})
    for name in ("kd", "features"):
        assert losses[-1][name] < 0.7 * losses[0][name], name


def test_gradient_accumulation_equals_one_batch() -> None:
    # Terms that average over the images, and a student without batch norm.
    student, teacher = seeded(Net, 0, norm=False), seeded(Net, 1)
    terms = {"icsd": Term(ICSD()), "kd": Term(PixelKD()), "cwd": Term(CWD(), student="encoder", teacher="encoder")}
    distiller = Distiller(student, teacher, terms, cross_entropy())
    distiller(IMAGES, LABELLED).loss.backward()
    whole = gradients(student)
    distiller.zero_grad()
    for half in (slice(0, 2), slice(2, 4)):
        (distiller(IMAGES[half], LABELLED[half]).loss / 2).backward()
    for name, gradient in gradients(student).items():
        torch.testing.assert_close(gradient, whole[name], msg=name)


class TestPrecision:
    def test_bfloat16_autocast_is_close_to_float32(self) -> None:
        distiller = make(pixel_weighting=RelativeDifficulty()).eval()
        for progress in (0.05, 0.5):
            full = distiller(IMAGES, MASKS, progress=progress)
            with torch.autocast("cpu", torch.bfloat16):
                out = distiller(IMAGES, MASKS, progress=progress)
            assert out.student.dtype == torch.bfloat16
            assert {value.dtype for value in [out.loss, *out.terms.values()]} == {torch.float32}
            for name, value in full.terms.items():
                torch.testing.assert_close(out.terms[name], value, rtol=0.05, atol=0.01, msg=name)
            out.loss.backward()
            assert all(torch.isfinite(g).all() and g.dtype == torch.float32 for g in gradients(distiller).values())

    @pytest.mark.parametrize("progress", [0.05, 0.5])
    def test_logits_far_apart_give_no_nan(self, progress: float) -> None:
        distiller = make(pixel_weighting=RelativeDifficulty())
        with torch.no_grad():
            for model in (distiller.student, distiller.teacher):
                model.head.weight.mul_(1e4)
        out = distiller(IMAGES, MASKS, progress=progress)
        out.loss.backward()
        assert torch.isfinite(out.loss)
        assert all(torch.isfinite(gradient).all() for gradient in gradients(distiller).values())


class TestBatchesWithoutLabels:
    MASKS = torch.full_like(MASKS, 255)

    @pytest.mark.parametrize("variant", ["paper", "released"])
    @pytest.mark.parametrize("progress", [0.05, 0.5])
    def test_relative_difficulty(self, progress: float, variant: str) -> None:
        self.check(make(pixel_weighting=RelativeDifficulty(variant=variant)), progress)  # type: ignore[arg-type]

    def test_cross_entropy(self) -> None:
        self.check(make(), 0.5)

    @pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
    @pytest.mark.parametrize("ignored", [0.0, 0.5, 1.0])
    def test_labels_whose_class_weights_are_all_zero(self, ignored: float, label_smoothing: float) -> None:
        weight = torch.tensor([1.0, 0.0, 0.0, *[2.0] * (CLASSES - 3)])
        loss = nn.CrossEntropyLoss(weight=weight, ignore_index=255, label_smoothing=label_smoothing)
        masks = torch.where(torch.rand(MASKS.shape) < ignored, 255, 1 + MASKS % 2)
        terms = {"icsd": Term(ICSD(ignore_index=255))}
        self.check(Distiller(seeded(Net, 0), seeded(Net, 1), terms, loss), 0.5, masks)
        # One label that counts, and it is the loss of that label.
        masks[0, 0, 0] = 0
        student = seeded(Net, 0)
        out = Distiller(student, None, {}, loss)(IMAGES, masks)
        torch.testing.assert_close(out.loss, loss(student(IMAGES), masks))
        assert out.loss > 0

    def check(self, distiller: Distiller, progress: float, masks: Tensor = MASKS) -> None:
        out = distiller(IMAGES, masks, progress=progress)
        assert out.terms["task"] == 0
        assert torch.isfinite(out.loss)
        out.loss.backward()
        assert all(torch.isfinite(gradient).all() for gradient in gradients(distiller).values())

    def test_without_teacher_nothing_moves(self) -> None:
        student = seeded(Net, 0)
        out = Distiller(student, None, {}, cross_entropy())(IMAGES, self.MASKS)
        out.loss.backward()
        assert out.loss == 0
        assert all((gradient == 0).all() for gradient in gradients(student).values())

    def test_class_weights_and_ignored_images_among_labelled_ones(self) -> None:
        masks = MASKS.clone()
        masks[0] = 255
        loss = nn.CrossEntropyLoss(weight=torch.rand(CLASSES), ignore_index=255)
        distiller = Distiller(seeded(Net, 0), seeded(Net, 1), {"icsd": Term(ICSD(ignore_index=255))}, loss)
        out = distiller(IMAGES, masks)
        out.loss.backward()
        assert torch.isfinite(out.loss)
        assert all(torch.isfinite(gradient).all() for gradient in gradients(distiller).values())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_labels_of_any_integer_type(dtype: torch.dtype) -> None:
    masks = MASKS.clone()
    masks[0, :2] = 255
    loss = nn.CrossEntropyLoss(weight=torch.arange(1.0, CLASSES + 1), ignore_index=255)
    terms = {name: Term(of(ignore_index=255)) for name, of in {"icsd": ICSD, "kd": PixelKD, "cwd": CWD}.items()}
    terms["own"] = Term(lambda student, teacher, target: nn.functional.cross_entropy(student, target, ignore_index=255))
    for weighting in (None, RelativeDifficulty(switch=0)):
        distiller = Distiller(seeded(Net, 0), seeded(Net, 1), terms, loss, weighting).eval()
        out = distiller(IMAGES, masks.to(dtype), progress=0.5)
        torch.testing.assert_close(out.terms, distiller(IMAGES, masks, progress=0.5).terms)


@pytest.mark.slow
class TestCompiled:
    def test_equals_eager_without_graph_break(self) -> None:
        torch._dynamo.reset()
        eager = make(pixel_weighting=RelativeDifficulty())
        twin = copy.deepcopy(eager)
        compiled = torch.compile(twin, fullgraph=True)
        for progress in (0.05, 0.5):
            for distiller in (eager, twin):
                distiller.zero_grad()
            expected = eager(IMAGES, MASKS, progress=progress)
            out = compiled(IMAGES, MASKS, progress=progress)
            assert out.weights == pytest.approx(expected.weights)
            torch.testing.assert_close(out.loss, expected.loss)
            for name, value in expected.terms.items():
                torch.testing.assert_close(out.terms[name], value, msg=name)
            expected.loss.backward()
            out.loss.backward()
            theirs = gradients(twin)
            for name, gradient in gradients(eager).items():
                torch.testing.assert_close(theirs[name], gradient, rtol=1e-4, atol=1e-5, msg=name)

    def test_progress_does_not_compile_anew_at_each_step(self) -> None:
        torch._dynamo.reset()
        compilations = []

        def backend(graph: torch.fx.GraphModule, example: object) -> object:
            compilations.append(graph)
            return graph.forward

        compiled = torch.compile(make(pixel_weighting=RelativeDifficulty()), backend=backend, fullgraph=True)
        for step in range(20):
            compiled(IMAGES, MASKS, progress=step / 20)
        assert len(compilations) <= 5


def unequal() -> Tensor:
    """Labels of which the second half of the batch has few."""
    masks = MASKS.clone()
    masks[2], masks[3, 2:] = 255, 255
    return masks


def counting(weighting: str) -> Distiller:
    """Return a distiller whose means are over labelled pixels; no batch norm: its statistics are each process's own."""
    class_weights = torch.arange(1.0, CLASSES + 1) if weighting == "classes" else None
    # A limit on the probability alone: the k-th smallest is each process's own.
    mined = Sum([(1.0, OHEM(threshold=0.2, min_kept=0)), (0.5, Focal()), (1.0, nn.CrossEntropyLoss(ignore_index=255))])
    return make(
        norm=False,
        task_loss=mined if weighting == "mined" else nn.CrossEntropyLoss(weight=class_weights, ignore_index=255),
        ignore_index=255,
        pixel_weighting=RelativeDifficulty(normalize="kept", transition="linear") if weighting == "rdd" else None,
    )


WEIGHTINGS = ["none", "classes", "rdd", "mined"]


def worker(rank: int, folder: Path) -> None:
    """Run one step on this process's half of the batch and keep the gradients."""
    for weighting in WEIGHTINGS:
        distiller = counting(weighting)
        wrapped = DistributedDataParallel(distiller)
        half = slice(2 * rank, 2 * rank + 2)
        for progress in (0.2, 0.6):
            wrapped(IMAGES[half], unequal()[half], progress=progress).loss.backward()
        assert not any(parameter.requires_grad for parameter in wrapped.module.teacher.parameters())
        torch.save(gradients(distiller), folder / f"{weighting}{rank}.pt")
        if rank == 0:  # what one process alone looks at waits for no other
            with torch.no_grad():
                distiller(IMAGES, MASKS, progress=0.5)


@pytest.mark.slow
def test_two_processes_equal_one_on_the_joined_batch(tmp_path: Path) -> None:
    in_two_processes(worker, tmp_path)
    for weighting in WEIGHTINGS:
        single = counting(weighting)
        for progress in (0.2, 0.6):
            single(IMAGES, unequal(), progress=progress).loss.backward()
        expected = gradients(single)
        for rank in range(2):
            theirs = torch.load(tmp_path / f"{weighting}{rank}.pt", weights_only=True)
            assert set(theirs) == set(expected)
            for name, gradient in expected.items():
                message = f"{weighting}, {name}"
                torch.testing.assert_close(theirs[name], gradient, rtol=1e-4, atol=1e-6, msg=message)


def test_the_example_of_the_readme_kind() -> None:
    """Fifteen lines with nothing but torch and two models of one's own."""
    student, teacher = seeded(Net, 0), seeded(Net, 1, width=9)
    distiller = Distiller(
        student,
        teacher,
        terms={
            "icsd": Term(ICSD(), weight=1.0),
            "kd": Term(PixelKD(temperature=1.0), weight=10.0),
            "pkd": Term(PKD(), student="encoder.2", teacher="encoder.2", weight=6.0, connector="conv1x1"),
        },
        task_loss=torch.nn.CrossEntropyLoss(ignore_index=255),
        schedule=alw(rise=("task", "icsd"), fall=("kd",)),
    )
    optimizer = torch.optim.AdamW(distiller.parameters(), lr=1e-3)
    for step in range(4):
        out = distiller(*batch(2, seed=step), progress=step / 4)
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
    assert out.weights == pytest.approx({"task": 0.75, "icsd": 0.75, "kd": 2.5, "pkd": 6.0})
    fresh = Net()
    fresh.load_state_dict(distiller.student.state_dict())  # what is saved is the student, under its own names
