"""Steps of a distiller of detectors: precision, batches without boxes, accumulation, connectors, several processes."""

import copy
from pathlib import Path

import pytest
import torch
from detection.detectors import FAMILIES, NO_BOXES, OTHER, WiderFPN, assert_sound, batch, crosskd, detector, distil, pkd
from processes import in_two_processes
from torch.nn.parallel import DistributedDataParallel

from segkd import Distiller

IMAGES, TARGETS = batch()


@pytest.mark.parametrize("kind", FAMILIES)
def test_crosskd_with_pkd_and_different_backbones_and_normalisation(kind: str) -> None:
    student, teacher = detector(kind), detector(kind, 1, backbone=WiderFPN(), **OTHER)
    before = copy.deepcopy(teacher.state_dict())
    distiller = distil(student, teacher, crosskd() | pkd())
    distiller.train()
    out = distiller(IMAGES, TARGETS)
    assert all(value > 0 for value in out.terms.values())
    assert_sound(distiller, out)
    assert not any(module.training for module in teacher.modules())
    torch.testing.assert_close(teacher.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize("kind", FAMILIES)
def test_without_boxes(kind: str) -> None:
    distiller = distil(detector(kind), detector(kind, 1), crosskd() | pkd())
    for targets in ([NO_BOXES] * 2, [NO_BOXES, {key: TARGETS[1][key] for key in NO_BOXES}]):
        assert_sound(distiller, distiller(IMAGES, targets))


@pytest.mark.parametrize("kind", FAMILIES)
def test_one_small_image(kind: str) -> None:
    distiller = distil(detector(kind, min_size=64), detector(kind, 1), crosskd() | pkd())
    out = distiller(
        [torch.rand(3, 64, 64)], [{"boxes": torch.tensor([[4.0, 8.0, 60.0, 60.0]]), "labels": torch.tensor([1])}]
    )
    assert out.student.maps[128].shape[2:] == (1, 1)
    assert_sound(distiller, out)


@pytest.mark.parametrize("kind", [*FAMILIES, "faster_rcnn"])
def test_bfloat16_autocast(kind: str) -> None:
    terms = pkd() if kind == "faster_rcnn" else crosskd() | pkd()
    distiller = distil(detector(kind), detector(kind, 1), terms)
    torch.manual_seed(0)
    full = distiller(IMAGES, TARGETS)
    with torch.autocast("cpu", torch.bfloat16):
        torch.manual_seed(0)
        out = distiller(IMAGES, TARGETS)
    assert out.teacher.maps[8].dtype == torch.bfloat16
    assert {value.dtype for value in [out.loss, *out.terms.values(), *out.parts.values()]} == {torch.float32}
    for name, value in full.terms.items():
        torch.testing.assert_close(out.terms[name], value, rtol=0.1, atol=0.02, msg=name)
    assert_sound(distiller, out)


def test_gradient_accumulation() -> None:
    # Statistics are of a batch: two steps are not one of twice the images, but their gradients must add up.
    distiller = distil(detector("gfl"), detector("gfl", 1), crosskd() | pkd())
    gradients = []
    for parts in ((0,), (1,), (0, 1)):
        distiller.zero_grad()
        for part in parts:
            distiller(IMAGES[part : part + 1], TARGETS[part : part + 1]).loss.backward()
        gradients.append([p.grad.clone() for p in distiller.parameters()])
    for first, second, both in zip(*gradients, strict=True):
        torch.testing.assert_close(first + second, both, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", FAMILIES)
def test_other_channels_with_connectors(kind: str) -> None:
    student, teacher = detector(kind), detector(kind, 1, channels=96)
    distiller = distil(student, teacher, crosskd(channels=(64, 96)) | pkd(connector="conv1x1"))
    assert_sound(distiller, distiller(IMAGES, TARGETS))
    own = {name for name in distiller.state_dict() if not name.startswith("student.")}
    assert own == {"losses.class.connector.weight", "losses.box.connector.weight", "connectors.pkd.weight"}


def test_a_short_training_brings_the_heads_together() -> None:
    student, teacher = detector("gfl"), detector("gfl", 1)
    distiller = distil(student, teacher, crosskd() | pkd())
    optimizer = torch.optim.Adam(distiller.parameters(), lr=1e-3)
    history = []
    for _ in range(15):
        out = distiller(IMAGES, TARGETS)
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        history.append(out.terms)
    for name in ("class", "box", "pkd", "task"):
        assert history[-1][name] < 0.9 * history[0][name], name


def test_the_distiller_can_be_copied_and_leaves_no_hook() -> None:
    distiller = distil(detector("fcos"), detector("fcos", 1), crosskd())
    twin = copy.deepcopy(distiller)
    torch.testing.assert_close(twin(IMAGES, TARGETS).loss, distiller(IMAGES, TARGETS).loss)
    assert twin.adapter.transform is twin.student.transform
    assert not any(m._forward_hooks for model in (distiller.student, distiller.teacher) for m in model.modules())


def worker(rank: int, folder: Path) -> None:
    """Run two steps on this process's image and keep the gradients, for factors of each process and of both."""
    for kind in FAMILIES:
        for per_process, images in ((True, IMAGES), (False, TWINS)):
            distiller = ddp_distiller(kind, per_process)
            wrapped = DistributedDataParallel(distiller)
            for targets in (TARGETS, [NO_BOXES, TARGETS[1]]):
                wrapped(images[rank : rank + 1], targets[rank : rank + 1]).loss.backward()
            gradients = {name: parameter.grad for name, parameter in distiller.named_parameters()}
            torch.save(gradients, folder / f"{kind}{per_process}{rank}.pt")


# Of equal images, so that statistics over a batch are the same of one and of both.
TWINS = [IMAGES[1]] * 2


def ddp_distiller(kind: str, per_process: bool) -> Distiller:
    own = {"per_process": per_process} if kind in ("gfl", "atss") else {}
    # torchvision's FCOS divides by the positives of its process.
    task_weight = float(per_process or kind != "fcos")
    with torch.random.fork_rng():
        torch.manual_seed(0)  # of the connectors
        terms = crosskd(channels=(64, 96), per_process=per_process)
        # PKD's deviations are unbiased, so that they depend on how many images there are.
        terms |= pkd(connector="conv1x1") if per_process else {}
        return distil(detector(kind, **own), detector(kind, 1, channels=96), terms, task_weight=task_weight)


@pytest.mark.slow
def test_two_processes_average_their_gradients(tmp_path: Path) -> None:
    in_two_processes(worker, tmp_path)
    for kind in FAMILIES:
        for per_process in (True, False):
            single = ddp_distiller(kind, per_process)
            for targets in (TARGETS, [NO_BOXES, TARGETS[1]]):
                if per_process:
                    for image in (0, 1):
                        (single(IMAGES[image : image + 1], targets[image : image + 1]).loss / 2).backward()
                else:
                    single(TWINS, targets).loss.backward()
            expected = {name: parameter.grad for name, parameter in single.named_parameters()}
            for rank in (0, 1):
                theirs = torch.load(tmp_path / f"{kind}{per_process}{rank}.pt", weights_only=True)
                assert set(theirs) == set(expected)
                for name, gradient in expected.items():
                    difference = (theirs[name] - gradient).norm() / gradient.norm().clamp(min=1e-2)
                    assert difference < 1e-4, f"{kind} {per_process} {name}"
