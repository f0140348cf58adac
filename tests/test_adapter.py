import copy
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from nets import CLASSES, Net, WithAux, batch, cross_entropy, seeded
from torch import Tensor, nn

from segkd import Distiller, Term
from segkd.adapter import Adapter, read_auxiliary, read_logits
from segkd.errors import SegkdError
from segkd.losses import PixelKD

IMAGES, MASKS = batch()
LOGITS, AUX = torch.randn(2, CLASSES, 4, 6), torch.randn(2, CLASSES, 4, 6)

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALVES = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


class TestReading:
    @pytest.mark.parametrize(
        "output",
        [
            LOGITS,
            (LOGITS, AUX),
            [LOGITS, torch.zeros(2)],
            {"out": LOGITS, "aux": AUX},
            {"logits": LOGITS},
            SimpleNamespace(logits=LOGITS),
        ],
    )
    def test_logits(self, output: object) -> None:
        assert read_logits(output) is LOGITS

    @pytest.mark.parametrize(
        ("output", "says"),
        [
            ({"masks": LOGITS}, "from a dict:"),
            ((), "from a tuple:"),
            (None, "from a NoneType:"),
            (torch.zeros(2, 5), r"from a Tensor of shape \(2, 5\)"),
            ({"out": torch.zeros(5)}, r"from a dict of shape \(5,\)"),
        ],
    )
    def test_what_holds_no_logits(self, output: object, says: str) -> None:
        with pytest.raises(SegkdError, match=says):
            read_logits(output)

    @pytest.mark.parametrize(
        "output", [{"out": LOGITS, "aux": AUX}, (LOGITS, AUX), SimpleNamespace(logits=LOGITS, aux_logits=AUX)]
    )
    def test_auxiliary(self, output: object) -> None:
        assert read_auxiliary(output) is AUX
        assert Adapter().has_auxiliary(output)

    @pytest.mark.parametrize(
        "output",
        [LOGITS, {"out": LOGITS}, {"out": LOGITS, "aux": None}, (LOGITS,), (LOGITS, torch.zeros(2)), SimpleNamespace()],
    )
    def test_no_auxiliary(self, output: object) -> None:
        assert read_auxiliary(output) is None
        assert not Adapter().has_auxiliary(output)
        with pytest.raises(SegkdError, match="the teacher returns no auxiliary logits"):
            Adapter().read("teacher", "aux", output)


class TestNormalization:
    def test_the_teacher_gets_the_raw_image_in_its_own_normalisation(self) -> None:
        raw = torch.rand(2, 3, 8, 8)
        (mean_s, std_s), (mean_t, std_t) = (
            [torch.tensor(values).view(1, 3, 1, 1) for values in pair] for pair in (IMAGENET, HALVES)
        )
        for_student, for_teacher, _ = Adapter(IMAGENET, HALVES).inputs((raw - mean_s) / std_s)
        torch.testing.assert_close(for_student, (raw - mean_s) / std_s, rtol=0, atol=0)
        torch.testing.assert_close(for_teacher, (raw - mean_t) / std_t)

    def test_in_a_distiller(self) -> None:
        adapter = Adapter(IMAGENET, HALVES)
        distiller = Distiller(
            seeded(Net, 0).eval(), seeded(Net, 1), {"kd": Term(PixelKD())}, cross_entropy(), adapter=adapter
        )
        out = distiller(IMAGES, MASKS)
        torch.testing.assert_close(out.student, distiller.student(IMAGES))
        torch.testing.assert_close(out.teacher, distiller.teacher(adapter.inputs(IMAGES)[1]))
        assert not torch.allclose(out.teacher, distiller.teacher(IMAGES))
        assert not any(name.startswith("adapter") for name in distiller.state_dict())
        distiller.double()(IMAGES.double(), MASKS)

    @pytest.mark.parametrize("adapter", [Adapter(), Adapter(IMAGENET), Adapter(IMAGENET, IMAGENET)])
    def test_the_same_images_are_handed_on_as_they_are(self, adapter: Adapter) -> None:
        assert all(given is IMAGES for given in adapter.inputs(IMAGES, IMAGES))

    def test_images_keep_their_dtype(self) -> None:
        assert Adapter(IMAGENET, HALVES).inputs(IMAGES.bfloat16())[1].dtype == torch.bfloat16

    def test_the_teachers_alone_is_an_error(self) -> None:
        with pytest.raises(SegkdError, match="needs student_normalization"):
            Adapter(teacher_normalization=IMAGENET)


class TestClassMap:
    def test_probabilities_add_up_exactly(self) -> None:
        logits = torch.randn(2, 4, 3, 3, dtype=torch.float64) * 5
        mapped = Adapter(class_map=[1, 0, 1, 2]).map_classes(logits).softmax(1)
        p = logits.softmax(1)
        torch.testing.assert_close(mapped, torch.stack([p[:, 1], p[:, 0] + p[:, 2], p[:, 3]], 1))

    def test_a_class_left_out_shares_its_probability_among_the_others(self) -> None:
        logits = torch.randn(1, 3, 2, 2)
        mapped = Adapter(class_map=[0, None, 1]).map_classes(logits)
        torch.testing.assert_close(mapped.softmax(1), logits[:, [0, 2]].softmax(1))

    def test_the_teacher_alone_is_mapped(self) -> None:
        adapter = Adapter(class_map=[1, 0, 0])
        logits = torch.randn(1, 3, 2, 2)
        assert adapter.read("student", "logits", logits) is logits
        assert adapter.read("teacher", "logits", logits).shape[1] == 2
        assert adapter.read("teacher", "aux", {"out": logits, "aux": logits}).shape[1] == 2

    def test_far_apart_logits_stay_finite(self) -> None:
        logits = torch.tensor([0.0, 60000.0, -60000.0, 0.0]).view(1, 4, 1, 1)
        assert torch.isfinite(Adapter(class_map=[0, 0, 1, 1]).map_classes(logits)).all()

    @pytest.mark.parametrize("class_map", [[0, 2], [None, None], [], [-1, 0]])
    def test_a_student_class_without_teacher_class(self, class_map: list[int | None]) -> None:
        with pytest.raises(SegkdError, match="class_map must give each student class"):
            Adapter(class_map=class_map)

    @pytest.mark.parametrize("class_map", [["sky", "road"], [0, 1.0], "01", 2], ids=str)
    def test_what_is_no_list_of_classes(self, class_map: object) -> None:
        with pytest.raises(SegkdError, match="class_map is a list of the student class of each teacher class"):
            Adapter(class_map=class_map)


class TestTaskLoss:
    def test_at_label_size(self) -> None:
        value = Adapter().task_loss(LOGITS, MASKS, cross_entropy(), None)
        whole = F.interpolate(LOGITS, size=MASKS.shape[1:], mode="bilinear", align_corners=False)
        torch.testing.assert_close(value, cross_entropy()(whole, MASKS))

    def test_weighted(self) -> None:
        logits, weights = torch.randn(2, CLASSES, 16, 24), torch.rand(2, 16, 24)
        loss = nn.CrossEntropyLoss(ignore_index=255, reduction="none")
        value = Adapter().task_loss(logits, MASKS, loss, weights)
        torch.testing.assert_close(value, (loss(logits, MASKS) * weights).sum())

    def test_weights_on_a_loss_that_is_no_map(self) -> None:
        with pytest.raises(SegkdError, match=r"\(2, 16, 24\): with reduction='none' CrossEntropyLoss gave \(\)"):
            Adapter().task_loss(LOGITS, MASKS, cross_entropy(), torch.ones(2, 16, 24))

    @pytest.mark.parametrize("shape", [(2, 1, 16, 24), (3, 16, 24), (16, 24)])
    def test_labels_of_another_shape(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(SegkdError, match=r"labels must be \(B, H, W\) with B=2, got \("):
            Adapter().task_loss(LOGITS, torch.zeros(shape, dtype=torch.long), cross_entropy(), None)

    def test_a_batch_without_labels_is_worth_zero(self) -> None:
        logits = LOGITS.clone().requires_grad_()
        value = Adapter().task_loss(logits, torch.full_like(MASKS, 255), cross_entropy(), None)
        assert value == 0
        value.backward()
        assert (logits.grad == 0).all()

    def test_a_loss_of_ones_own_is_left_alone(self) -> None:
        value = Adapter().task_loss(LOGITS, torch.full_like(MASKS, 255), lambda logits, target: logits.mean(), None)
        torch.testing.assert_close(value, F.interpolate(LOGITS, size=(16, 24), mode="bilinear").mean())

    def test_auxiliary_loss(self) -> None:
        output = {"out": LOGITS, "aux": AUX}
        value = Adapter(auxiliary_weight=0.4).auxiliary_loss(output, MASKS, cross_entropy())
        torch.testing.assert_close(value, 0.4 * Adapter().task_loss(AUX, MASKS, cross_entropy(), None))
        assert Adapter().auxiliary_loss(output, MASKS, cross_entropy()) is None
        assert Adapter(auxiliary_weight=0.4).auxiliary_loss(LOGITS, MASKS, cross_entropy()) is None


class TestAnAdapterOfOnesOwn:
    """A user with an odd model writes one: here images and masks come in one mapping, and logits under another name."""

    class Odd(Net):
        def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:  # type: ignore[override]
            return {"prediction": super().forward(batch["pixels"])}

    class OddAdapter(Adapter):
        def read(self, side: str, name: str, output: dict[str, Tensor]) -> Tensor:
            return super().read(side, name, output["prediction"])

        def task_loss(self, output: dict[str, Tensor], target: Tensor, *rest: object) -> Tensor:
            return super().task_loss(output["prediction"], target, *rest)

        def auxiliary_loss(self, *_: object) -> None:
            return None

        def example(self, model: nn.Module, size: int) -> dict[str, Tensor]:
            return {"pixels": super().example(model, size)}

    def test_the_same_step_as_with_plain_models(self) -> None:
        terms = {"kd": Term(PixelKD(), connector="conv1x1")}
        odd = Distiller(
            seeded(self.Odd, 0).eval(), seeded(self.Odd, 1), terms, cross_entropy(), adapter=self.OddAdapter()
        )
        plain = Distiller(seeded(Net, 0).eval(), seeded(Net, 1), terms, cross_entropy())
        plain.connectors = copy.deepcopy(odd.connectors)
        torch.testing.assert_close(odd({"pixels": IMAGES}, MASKS).loss, plain(IMAGES, MASKS).loss)


def test_the_example_is_what_the_model_takes() -> None:
    adapter = Adapter()
    assert adapter.example(seeded(WithAux, 0).double(), 32).dtype == torch.float64
    assert adapter.example(nn.Conv2d(7, 2, 1), 32).shape == (1, 7, 32, 32)
    assert adapter.example(nn.Identity(), 32).shape == (1, 3, 32, 32)


class Levels(Adapter):
    """Models that bring their own loss, and whose maps are paired by stride."""

    outputs = ("levels", "whole")
    needs_task_loss = False

    def __init__(self, **strides: tuple[int, ...]) -> None:
        super().__init__()
        self.strides = strides

    def inputs(self, images: Tensor, target: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
        return images, images, None if target is None else target + 1

    def read(self, side: str, name: str, output: Tensor) -> object:
        if name == "whole":
            return SimpleNamespace(of=side, sum=output.sum())
        return {stride: F.avg_pool2d(output, stride) for stride in self.strides[side]}

    def task_loss(self, output: Tensor, target: Tensor, loss: None, weights: None) -> dict[str, Tensor]:
        return {"first": output.square().mean(), "second": target.float().mean()}


class Whole(nn.Module):
    """A loss that reads what is no tensor, and the target that the adapter made."""

    reads = "whole"

    def forward(self, student: SimpleNamespace, teacher: SimpleNamespace, target: Tensor) -> Tensor:
        assert (student.of, teacher.of) == ("student", "teacher")
        return (student.sum - teacher.sum).abs() + target.float().mean()


class TestAnAdapterOfAnotherTask:
    def distiller(self, terms: dict[str, Term], **strides: tuple[int, ...]) -> Distiller:
        return Distiller(seeded(Net, 0), seeded(Net, 1), terms, adapter=Levels(**strides))

    def test_maps_are_paired_by_key(self) -> None:
        terms = {"kd": Term(PixelKD(), student="levels", teacher="levels")}
        out = self.distiller(terms, student=(2, 4), teacher=(1, 2, 4))(IMAGES, MASKS)
        expected = sum(PixelKD()(F.avg_pool2d(out.student, k), F.avg_pool2d(out.teacher, k)) for k in (2, 4))
        torch.testing.assert_close(out.terms["kd"], expected.detach())

    def test_nothing_to_pair(self) -> None:
        terms = {"kd": Term(PixelKD(), student="levels", teacher="levels")}
        with pytest.raises(SegkdError, match=r"'levels' has 2, the teacher's 'levels' 1, 4: nothing to pair"):
            self.distiller(terms, student=(2,), teacher=(1, 4))

    def test_one_connector_serves_all_maps(self) -> None:
        terms = {"kd": Term(PixelKD(), student="levels", teacher="levels", connector="conv1x1")}
        distiller = self.distiller(terms, student=(2, 4), teacher=(2, 4))
        assert list(distiller.connectors) == ["kd"]
        distiller(IMAGES, MASKS).loss.backward()
        assert distiller.connectors["kd"].weight.grad.abs().sum() > 0

    def test_a_loss_says_what_it_reads(self) -> None:
        out = self.distiller({"whole": Term(Whole())})(IMAGES, MASKS)
        expected = (out.student.sum() - out.teacher.sum()).abs() + (MASKS + 1).float().mean()
        torch.testing.assert_close(out.terms["whole"], expected.detach())

    def test_the_task_loss_has_parts(self) -> None:
        out = self.distiller({})(IMAGES, MASKS)
        assert list(out.parts) == ["first", "second"]
        torch.testing.assert_close(out.terms["task"], out.parts["first"] + out.parts["second"])
        torch.testing.assert_close(out.loss.detach(), out.terms["task"])
        assert not any(part.requires_grad for part in out.parts.values())
