"""One step of the distiller: what comes out, who is trained, who stays frozen."""

import copy
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from nets import CLASSES, Net, WithAux, batch, cross_entropy, seeded
from torch import Tensor, nn

from segkd import Distiller, DistillOutput, Term
from segkd.adapter import Adapter
from segkd.errors import SegkdError
from segkd.losses import ICSD, PKD, PixelKD
from segkd.schedules import Linear, alw
from segkd.weighting import RelativeDifficulty

IMAGES, MASKS = batch()


def make(schedule: dict | None = None, **arguments: object) -> Distiller:
    terms = {
        "icsd": Term(ICSD(), weight=0.5),
        "kd": Term(PixelKD(temperature=2.0), weight=10.0),
        "pkd": Term(PKD(), student="encoder.2", teacher="encoder.2", weight=6.0, connector="conv1x1"),
    }
    student, teacher = seeded(Net, 0), seeded(Net, 1, width=9)
    return Distiller(student, teacher, terms, cross_entropy(), schedule=schedule, **arguments)


class TestOutput:
    def test_loss_is_the_weighted_sum_of_the_terms(self) -> None:
        out = make()(IMAGES, MASKS)
        assert out.weights == {"task": 1.0, "icsd": 0.5, "kd": 10.0, "pkd": 6.0}
        expected = sum(out.weights[name] * value for name, value in out.terms.items())
        torch.testing.assert_close(out.loss.detach(), expected)
        assert out.loss.shape == ()

    def test_terms_are_unweighted_and_detached(self) -> None:
        distiller = make()
        out = distiller(IMAGES, MASKS)
        s, t = out.student.detach(), out.teacher
        assert list(out.terms) == ["task", "icsd", "kd", "pkd"]
        torch.testing.assert_close(out.terms["task"], F.cross_entropy(s, MASKS, ignore_index=255))
        torch.testing.assert_close(out.terms["icsd"], ICSD()(s, t))
        torch.testing.assert_close(out.terms["kd"], PixelKD(temperature=2.0)(s, t))
        assert not any(value.requires_grad for value in out.terms.values())
        assert out.loss.requires_grad

    def test_feature_terms_read_the_named_modules_through_the_connector(self) -> None:
        distiller = make().eval()
        out = distiller(IMAGES, MASKS)
        s = distiller.connectors["pkd"](distiller.student.encoder(IMAGES))
        torch.testing.assert_close(out.terms["pkd"], PKD()(s, distiller.teacher.encoder(IMAGES)).detach())

    def test_models_outputs_are_handed_back(self) -> None:
        distiller = make().eval()
        out = distiller(IMAGES, MASKS)
        torch.testing.assert_close(out.student, distiller.student(IMAGES), rtol=0, atol=0)
        torch.testing.assert_close(out.teacher, distiller.teacher(IMAGES), rtol=0, atol=0)
        assert not out.teacher.requires_grad
        assert out.pixel_weights is None

    def test_each_model_runs_once_a_step(self) -> None:
        distiller = make()
        runs = []
        for model in (distiller.student, distiller.teacher):
            model.register_forward_hook(lambda module, *_: runs.append(module))
        distiller(IMAGES, MASKS)
        assert sorted(map(id, runs)) == sorted(map(id, (distiller.student, distiller.teacher)))

    def test_plain_training_without_teacher(self) -> None:
        student = seeded(Net, 0)
        out = Distiller(student, None, {}, cross_entropy())(IMAGES, MASKS)
        torch.testing.assert_close(out.loss, F.cross_entropy(student(IMAGES), MASKS, ignore_index=255))
        assert list(out.terms) == ["task"]
        assert out.teacher is None

    def test_the_task_loss_has_a_weight_too_which_its_schedule_multiplies(self) -> None:
        out = make(schedule={"task": Linear(0.0, 1.0)}, task_weight=0.4)(IMAGES, MASKS, progress=0.5)
        assert out.weights == pytest.approx({"task": 0.2, "icsd": 0.5, "kd": 10.0, "pkd": 6.0})
        expected = sum(out.weights[name] * value for name, value in out.terms.items())
        torch.testing.assert_close(out.loss.detach(), expected)

    @pytest.mark.parametrize("weight", [-1.0, math.inf, math.nan])
    def test_a_task_weight_that_is_none(self, weight: float) -> None:
        with pytest.raises(SegkdError, match="task_weight must be a finite number of at least 0"):
            make(task_weight=weight)

    def test_auxiliary_task_loss_of_the_student_counts_with_its_weight(self) -> None:
        student = seeded(WithAux, 0).eval()
        out = Distiller(student, None, {}, cross_entropy(), adapter=Adapter(auxiliary_weight=0.4))(IMAGES, MASKS)
        main, aux = (F.cross_entropy(student(IMAGES)[key], MASKS, ignore_index=255) for key in ("out", "aux"))
        torch.testing.assert_close(out.loss, main + 0.4 * aux)

    def test_a_loss_of_ones_own_is_called_with_both_sides_and_the_labels(self) -> None:
        seen: list[Tensor] = []

        def own(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
            seen.extend((student, teacher, target))
            return (student - teacher).square().mean()

        out = Distiller(seeded(Net, 0), seeded(Net, 1), {"own": Term(own)}, cross_entropy())(IMAGES, MASKS)
        assert seen[0] is out.student
        assert seen[1] is out.teacher
        assert seen[2] is MASKS
        torch.testing.assert_close(out.terms["own"], F.mse_loss(out.student, out.teacher).detach())


class TestSchedule:
    SCHEDULE = alw(rise=("task", "icsd"), fall=("kd",))

    @pytest.mark.parametrize("progress", [0.0, 0.3, 1.0])
    def test_alw_weights(self, progress: float) -> None:
        out = make(self.SCHEDULE)(IMAGES, MASKS, progress=progress)
        rise, fall = progress, 1 - progress
        assert out.weights == pytest.approx({"task": rise, "icsd": 0.5 * rise, "kd": 10 * fall, "pkd": 6.0})
        expected = sum(out.weights[name] * value for name, value in out.terms.items())
        torch.testing.assert_close(out.loss.detach(), expected)

    @pytest.mark.parametrize(("given", "taken"), [(-0.5, 0.0), (1.7, 1.0), (math.inf, 1.0)])
    def test_progress_is_clamped(self, given: float, taken: float) -> None:
        distiller = make({"kd": lambda progress: progress})
        assert distiller(IMAGES, MASKS, progress=given).weights["kd"] == 10 * taken

    def test_progress_must_be_given_with_a_schedule(self) -> None:
        with pytest.raises(SegkdError, match="give progress=step / total_steps"):
            make({"kd": Linear(1, 0)})(IMAGES, MASKS)

    def test_progress_must_be_given_with_pixel_weighting(self) -> None:
        distiller = Distiller(
            seeded(Net, 0), seeded(WithAux, 1), {}, cross_entropy(), pixel_weighting=RelativeDifficulty()
        )
        with pytest.raises(SegkdError, match="give progress"):
            distiller(IMAGES, MASKS)

    def test_progress_that_is_no_number(self) -> None:
        with pytest.raises(SegkdError, match="got nan"):
            make()(IMAGES, MASKS, progress=math.nan)

    def test_progress_is_not_needed_without(self) -> None:
        distiller = make().eval()
        torch.testing.assert_close(distiller(IMAGES, MASKS).loss, distiller(IMAGES, MASKS, progress=0.7).loss)


class TestWhoIsTrained:
    def test_the_student_is_the_students_own_object(self) -> None:
        student = seeded(Net, 0)
        names, kind = list(student.state_dict()), type(student)
        distiller = Distiller(student, seeded(Net, 1), {"kd": Term(PixelKD())}, cross_entropy())
        assert distiller.student is student
        assert type(student) is kind
        assert list(student.state_dict()) == names

    def test_the_teacher_is_in_neither_parameters_nor_state_dict(self) -> None:
        distiller = make()
        theirs = {id(tensor) for tensor in distiller.teacher.state_dict(keep_vars=True).values()}
        assert not any(id(parameter) in theirs for parameter in distiller.parameters())
        assert not any(id(tensor) in theirs for tensor in distiller.state_dict(keep_vars=True).values())
        assert distiller.teacher not in list(distiller.modules())
        assert all(name.startswith(("student.", "connectors.pkd.")) for name in distiller.state_dict())

    def test_connectors_are_in_both_and_trained(self) -> None:
        distiller = make()
        assert "connectors.pkd.weight" in distiller.state_dict()
        weight = distiller.connectors["pkd"].weight
        assert any(parameter is weight for parameter in distiller.parameters())
        before = weight.detach().clone()
        optimizer = torch.optim.SGD(distiller.parameters(), lr=0.1)
        distiller(IMAGES, MASKS).loss.backward()
        optimizer.step()
        assert not torch.equal(weight, before)

    def test_every_student_parameter_gets_a_gradient_and_no_teacher_parameter_does(self) -> None:
        distiller = make()
        distiller(IMAGES, MASKS).loss.backward()
        assert all(parameter.grad is not None for parameter in distiller.parameters())
        assert all(parameter.grad is None for parameter in distiller.teacher.parameters())

    def test_training_leaves_the_teacher_as_it_was(self) -> None:
        distiller = make()
        before = copy.deepcopy(distiller.teacher.state_dict())
        optimizer = torch.optim.SGD(distiller.parameters(), lr=0.5)
        for _ in range(3):
            optimizer.zero_grad()
            distiller.train()(IMAGES, MASKS).loss.backward()
            optimizer.step()
        for name, tensor in distiller.teacher.state_dict().items():
            assert torch.equal(tensor, before[name]), name

    def test_the_teacher_is_frozen_and_in_eval_mode_whatever_the_distiller_does(self) -> None:
        teacher = seeded(Net, 1).train()
        distiller = Distiller(seeded(Net, 0), teacher, {"kd": Term(PixelKD())}, cross_entropy())
        wrapped = nn.ModuleDict({"inner": distiller})  # as a trainer's own module holds it
        for act in (lambda: None, distiller.train, wrapped.train, wrapped.eval, lambda: distiller.requires_grad_(True)):
            act()
            assert not any(module.training for module in teacher.modules())
            assert not any(parameter.requires_grad for parameter in teacher.parameters())
        assert not distiller.student.training
        distiller.train()
        assert all(module.training for module in distiller.student.modules())

    def test_the_teacher_follows_to(self) -> None:
        distiller = make()
        nn.ModuleDict({"inner": distiller}).to(torch.float64)
        assert {t.dtype for t in distiller.teacher.parameters()} == {torch.float64}
        out = distiller(IMAGES.double(), MASKS)
        assert out.teacher.dtype == out.loss.dtype == torch.float64
        distiller.to("meta")
        assert {t.device.type for t in distiller.teacher.parameters()} == {"meta"}

    def test_class_weights_stand_in_the_state_dict_once_and_follow_to(self) -> None:
        loss = nn.CrossEntropyLoss(weight=torch.arange(1.0, CLASSES + 1), ignore_index=255)
        weighting = RelativeDifficulty(switch=0)
        distiller = Distiller(seeded(Net, 0), seeded(Net, 1), {}, loss, pixel_weighting=weighting)
        assert [name for name in distiller.state_dict() if not name.startswith("student.")] == ["task_loss.weight"]
        distiller.double()(IMAGES.double(), MASKS, progress=0.5).loss.backward()

    def test_state_dict_goes_round(self) -> None:
        first, second = make(), make()
        optimizer = torch.optim.SGD(first.parameters(), lr=0.1)
        first(IMAGES, MASKS).loss.backward()
        optimizer.step()
        second.load_state_dict(first.state_dict())
        torch.testing.assert_close(second.eval()(IMAGES, MASKS).loss, first.eval()(IMAGES, MASKS).loss, rtol=0, atol=0)


class TestCopies:
    def test_a_hooked_student_pickles_and_copies(self) -> None:
        distiller = make().eval()
        distiller(IMAGES, MASKS)
        for twin in (copy.deepcopy(distiller.student), pickle.loads(pickle.dumps(distiller.student))):
            torch.testing.assert_close(twin(IMAGES), distiller.student(IMAGES), rtol=0, atol=0)

    def test_a_copied_distiller_stands_alone(self) -> None:
        distiller = make().eval()
        twin = copy.deepcopy(distiller)
        expected = distiller(IMAGES, MASKS).loss.detach()
        with torch.no_grad():
            for parameter in distiller.student.parameters():
                parameter.zero_()
        torch.testing.assert_close(twin(IMAGES, MASKS).loss.detach(), expected, rtol=0, atol=0)

    def test_captures_do_not_outlive_the_step(self) -> None:
        distiller = make()
        distiller(IMAGES, MASKS)
        (teacher,) = distiller.teachers.values()
        assert not any(live.taps.found for live in (distiller._student, teacher))

    def test_hooks_can_be_taken_off(self) -> None:
        distiller = make()
        distiller.detach_hooks()
        for model in (distiller.student, distiller.teacher):
            assert not any(module._forward_hooks for module in model.modules())


def test_the_output_is_a_plain_dataclass() -> None:
    out = make()(IMAGES, MASKS)
    assert isinstance(out, DistillOutput)
    assert set(vars(out)) == {"loss", "terms", "weights", "student", "teacher", "pixel_weights", "parts"}
    assert set(out.parts) == {"main"}
    torch.testing.assert_close(out.parts["main"], out.terms["task"])
