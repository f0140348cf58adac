"""Logits before the upsampling that a model ends with."""

import copy
import functools
import pickle
from collections.abc import Callable, Collection

import pytest
import segmentation_models_pytorch as smp
import torch
from nets import CLASSES, Net, batch, cross_entropy
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torchvision.models.segmentation import lraspp_mobilenet_v3_large

from segkd import Distiller, Term
from segkd.adapter import Live
from segkd.errors import SegkdError
from segkd.losses import CWD, ICSD, PixelKD
from segkd.network import Network
from segkd.step import View
from segkd.taps import Taps
from segkd.teachers import Stored
from segkd.upsampling import NATIVE, LastUpsampling

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


class Functional(Net):
    """Its forward interpolates: features, which are no logits, and its logits to the size of the images."""

    def __init__(self, options: dict[str, object] | None = None, twice: bool = False) -> None:
        super().__init__(stride=4)
        self.options, self.twice = options or {"mode": "bilinear", "align_corners": False}, twice

    def forward(self, x: Tensor) -> Tensor:
        features = self.encoder(x)
        size = {} if "scale_factor" in self.options or "size" in self.options else {"size": x.shape[-2:]}
        logits = self.head(features)
        if self.twice:
            self.head(2 * features)
        interpolate(features, scale_factor=2)
        return interpolate(logits, **size, **self.options)  # type: ignore[arg-type]


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("options", [None, {"scale_factor": 4.0}, {"mode": "bicubic"}, {"mode": "nearest"}])
def test_a_forward_that_interpolates_is_seen(options: dict[str, object] | None, twice: bool) -> None:
    torch.manual_seed(0)
    student, teacher = Functional(options, twice), Functional(options, twice)
    distiller = Distiller(student, teacher, {"native": Term(PixelKD(), size="native")}, cross_entropy()).eval()
    for size in (64, 36, 64):
        images, masks = batch(2, size=(size, size + 4))
        with torch.no_grad():
            native = [model.head(model.encoder(images)) for model in (student, teacher)]
            assert native[0].shape[-2:] == (size // 4, size // 4 + 1)
            torch.testing.assert_close(distiller(images, masks).terms["native"], PixelKD()(*native))
            assert torch.equal(upsampling(distiller).after(native[1], images), teacher(images))


def upsampling(distiller: Distiller) -> LastUpsampling:
    teacher = distiller.teachers["teacher"]
    assert isinstance(teacher, Live)
    assert teacher.upsampling is not None
    return teacher.upsampling


class Resizing(Functional):
    """It resizes its images to multiples of 32 itself, or to one size."""

    def __init__(self, size: int | None = None) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(interpolate(x, [self.size or -(-side // 32) * 32 for side in x.shape[-2:]]))


@pytest.mark.parametrize("fixed", [None, 64, 96])
def test_a_model_that_resizes_its_images_has_none_where_its_logits_are_not_theirs(fixed: int | None) -> None:
    torch.manual_seed(0)
    terms = {"native": Term(PixelKD(), size="native"), "full": Term(PixelKD())}
    distiller = Distiller(Resizing(fixed), Resizing(fixed), terms, cross_entropy()).eval()
    for size in (64, 40, 64):  # the first as that of the example
        images, masks = batch(2, size=(size, size))
        out = distiller(images, masks)
        logits, native = upsampling(distiller).run(functools.partial(distiller.teacher, images), images)
        assert torch.equal(upsampling(distiller).after(native, images), logits)
    assert out.terms["native"] == out.terms["full"]


def test_torchvisions_models_have_it() -> None:
    torch.manual_seed(0)
    student = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=CLASSES)
    distiller = Distiller(student, Net(), {"kd": Term(PixelKD(), size="native")}, cross_entropy()).eval()
    taps = Taps(student, ["classifier"])
    distiller._student.read(distiller._student.run(IMAGES), [])
    with taps.recording() as found:
        native = distiller._student.read(distiller._student.run(IMAGES), [NATIVE])[NATIVE]
    assert native is found["classifier"][0]
    assert native.shape[-1] == 8


def test_logits_that_are_changed_afterwards_have_none() -> None:
    class Halved(Functional):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) / 2

    terms = {"native": Term(PixelKD(), size="native"), "full": Term(PixelKD())}
    out = Distiller(Halved(), Halved(), terms, cross_entropy()).eval()(IMAGES, MASKS)
    assert out.terms["native"] == out.terms["full"]


def test_a_stored_teacher_upsamples_as_its_model_does() -> None:
    torch.manual_seed(0)
    student, teacher = Functional(), Functional()
    terms = {"native": Term(PixelKD(), size="native"), "full": Term(PixelKD())}
    stored = Stored(copy.deepcopy(teacher))
    live, kept = (Distiller(student, of, terms, cross_entropy()).eval() for of in (teacher, stored))
    of = kept.teachers["teacher"]
    assert isinstance(of, Stored)
    images, masks = batch(2, size=(32, 48))
    logits = of.keep(images, ["logits", NATIVE])["logits"]
    assert logits.shape[-2:] == (8, 12)
    of.entries = Kept({(0, index): {"logits": each} for index, each in enumerate(logits)})
    of.module = nn.Identity()  # which is not asked
    out = kept(images, masks, views=[(0, 0), (0, 1)])
    assert out.terms == live(images, masks).terms


class Kept:
    """Entries in memory."""

    def __init__(self, entries: dict[View, dict[str, Tensor]]) -> None:
        self.entries = entries

    def read(self, view: View, places: Collection[str]) -> dict[str, Tensor]:
        return {place: self.entries[view][place] for place in places}


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
    assert distiller._student.upsampling._noted is None
    pickle.loads(pickle.dumps(student))
    copy.deepcopy(student)
    distiller.detach_hooks()
    assert not any(module._forward_hooks for module in student.modules())


def test_only_logits_have_it() -> None:
    with pytest.raises(SegkdError, match=r"size='native' is of logits, and this term reads 'encoder' and 'encoder'"):
        Term(CWD(), student="encoder", teacher="encoder", size="native")


@pytest.mark.slow
@pytest.mark.parametrize("make", [unet_like, Functional])
def test_compiled_equals_eager(make: Callable[[], nn.Module]) -> None:
    distiller = Distiller(make(), make(), {"kd": Term(PixelKD(), size="native")}, cross_entropy())
    distiller.eval()
    eager = distiller(IMAGES, MASKS)
    distiller.compile(backend="aot_eager")
    torch.testing.assert_close(distiller(IMAGES, MASKS).terms, eager.terms)
