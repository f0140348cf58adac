"""Logits before the upsampling that a model ends with."""

import copy
import pickle

import pytest
import segmentation_models_pytorch as smp
import torch
from nets import CLASSES, Net, batch, cross_entropy
from torch import Tensor, nn

from segkd import Distiller, Term
from segkd.errors import SegkdError
from segkd.losses import CWD, ICSD, PixelKD
from segkd.network import Network

IMAGES, MASKS = batch(2, size=(64, 64))


def unet_like(encoder: str = "resnet18", arch: str = "FPN") -> nn.Module:
    torch.manual_seed(0)
    return smp.create_model(arch, encoder, encoder_weights=None, classes=CLASSES)


class Upsampled(Net):
    """Its logits go through an upsampling, and so do its features, which are no logits."""

    def __init__(self) -> None:
        super().__init__(stride=2)
        self.of_features, self.of_logits = nn.Upsample(scale_factor=2), nn.Upsample(scale_factor=2, mode="bilinear")

    def forward(self, x: Tensor) -> Tensor:
        features = self.encoder(x)
        self.of_features(features)
        return self.of_logits(self.head(features))


@pytest.mark.parametrize("wrapped", [False, True])
def test_it_is_what_the_head_gives(wrapped: bool) -> None:
    student, teacher = unet_like(), unet_like("resnet34")
    given = [Network(model) if wrapped else model for model in (student, teacher)]
    terms = {"native": Term(PixelKD(), size="native"), "full": Term(PixelKD())}
    distiller = Distiller(*given, terms, cross_entropy()).eval()  # type: ignore[arg-type]
    out = distiller(IMAGES, MASKS)
    native = []
    for model in given:
        inner = model.module if isinstance(model, Network) else model
        with torch.no_grad():
            seen: list[Tensor] = []
            handle = inner.segmentation_head[0].register_forward_hook(lambda *_, seen=seen: seen.append(_[2]))
            model(IMAGES)
            handle.remove()
        native.append(seen[0])
    assert native[0].shape[-1] == 16
    torch.testing.assert_close(out.terms["native"], PixelKD()(*native))
    assert not torch.isclose(out.terms["native"], out.terms["full"])


def test_a_model_without_it_has_its_logits_there() -> None:
    terms = {"native": Term(PixelKD(), size="native"), "full": Term(PixelKD())}
    out = Distiller(Net(), Net(width=9), terms, cross_entropy())(IMAGES, MASKS)
    assert out.terms["native"] == out.terms["full"]


def test_another_upsampling_of_the_model_is_none() -> None:
    torch.manual_seed(0)
    student, teacher = Upsampled(), Net(stride=2)
    distiller = Distiller(student, teacher, {"native": Term(PixelKD(), size="native")}, cross_entropy())
    out = distiller.eval()(IMAGES, MASKS)
    with torch.no_grad():
        expected = PixelKD()(student.head(student.encoder(IMAGES)), teacher(IMAGES))
    torch.testing.assert_close(out.terms["native"], expected)


def test_sizes_that_differ_are_brought_to_the_teachers() -> None:
    distiller = Distiller(unet_like(), Net(stride=2), {"kd": Term(CWD(), size="native")}, cross_entropy())
    assert distiller(IMAGES, MASKS).terms["kd"].isfinite()


def test_the_gradient_reaches_the_student() -> None:
    distiller = Distiller(unet_like(), unet_like("resnet34"), {"i": Term(ICSD(), size="native")}, cross_entropy())
    out = distiller(IMAGES, None)
    out.loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in distiller.student.encoder.parameters())


def test_nothing_is_noted_outside_of_a_step_and_hooks_go() -> None:
    student = unet_like()
    distiller = Distiller(student, unet_like(), {"kd": Term(PixelKD(), size="native")}, cross_entropy())
    distiller(IMAGES, MASKS)
    student(IMAGES)
    assert distiller._student.upsampling.ran is None
    pickle.loads(pickle.dumps(student))
    copy.deepcopy(student)
    distiller.detach_hooks()
    assert not any(module._forward_hooks for module in student.modules())


def test_only_logits_have_it() -> None:
    with pytest.raises(SegkdError, match=r"size='native' is of logits, and this term reads 'encoder' and 'encoder'"):
        Term(CWD(), student="encoder", teacher="encoder", size="native")


@pytest.mark.slow
def test_compiled_equals_eager() -> None:
    distiller = Distiller(unet_like(), unet_like("resnet34"), {"kd": Term(PixelKD(), size="native")}, cross_entropy())
    distiller.eval()
    eager = distiller(IMAGES, MASKS)
    distiller.compile(backend="aot_eager")
    torch.testing.assert_close(distiller(IMAGES, MASKS).terms, eager.terms)
