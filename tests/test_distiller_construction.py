"""What a distiller says no to when it is made, and that making one leaves no trace in the models."""

import copy
from collections import OrderedDict

import pytest
import torch
from nets import CLASSES, Net, Twice, WithAux, batch, cross_entropy, seeded
from torch import Tensor, nn

from segkd import Distiller, Term
from segkd.adapter import Adapter
from segkd.errors import SegkdError
from segkd.losses import ICSD, PKD, PixelKD
from segkd.schedules import Linear, alw
from segkd.weighting import RelativeDifficulty

IMAGES, MASKS = batch()


def make(terms: object, student: nn.Module | None = None, teacher: nn.Module | None = None, **arguments) -> Distiller:
    student = seeded(Net, 0) if student is None else student
    teacher = seeded(Net, 1) if teacher is None else teacher
    return Distiller(student, teacher, terms, cross_entropy(), **arguments)


def refusal(*args: object, **kwargs: object) -> str:
    """Return the one line that making this distiller raises."""
    with pytest.raises(SegkdError) as error:
        make(*args, **kwargs)
    assert "\n" not in str(error.value)
    return str(error.value)


class Tokens(nn.Module):
    """A model with a module whose output is tokens (B, N, C), as a transformer's are."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.block = Net(), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        logits = self.net(x)
        return logits + 0 * self.block(logits.flatten(2).transpose(1, 2)).mean()


class Lists(nn.Module):
    """A loss on lists of places that keeps the channels that it was shown."""

    def prepare(self, student: list[Tensor], teacher: list[Tensor]) -> None:
        self.channels = [(s.shape[1], t.shape[1]) for s, t in zip(student, teacher, strict=True)]

    def forward(self, student: list[Tensor], teacher: list[Tensor], target: Tensor | None = None) -> Tensor:
        return student[0].mean()


class TestErrors:
    @pytest.mark.parametrize(("loss", "connector"), [(PKD(), None), (PKD(), "conv1x1"), (nn.MSELoss(), "conv1x1")])
    def test_tokens_where_maps_are_compared(self, loss: nn.Module, connector: str | None) -> None:
        term = Term(loss, student="encoder.2", teacher="block", connector=connector)
        says = refusal({"pkd": term}, teacher=Tokens())
        assert says.startswith(f"term 'pkd': the teacher's module 'block' gives (1, 4096, {CLASSES}), not a map")

    def test_tokens_for_a_loss_of_ones_own_are_its_own_affair(self) -> None:
        term = Term(lambda s, t, target: (s - t).square().mean(), student="block", teacher="block")
        make({"own": term}, student=Tokens(), teacher=Tokens())

    def test_a_path_that_names_no_module(self) -> None:
        says = refusal({"pkd": Term(PKD(), student="encoder.layer4", teacher="encoder.2")})
        assert says == "the student has no module 'encoder.layer4': did you mean 'encoder.2'?"
        says = refusal({"pkd": Term(PKD(), student="encoder.2", teacher="encodr")})
        assert "the teacher has no module 'encodr': did you mean 'encoder'?" in says

    def test_channels_that_differ_without_connector(self) -> None:
        says = refusal({"pkd": Term(PKD(), student="encoder.2", teacher="encoder.0")}, teacher=seeded(Net, 1, width=9))
        assert "term 'pkd'" in says
        assert "'encoder.2' has 6 channels" in says
        assert "'encoder.0' has 9" in says
        assert "connector='conv1x1'" in says

    def test_a_loss_for_any_channels_needs_no_connector(self) -> None:
        class Attention(nn.Module):
            any_channels = True

            def forward(self, student: Tensor, teacher: Tensor, target: Tensor | None = None) -> Tensor:
                return (student.square().mean(1) - teacher.square().mean(1)).square().mean()

        term = Term(Attention(), student="encoder", teacher="encoder")
        out = make({"at": term}, teacher=seeded(Net, 1, width=9))(IMAGES, MASKS)
        assert out.terms["at"] > 0

    def test_a_loss_makes_its_layers_of_the_channels_that_it_compares(self) -> None:
        class Mapped(nn.Module):
            any_channels = True

            def prepare(self, student: Tensor, teacher: Tensor) -> None:
                self.layer = nn.Conv2d(student.shape[1], teacher.shape[1], 1)

            def forward(self, student: Tensor, teacher: Tensor, target: Tensor | None = None) -> Tensor:
                return (self.layer(student) - teacher).square().mean()

        wide = seeded(Net, 1, width=9)
        term = Term(Mapped(), student="encoder", teacher="encoder")
        distiller = make({"own": term}, teacher=wide)
        assert {"losses.own.layer.weight", "losses.own.layer.bias"} <= dict(distiller.named_parameters()).keys()
        assert distiller(IMAGES, MASKS).terms["own"] > 0
        make({"own": Term(loss := Mapped(), student="encoder", teacher="encoder", connector="conv1x1")}, teacher=wide)
        assert loss.layer.in_channels == 9  # what the connector gives
        lists = Term(loss := Lists(), student=["encoder", "logits"], teacher=["encoder", "logits"])
        make({"own": lists}, teacher=wide)
        assert loss.channels == [(6, 9), (CLASSES, CLASSES)]
        loss.takes_lists, loss.any_channels = True, True
        assert make({"own": Term(loss, student="encoder", teacher="encoder")}, teacher=wide)(IMAGES, MASKS).terms["own"]
        assert loss.channels == [(6, 9)]
        picky = nn.Sequential(OrderedDict(encoder=nn.Flatten(), head=nn.Linear(7, 5)))
        says = refusal({"own": term}, student=picky)
        assert says.startswith("term 'own' needs the models' channels, but the student does not take zeros")

    def test_a_name_used_twice(self) -> None:
        assert refusal([("kd", Term(PixelKD())), ("kd", Term(ICSD()))]) == "the term name 'kd' is used twice"

    @pytest.mark.parametrize("name", ["task", "a.b", "", "values", "pixel kd"])
    def test_a_name_that_cannot_be(self, name: str) -> None:
        assert repr(name) in refusal({name: Term(PixelKD())})

    def test_a_loss_where_a_term_belongs(self) -> None:
        assert refusal({"kd": PixelKD()}) == "term 'kd' must be a segkd.Term, got PixelKD"

    def test_a_schedule_that_names_no_term(self) -> None:
        says = refusal({"icsd": Term(ICSD())}, schedule=alw(rise=("task", "icds"), fall=()))
        assert says == "the schedule names no term: 'icds', did you mean 'icsd'?"
        says = refusal({"kd": Term(PixelKD())}, schedule={"pkd_layer4": Linear(0, 1)})
        assert "valid: task, kd" in says

    def test_a_schedule_that_is_no_function(self) -> None:
        assert "'kd' must be a function of progress, got 0.5" in refusal({"kd": Term(PixelKD())}, schedule={"kd": 0.5})

    def test_terms_without_teacher(self) -> None:
        for terms, weighting in (({"kd": Term(PixelKD())}, None), ({}, RelativeDifficulty())):
            with pytest.raises(SegkdError, match="no teacher is given"):
                Distiller(seeded(Net, 0), None, terms, cross_entropy(), pixel_weighting=weighting)

    def test_class_counts_that_differ(self) -> None:
        teacher = seeded(Net, 1, classes=7)
        says = refusal({"kd": Term(PixelKD())}, teacher=teacher)
        assert f"term 'kd': the student has {CLASSES} classes, the teacher 7" in says
        assert "class_map" in says
        says = refusal({}, teacher=teacher, pixel_weighting=RelativeDifficulty(switch=0))
        assert f"pixel_weighting: the student has {CLASSES} classes, the teacher 7" in says

    @pytest.mark.parametrize("entries", [4, 6])
    def test_a_class_map_of_another_length_than_the_teachers_classes(self, entries: int) -> None:
        adapter = Adapter(class_map=[min(c, CLASSES - 1) for c in range(entries)] if entries > 4 else [0, 1, 2, 3])
        says = refusal({"kd": Term(PixelKD())}, adapter=adapter)
        assert says == f"class_map has {entries} entries, the teacher {CLASSES} classes: one for each"

    def test_relative_difficulty_without_auxiliary_head(self) -> None:
        says = refusal({}, pixel_weighting=RelativeDifficulty())
        assert "teacher.auxiliary: fit" in says
        assert "without_auxiliary='second_stage'" in says
        out = make({}, pixel_weighting=RelativeDifficulty(without_auxiliary="second_stage"))(IMAGES, MASKS, progress=0)
        assert set(out.pixel_weights.unique().tolist()) <= {0.0, 1.0}

    def test_a_term_that_reads_an_auxiliary_head_that_is_not_there(self) -> None:
        says = refusal({"aux": Term(PixelKD(), teacher="aux")})
        assert "the teacher returns no auxiliary logits" in says
        make({"aux": Term(PixelKD(), teacher="aux")}, teacher=seeded(WithAux, 1))

    def test_pixel_weighting_needs_an_unreduced_task_loss(self) -> None:
        def own(logits: Tensor, target: Tensor) -> Tensor:
            return logits.mean()

        with pytest.raises(SegkdError, match="'reduction' attribute, function has none"):
            Distiller(seeded(Net, 0), seeded(Net, 1), {}, own, pixel_weighting=RelativeDifficulty(switch=0))

    def test_shared_parameters(self) -> None:
        model = seeded(Net, 0)
        assert "share parameters" in refusal({}, student=model, teacher=model)
        teacher = seeded(Net, 1)
        teacher.encoder = model.encoder
        assert "share parameters" in refusal({}, student=model, teacher=teacher)
        assert all(parameter.requires_grad for parameter in model.parameters())
        make({}, student=model, teacher=copy.deepcopy(model))

    def test_several_tensors_against_one(self) -> None:
        for connector in (None, "conv1x1"):
            says = refusal({"kd": Term(PixelKD(), student="head", connector=connector)}, student=seeded(Twice, 0))
            assert "term 'kd' reads 2 tensors of the student (head) and 1 of the teacher" in says

    def test_no_task_loss(self) -> None:
        with pytest.raises(SegkdError, match="need a task_loss"):
            Distiller(seeded(Net, 0), None, {})


class TestTrialRun:
    def test_leaves_modes_statistics_random_numbers_and_gradients_alone(self) -> None:
        student = seeded(Net, 0).train()
        student.encoder[1].eval()  # a part that its owner froze
        modes = [module.training for module in student.modules()]
        state = copy.deepcopy(student.state_dict())
        before = torch.get_rng_state()
        make({"kd": Term(PixelKD()), "pkd": Term(PKD(), student="encoder", teacher="encoder")}, student=student)
        assert torch.equal(torch.get_rng_state(), before)
        assert [module.training for module in student.modules()] == modes
        for name, tensor in student.state_dict().items():
            assert torch.equal(tensor, state[name]), name
        assert all(parameter.requires_grad and parameter.grad is None for parameter in student.parameters())

    def test_a_model_that_draws_random_numbers_in_eval_mode_draws_the_same_ones_later(self) -> None:
        class Noisy(Net):
            def forward(self, x: Tensor) -> Tensor:
                return super().forward(x) + torch.randn(())

        before = torch.get_rng_state()
        make({"kd": Term(PixelKD())}, student=seeded(Noisy, 0))
        assert torch.equal(torch.get_rng_state(), before)

    def test_a_distiller_that_could_not_be_made_leaves_no_hook(self) -> None:
        student, teacher = seeded(Net, 0), seeded(Net, 1, width=9)
        for term in (
            Term(PKD(), student="encoder", teacher="encoder"),
            Term(PKD(), student="encoder", teacher="nowhere"),
        ):
            refusal({"pkd": term}, student, teacher)
        for model in (student, teacher):
            assert not any(module._forward_hooks for module in model.modules())

    def test_a_model_that_takes_no_zeros_is_checked_at_the_first_step(self) -> None:
        class Sized(nn.Module):
            """Takes the one size that its position embedding has."""

            def __init__(self) -> None:
                super().__init__()
                self.net, self.position = seeded(Net, 1, width=9), nn.Parameter(torch.zeros(1, 3, 16, 24))

            def forward(self, x: Tensor) -> Tensor:
                return self.net(x + self.position)

        make({"kd": Term(PixelKD())}, teacher=Sized())(IMAGES, MASKS)
        term = Term(PKD(), student="encoder", teacher="net.encoder", connector="conv1x1")
        says = refusal({"pkd": term}, teacher=Sized())
        assert "but the teacher does not take zeros (RuntimeError: " in says
        assert says.endswith("give example=<input>")
        distiller = make({"pkd": term}, teacher=Sized(), example=IMAGES[:1])
        assert distiller.connectors["pkd"].weight.shape == (9, 6, 1, 1)
        distiller(IMAGES, MASKS)

    def test_channels_and_size_come_from_the_model(self) -> None:
        class Infrared(Net):
            def __init__(self) -> None:
                super().__init__()
                self.encoder[0] = nn.Conv2d(5, 6, 3, padding=1)

        class Large(Infrared):
            def forward(self, x: Tensor) -> Tensor:
                if x.shape[2] < 224:
                    raise ValueError("too small")
                return super().forward(x)

        images = torch.randn(1, 5, 224, 224)
        distiller = make({"kd": Term(ICSD(), connector="conv1x1")}, seeded(Infrared, 0), seeded(Large, 1))
        distiller(images, torch.zeros(1, 224, 224, dtype=torch.long)).loss.backward()

    def test_a_connector_has_the_models_dtype(self) -> None:
        term = Term(PKD(), student="encoder", teacher="encoder", connector="conv1x1")
        distiller = make({"pkd": term}, seeded(Net, 0).double(), seeded(Net, 1).double())
        distiller(IMAGES.double(), MASKS).loss.backward()

    def test_a_compiled_model_is_not_compiled_for_it(self) -> None:
        runs = []

        def backend(graph: torch.fx.GraphModule, example: object) -> object:
            runs.append(example)
            return graph.forward

        student = torch.compile(seeded(Net, 0), backend=backend)
        distiller = make({"pkd": Term(PKD(), student="encoder", teacher="encoder")}, student=student)
        assert runs == []
        out = distiller.eval()(IMAGES, MASKS)
        assert len(runs) == 1
        expected = PKD()(distiller.student.encoder(IMAGES), distiller.teacher.encoder(IMAGES))
        torch.testing.assert_close(out.terms["pkd"], expected.detach())
