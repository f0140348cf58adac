"""Models of every make, and logits of other sizes and classes than the labels."""

from types import SimpleNamespace

import pytest
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from nets import CLASSES, Net, Twice, WithAux, batch, cross_entropy, seeded
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.segmentation import lraspp_mobilenet_v3_large
from torchvision.models.segmentation.fcn import fcn_resnet50

from segkd import Distiller, Term
from segkd.adapter import Adapter, read_auxiliary, read_logits
from segkd.errors import SegkdError
from segkd.losses import CAMKD, ICSD, PKD, PixelKD
from segkd.models.smp import build_model
from segkd.network import Network
from segkd.weighting import RelativeDifficulty

IMAGES, MASKS = batch()


def upsampled(x: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


class Returns(nn.Module):
    """A model that hands its logits over in a form of its own."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.net, self.form = seeded(Net, 1), form

    def forward(self, x: Tensor) -> object:
        logits = self.net(x)
        return {
            "tensor": logits,
            "tuple": (logits, logits.mean()),
            "list": [logits],
            "out": {"out": logits},
            "logits": {"logits": logits, "loss": None},
            "object": SimpleNamespace(logits=logits),
        }[self.form]


@pytest.mark.parametrize("form", ["tensor", "tuple", "list", "out", "logits", "object"])
def test_every_form_of_output_gives_the_same_step(form: str) -> None:
    terms = {"icsd": Term(ICSD()), "kd": Term(PixelKD())}
    plain = Distiller(seeded(Net, 1).eval(), seeded(Net, 2), terms, cross_entropy())(IMAGES, MASKS)
    student = Returns(form).eval()
    out = Distiller(student, seeded(Net, 2), terms, cross_entropy())(IMAGES, MASKS)
    torch.testing.assert_close(out.loss, plain.loss)
    out.loss.backward()
    assert student.net.head.weight.grad is not None
    teacher = Returns(form)
    reverse = Distiller(seeded(Net, 2).eval(), teacher, terms, cross_entropy())(IMAGES, MASKS)
    torch.testing.assert_close(reverse.terms["kd"], PixelKD()(reverse.student, teacher.net(IMAGES)).detach())


class TestRealModels:
    """Random weights: nothing is fetched."""

    IMAGES, MASKS = batch(2, (64, 96))

    def step(self, student: nn.Module, teacher: nn.Module, **terms: Term) -> None:
        terms = {"icsd": Term(ICSD(), weight=0.01), "kd": Term(PixelKD()), **terms}
        distiller = Distiller(student, teacher, terms, cross_entropy())
        out = distiller(self.IMAGES, self.MASKS)
        assert torch.isfinite(out.loss)
        out.loss.backward()
        assert all(torch.isfinite(p.grad).all() for p in distiller.parameters() if p.grad is not None)
        expected = PixelKD()(read_logits(out.student), read_logits(out.teacher)).detach()
        torch.testing.assert_close(out.terms["kd"], expected)

    def test_torchvision(self) -> None:
        student = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=CLASSES)
        teacher = fcn_resnet50(weights=None, weights_backbone=None, num_classes=CLASSES, aux_loss=True)
        features = Term(PKD(), student="backbone.16", teacher="backbone.layer4", connector="conv1x1")
        self.step(student, teacher, features=features)
        assert read_auxiliary(teacher(self.IMAGES)) is not None

    def test_segmentation_models_pytorch(self) -> None:
        student = smp.DeepLabV3Plus("mobilenet_v2", encoder_weights=None, classes=CLASSES)
        teacher = smp.PSPNet("resnet18", encoder_weights=None, classes=CLASSES)
        features = Term(PKD(), student="encoder.features.6", teacher="encoder.layer2", connector="conv1x1")
        self.step(student, teacher, features=features)

    def test_relative_difficulty_with_an_auxiliary_head(self) -> None:
        student = smp.FPN("resnet18", encoder_weights=None, classes=CLASSES)
        teacher = build_model("DeepLabV3Plus", "resnet18", CLASSES, auxiliary=True)
        distiller = Distiller(
            student, teacher, {"kd": Term(PixelKD())}, cross_entropy(), pixel_weighting=RelativeDifficulty()
        )
        for progress in (0.0, 0.5):
            out = distiller(self.IMAGES, self.MASKS, progress=progress)
            assert torch.isfinite(out.loss)
            assert out.pixel_weights.shape == self.MASKS.shape
            assert (out.pixel_weights[self.MASKS == 255] == 0).all()

    def test_a_model_that_is_a_container_is_one_teacher(self) -> None:
        features = IntermediateLayerGetter(seeded(Net, 1), {"encoder": "out"})  # it derives from torch.nn.ModuleDict
        term = Term(PKD(), student="encoder.2", teacher="encoder.2")
        distiller = Distiller(seeded(Net, 0), features, {"pkd": term}, cross_entropy())
        assert distiller.teacher is features
        assert distiller(IMAGES, MASKS).terms["pkd"] > 0


class TestSizes:
    def test_the_task_loss_is_taken_at_label_size(self) -> None:
        distiller = Distiller(seeded(Net, 0, stride=2), None, {}, cross_entropy()).eval()
        out = distiller(IMAGES, MASKS)
        assert out.student.shape[2:] == (8, 12)
        torch.testing.assert_close(out.loss, cross_entropy()(upsampled(out.student, (16, 24)), MASKS))

    @pytest.mark.parametrize(("size", "taken"), [("teacher", (8, 12)), ("student", (4, 6)), ("label", (16, 24))])
    def test_distillation_is_taken_at_the_terms_size(self, size: str, taken: tuple[int, int]) -> None:
        student, teacher = seeded(Net, 0, stride=4), seeded(Net, 1, stride=2)
        term = Term(PixelKD(), size=size)  # type: ignore[arg-type]
        out = Distiller(student, teacher, {"kd": term}, cross_entropy())(IMAGES, MASKS)
        s, t = (x if x.shape[2:] == taken else upsampled(x, taken) for x in (out.student, out.teacher))
        torch.testing.assert_close(out.terms["kd"], PixelKD()(s, t).detach())

    def test_the_teachers_size_is_the_default(self) -> None:
        assert Term(PixelKD()).size == "teacher"

    def test_pixel_weighting_is_taken_at_label_size(self) -> None:
        student, teacher = seeded(Net, 0, stride=4), seeded(WithAux, 1, stride=2)
        weighting = RelativeDifficulty()
        distiller = Distiller(student, teacher, {}, cross_entropy(), pixel_weighting=weighting)
        for progress in (0.05, 0.5):
            out = distiller(IMAGES, MASKS, progress=progress)
            given = weighting(out.student.detach(), out.teacher["out"], out.teacher["aux"], MASKS, progress)
            torch.testing.assert_close(out.pixel_weights, given.map)
            pixels = F.cross_entropy(upsampled(out.student, (16, 24)), MASKS, ignore_index=255, reduction="none")
            torch.testing.assert_close(out.loss, (pixels * given.scaled).sum())
            torch.testing.assert_close(out.loss, (pixels * given.map).sum() / (MASKS != 255).sum())


class TestClassMap:
    MAP = (0, 1, 2, 3, 4, 4, None, 0)
    """Teacher classes 0 and 7, 4 and 5 are one class each for the student; 6 is none."""

    def test_merged_classes_add_their_probabilities(self) -> None:
        student, teacher = seeded(Net, 0), seeded(Net, 1, classes=8)
        distiller = Distiller(
            student, teacher, {"kd": Term(PixelKD())}, cross_entropy(), adapter=Adapter(class_map=self.MAP)
        )
        out = distiller(IMAGES, MASKS)
        assert out.teacher.shape[1] == 8
        p = out.teacher.softmax(1)
        merged = torch.stack([p[:, 0] + p[:, 7], p[:, 1], p[:, 2], p[:, 3], p[:, 4] + p[:, 5]], 1)
        merged = merged / merged.sum(1, keepdim=True)
        kl = (merged * (merged.log() - out.student.log_softmax(1))).sum(1).mean()
        torch.testing.assert_close(out.terms["kd"], kl.detach())

    def test_a_teacher_that_lacks_classes_teaches_the_others(self) -> None:
        student = seeded(Net, 0)
        teacher = Network(seeded(Net, 1, classes=3), class_map=[0, 3, None], student_classes=CLASSES)
        out = Distiller(student, teacher, {"kd": Term(PixelKD(known=0.0))}, cross_entropy())(IMAGES, None)
        of_both = PixelKD()(out.student[:, [0, 3]], out.teacher[:, :2])
        torch.testing.assert_close(out.terms["kd"], of_both.detach())
        with pytest.raises(SegkdError, match=r"term 'kd': the teacher lacks the classes \[1, 2, 4\]; PixelKD\(known"):
            Distiller(student, teacher, {"kd": Term(PixelKD())}, cross_entropy())
        weighting = RelativeDifficulty(without_auxiliary="second_stage")
        with pytest.raises(SegkdError, match=r"pixel_weighting: the teacher lacks the classes \[1, 2, 4\]"):
            Distiller(student, teacher, {}, cross_entropy(), pixel_weighting=weighting)

    @pytest.mark.parametrize("places", ["b:logits", ["b:logits"], ["a:logits", "b:logits"]])
    def test_of_several_teachers_the_one_that_lacks_classes_is_named(self, places: str | list[str]) -> None:
        partial = Network(seeded(Net, 1, classes=3), class_map=[0, 3, None], student_classes=CLASSES)
        teachers = {"a": seeded(Net, 2), "b": partial}
        terms = {"kd": Term(CAMKD(), teacher=places)}
        with pytest.raises(SegkdError, match=r"term 'kd': the teacher 'b' lacks the classes \[1, 2, 4\]; Pix") as error:
            Distiller(seeded(Net, 0), teachers, terms, cross_entropy())
        assert "\n" not in str(error.value)
        taught = Distiller(seeded(Net, 0), {**teachers, "b": seeded(Net, 1)}, terms, cross_entropy())
        assert torch.isfinite(taught(IMAGES, MASKS).loss)

    def test_pixel_weighting_reads_the_teacher_in_the_students_classes(self) -> None:
        student, teacher = seeded(Net, 0), seeded(WithAux, 1, classes=8)
        weighting, adapter = RelativeDifficulty(), Adapter(class_map=self.MAP)
        distiller = Distiller(student, teacher, {}, cross_entropy(), pixel_weighting=weighting, adapter=adapter)
        for progress in (0.0, 0.5):
            out = distiller(IMAGES, MASKS, progress=progress)
            main, aux = (adapter.map_classes(out.teacher[key]) for key in ("out", "aux"))
            expected = weighting(out.student.detach(), main, aux, MASKS, progress)
            torch.testing.assert_close(out.pixel_weights, expected.map)


class TestModulesThatRunTwice:
    def test_their_outputs_pair_in_order_and_add_up(self) -> None:
        student, teacher = seeded(Twice, 0), seeded(Twice, 1)
        terms = {"head": Term(PixelKD(), student="head", teacher="head")}
        out = Distiller(student, teacher, terms, cross_entropy())(IMAGES, MASKS)

        def levels(model: Twice) -> list[Tensor]:
            fine = model.stem(IMAGES)
            return [model.head(F.avg_pool2d(fine, 2)), model.head(fine)]

        pairs = zip(levels(student), levels(teacher), strict=True)
        torch.testing.assert_close(out.terms["head"], sum(PixelKD()(s, t) for s, t in pairs).detach())

    def test_a_run_of_the_student_elsewhere_does_not_count(self) -> None:
        student = seeded(Net, 0).eval()
        terms = {"pkd": Term(PKD(), student="encoder", teacher="encoder")}
        distiller = Distiller(student, seeded(Net, 1), terms, cross_entropy())
        expected = distiller(IMAGES, MASKS).loss.detach()
        student(IMAGES + 1)
        torch.testing.assert_close(distiller(IMAGES, MASKS).loss.detach(), expected, rtol=0, atol=0)

    def test_a_module_that_returns_several_tensors_has_all_read(self) -> None:
        class Levels(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv = nn.Conv2d(3, 4, 1)

            def forward(self, x: Tensor) -> dict[str, object]:
                fine = self.conv(x)
                return {"fine": fine, "coarse": [F.avg_pool2d(fine, 2), F.avg_pool2d(fine, 4)]}

        class Pyramid(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.levels, self.head = Levels(), nn.Conv2d(4, CLASSES, 1)

            def forward(self, x: Tensor) -> Tensor:
                return self.head(self.levels(x)["fine"])

        student, teacher = seeded(Pyramid, 0), seeded(Pyramid, 1)
        terms = {"pkd": Term(PKD(), student="levels", teacher="levels")}
        out = Distiller(student, teacher, terms, cross_entropy())(IMAGES, MASKS)
        s, t = student.levels(IMAGES), teacher.levels(IMAGES)
        pairs = [(s["fine"], t["fine"]), *zip(s["coarse"], t["coarse"], strict=True)]
        torch.testing.assert_close(out.terms["pkd"], sum(PKD()(a, b) for a, b in pairs).detach())


def test_teachers_may_see_other_images_than_the_student():
    teacher, seen = nn.Conv2d(1, 4, 1), []
    teacher.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    distiller = Distiller(nn.Conv2d(3, 4, 1), teacher, {"kd": Term(PixelKD())}, nn.CrossEntropyLoss())
    depth = torch.rand(2, 1, 8, 8)
    out = distiller(torch.rand(2, 3, 8, 8), torch.zeros(2, 8, 8, dtype=torch.long), teacher_images=depth)
    assert torch.equal(seen[-1], depth)
    assert torch.isfinite(out.loss)
