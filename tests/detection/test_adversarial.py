"""Images that fool a detector: near their own, made of what each says alone, read by terms and kept by view."""

import doctest
from pathlib import Path
from typing import Any

import pytest
import torch
from detection.detectors import FAMILIES, batch, distil
from detection.methods.base import tiny
from recipe import normal
from torch import Tensor, nn

from segkd import Term
from segkd.detection import adversarial
from segkd.detection.adversarial import adversarial_images, fooling_image
from segkd.detection.methods import InconsistentKD
from segkd.detection.stored import StoredDetector
from segkd.errors import SegkdError
from segkd.losses import PKD
from segkd.store import Kept
from segkd.store.store import Store

IMAGES, TARGETS = batch()
TERMS = {"own": Term(InconsistentKD()), "clean": Term(InconsistentKD(), student="fpn", teacher="fpn")}


def task(x: Tensor) -> Tensor:
    return (2 * x).sin().sum()


class TestImages:
    def test_stay_near_the_image_and_in_its_channels_range(self) -> None:
        clean = normal(0, [2, 3, 5, 6]) * torch.tensor([1.0, 3.0]).view(2, 1, 1, 1)
        found = adversarial_images(clean, task, steps=9)
        low, high = clean.amin((2, 3), keepdim=True), clean.amax((2, 3), keepdim=True)
        widest = (high - low).amax(1, keepdim=True)
        assert ((found - clean).abs() <= 8 / 255 * widest + 1e-12).all()
        assert ((found >= low) & (found <= high)).all()
        assert task(found) > task(clean)
        assert not found.requires_grad
        # Each image is changed by what it says of itself alone.
        torch.testing.assert_close(adversarial_images(clean[:1], task, steps=9), found[:1])

    def test_without_steps_or_gradient_they_are_the_images(self) -> None:
        clean = normal(0, [1, 3, 4, 4])
        assert torch.equal(adversarial_images(clean, task, steps=0), clean)
        assert torch.equal(adversarial_images(clean, lambda x: 0 * x.sum()), clean)
        with torch.no_grad():  # as whoever fills a store does
            assert not torch.equal(adversarial_images(clean, task), clean)

    def test_the_docstring_examples_hold(self) -> None:
        assert doctest.testmod(adversarial).failed == 0


def loss_of(model: Any, image: Tensor, target: dict[str, Tensor]) -> Tensor:
    """The classification loss that the detector itself gives in training."""
    loss: Tensor = model.train()([image], [target])["classification"]
    model.eval()
    return loss


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_detector_is_wrong_about_them(kind: str) -> None:
    teacher = tiny(kind, 1).eval()
    for image, target in zip(IMAGES, TARGETS, strict=True):
        found = fooling_image(teacher, image, target)
        steps = found * 255
        torch.testing.assert_close(steps, steps.round())
        assert found.shape == image.shape
        # The widest range of a channel is that of the normalised image.
        std = torch.tensor(teacher.transform.image_std)
        most = 8 / 255 * ((image.amax((1, 2)) - image.amin((1, 2))) / std).max() * std + 0.5 / 255 + 1e-6
        assert ((found - image).abs().amax((1, 2)) > 0).all()
        assert ((found - image).abs().amax((1, 2)) <= most).all()
        assert loss_of(teacher, found, target) > loss_of(teacher, image, target)


def test_terms_read_both_models_on_them() -> None:
    distiller = distil(tiny("gfl", 0), tiny("gfl", 1), TERMS)
    own = distiller(IMAGES, TARGETS).terms
    made = [fooling_image(distiller.teacher, *pair) for pair in zip(IMAGES, TARGETS, strict=True)]
    given = [{**target, "adversarial": image} for target, image in zip(TARGETS, made, strict=True)]
    assert distiller(IMAGES, given).terms == own
    # On images that are no others they are what is read at "fpn"; the clean ones never change.
    same = [{**target, "adversarial": image} for target, image in zip(TARGETS, IMAGES, strict=True)]
    terms = distiller(IMAGES, same).terms
    torch.testing.assert_close(terms["own"], terms["clean"])
    assert terms["clean"] == own["clean"] != own["own"]
    assert terms["task"] == own["task"]
    # What they are is what the detector's clean run of them gives.
    torch.testing.assert_close(distiller(made, TARGETS).terms["clean"], own["own"])


def test_what_they_cannot_be_of_is_said() -> None:
    with pytest.raises(SegkdError, match="'own' reads 'adversarial': of one teacher, which is a one-stage detector"):
        distil(tiny("gfl", 0), tiny("faster_rcnn", 1), {"own": Term(InconsistentKD())})
    with pytest.raises(SegkdError, match="'own' reads 'adversarial': of one teacher"):
        distil(tiny("gfl", 0), tiny("gfl", 1), {"own": Term(InconsistentKD(), teacher="fpn")})
    model = tiny("gfl", 0)
    path = next(name for name, each in model.backbone.named_modules() if isinstance(each, nn.Conv2d))
    module = Term(PKD(), student=f"backbone.{path}", teacher=f"backbone.{path}")
    with pytest.raises(SegkdError, match=f"'backbone.{path}' runs twice: read no module"):
        distil(model, tiny("gfl", 1), {"own": Term(InconsistentKD()), "pkd": module})
    distiller = distil(model, tiny("gfl", 1), {"own": Term(InconsistentKD())})
    with pytest.raises(SegkdError, match="made of labels, and this batch has none"):
        distiller(IMAGES, None)
    with pytest.raises(SegkdError, match=r"targets\[0\]\['adversarial'\] must be of images\[0\]'s shape .*\(3, 8, 8\)"):
        distiller(IMAGES, [{**TARGETS[0], "adversarial": torch.zeros(3, 8, 8)}, TARGETS[1]])


@pytest.mark.parametrize("dtype", ["auto", "int8", "float16"])
def test_what_is_kept_is_read_by_view_if_the_labels_are_the_same(tmp_path: Path, dtype: Kept) -> None:
    distiller = distil(tiny("gfl", 0), StoredDetector(tiny("gfl", 1)), {"own": Term(InconsistentKD())})
    targets = [{**target, "boxes": target["boxes"] + 1 / 3} for target in TARGETS]  # no type but float32 has these
    (teacher,), views = distiller.teachers.values(), [(0, 7), (3, 2)]
    own = distiller(IMAGES, targets, views=views).terms["own"]
    teacher.entries = Store(tmp_path, dtype)
    found = teacher.keep(IMAGES, ["adversarial"], targets)["adversarial"]
    for number, view in enumerate(views):
        teacher.entries.write(view, {"adversarial": {key: value[number] for key, value in found.items()}})
    assert distiller(IMAGES, targets, views=views).terms["own"] == own
    assert all("adversarial" in target for target in teacher.complete(targets, torch.tensor(views)))
    changed = [targets[0], {**targets[1], "labels": 3 - targets[1]["labels"]}]
    kept = teacher.complete(changed, views)
    assert ["adversarial" in target for target in kept] == [True, False]
    assert ["adversarial" in target for target in teacher.complete(targets, [(0, 7), (0, 8)])] == [True, False]
