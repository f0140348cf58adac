"""Teachers: several by name, of one's own, and outputs that are given instead."""

import copy
import gc
import weakref
from typing import Any

import pytest
import torch
from nets import CLASSES, Net, WithAux, batch, cross_entropy, seeded
from torch import Tensor, nn

from segkd import Distiller, Term
from segkd.errors import SegkdError
from segkd.losses import CWD, PKD, PixelKD
from segkd.step import Step
from segkd.teachers import Given, Live, Teacher
from segkd.weighting import RelativeDifficulty

IMAGES, MASKS = batch()


def features(teacher: str, **settings: Any) -> Term:
    return Term(PKD(), student="encoder.2", teacher=teacher, **settings)


def make(teacher: Any, terms: dict[str, Term], **arguments: Any) -> Distiller:
    return Distiller(seeded(Net, 0), teacher, terms, cross_entropy(), **arguments)


def several() -> dict[str, nn.Module]:
    return {"big": seeded(Net, 1), "wide": seeded(Net, 2, width=9)}


TERMS = {"kd": Term(PixelKD(), teacher="big:logits"), "pkd": features("wide:encoder.2", connector="conv1x1")}


def refusal(teacher: Any, terms: dict[str, Term], **arguments: Any) -> str:
    with pytest.raises(SegkdError) as error:
        make(teacher, terms, **arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


class TestSeveral:
    def test_each_term_reads_its_own(self) -> None:
        teachers = several()
        distiller = make(teachers, TERMS).eval()
        out = distiller(IMAGES, MASKS)
        expected = PixelKD()(out.student, teachers["big"](IMAGES))
        torch.testing.assert_close(out.terms["kd"], expected.detach())
        s = distiller.connectors["pkd"](distiller.student.encoder(IMAGES))
        torch.testing.assert_close(out.terms["pkd"], PKD()(s, teachers["wide"].encoder(IMAGES)).detach())
        assert list(out.teacher) == ["big", "wide"]
        torch.testing.assert_close(out.teacher["wide"], teachers["wide"](IMAGES))

    def test_a_single_one_by_name_is_as_one_alone(self) -> None:
        teacher = seeded(Net, 1)
        alone = make(teacher, {"kd": Term(PixelKD())}).eval()(IMAGES, MASKS)
        for term in (Term(PixelKD()), Term(PixelKD(), teacher="big:logits"), Term(PixelKD(), teacher="big:")):
            out = make({"big": teacher}, {"kd": term}).eval()(IMAGES, MASKS)
            torch.testing.assert_close(out.loss, alone.loss)
            torch.testing.assert_close(out.teacher, alone.teacher)
        assert make({}, {}).teacher is None

    def test_all_are_frozen_follow_to_and_are_no_part_of_the_distiller(self) -> None:
        distiller = make(several(), TERMS)
        distiller.train()
        assert set(distiller.teacher) == {"big", "wide"}
        for module in distiller.teacher.values():
            assert not any(m.training for m in module.modules())
            assert not any(p.requires_grad for p in module.parameters())
        assert all(name.startswith(("student.", "connectors.pkd.")) for name in distiller.state_dict())
        out = distiller.double()(IMAGES.double(), MASKS)
        assert {x.dtype for x in out.teacher.values()} == {torch.float64}
        twin = copy.deepcopy(distiller)
        assert twin.teacher["big"] is not distiller.teacher["big"]
        distiller.detach_hooks()
        for module in (distiller.student, *distiller.teacher.values()):
            assert not any(m._forward_hooks for m in module.modules())

    def test_they_run_one_after_the_other_and_keep_nothing(self) -> None:
        kept: list[weakref.ref[Tensor]] = []
        alive: list[int] = []

        class Watched(Net):
            def forward(self, x: Tensor) -> Tensor:
                alive.append(sum(ref() is not None for ref in kept))
                inside = self.encoder(x)
                kept.append(weakref.ref(inside))
                return self.head(inside)

        teachers = {"one": seeded(Watched, 1), "two": seeded(Watched, 2)}
        terms = {"kd": Term(PixelKD(), teacher="one:logits"), "more": Term(PixelKD(), teacher="two:logits")}
        distiller = make(teachers, terms)
        kept.clear()
        alive.clear()
        out = distiller(IMAGES, MASKS)
        gc.collect()
        assert alive == [0, 0]
        assert not any(ref() is not None for ref in kept)
        assert all(x.grad_fn is None and not x.requires_grad for x in out.teacher.values())

    def test_the_weighting_names_the_one_that_it_reads(self) -> None:
        teachers = {"plain": seeded(Net, 1), "headed": seeded(WithAux, 2)}
        weighting = RelativeDifficulty(teacher="headed")
        out = make(teachers, {}, pixel_weighting=weighting)(IMAGES, MASKS, progress=0.05)
        main, aux = out.teacher["headed"]["out"], out.teacher["headed"]["aux"]
        torch.testing.assert_close(out.pixel_weights, weighting(out.student.detach(), main, aux, MASKS, 0.05).map)
        says = refusal(teachers, {}, pixel_weighting=RelativeDifficulty())
        assert says == "pixel_weighting reads one of 2 teachers: say which, 'plain:logits' or 'headed:logits'"
        says = refusal(teachers, {}, pixel_weighting=RelativeDifficulty(teacher="haeded"))
        assert says == "pixel_weighting: there is no teacher 'haeded', did you mean 'headed'?"
        assert "auxiliary head" in refusal(teachers, {}, pixel_weighting=RelativeDifficulty(teacher="plain"))

    def test_a_teacher_whose_logits_no_term_reads_may_have_other_classes_or_none(self) -> None:
        teachers = {"big": seeded(Net, 1), "backbone": seeded(Net, 2, classes=11).encoder}
        out = make(teachers, {"kd": TERMS["kd"], "pkd": features("backbone:2")})(IMAGES, MASKS)
        assert out.terms["pkd"] > 0

    @pytest.mark.parametrize(
        ("teacher", "term", "says"),
        [
            (several(), Term(PixelKD()), "term 'x' reads one of 2 teachers: say which, 'big:logits' or 'wide:logits'"),
            (several(), features("encoder.2"), "say which, 'big:encoder.2' or 'wide:encoder.2'"),
            (several(), Term(PixelKD(), teacher="big"), "'big' is a teacher: say what is read of it, 'big:logits'"),
            (several(), features("bog:encoder.2"), "term 'x': there is no teacher 'bog', did you mean 'big'?"),
            (several(), features("big:encodr"), "the teacher 'big' has no module 'encodr': did you mean 'encoder'?"),
            (seeded(Net, 1), features("big:encoder.2"), "there is no teacher 'big', valid: teacher"),
            ([seeded(Net, 1)], Term(PixelKD()), "several teachers are given by name: {'big': big, 'small': small}"),
            (nn.ModuleList([Net()]), Term(PixelKD()), "several teachers are given by name"),
            ({"a b": seeded(Net, 1)}, Term(PixelKD()), "a teacher's name must be an identifier, got 'a b'"),
            ({"big": None}, Term(PixelKD()), "a segkd.teachers.Teacher, 'big' is a NoneType"),
            (Net, Term(PixelKD()), "a segkd.teachers.Teacher, 'teacher' is a class"),
            ("runs/teacher", Term(PixelKD()), "a segkd.teachers.Teacher, 'teacher' is a str"),
        ],
    )
    def test_what_is_refused(self, teacher: Any, term: Term, says: str) -> None:
        assert says in refusal(teacher, {"x": term})

    def test_none_may_share_parameters_with_the_student(self) -> None:
        student = seeded(Net, 0)
        for teacher in ({"big": seeded(Net, 1), "same": student}, Live(student)):
            with pytest.raises(SegkdError, match="share parameters"):
                Distiller(student, teacher, {}, cross_entropy())


ALONE = {"kd": Term(PixelKD()), "pkd": features("encoder.2")}


class TestGiven:
    def outputs(self, distiller: Distiller) -> dict[str, Tensor]:
        teacher = distiller.teacher
        return {"logits": teacher(IMAGES).detach(), "encoder.2": teacher.encoder(IMAGES).detach()}

    def test_takes_the_place_of_a_run(self) -> None:
        distiller = make(seeded(Net, 1), ALONE).eval()
        expected, outputs = distiller(IMAGES, MASKS), self.outputs(distiller)
        runs: list[int] = []
        distiller.teacher.register_forward_hook(lambda *_: runs.append(1))
        out = distiller(IMAGES, MASKS, teacher=outputs)
        assert not runs
        assert out.teacher is outputs
        torch.testing.assert_close(out.terms, expected.terms)
        assert distiller(IMAGES, MASKS).loss == out.loss
        assert runs == [1]

    def test_one_that_is_never_there(self) -> None:
        outputs = self.outputs(make(seeded(Net, 1), ALONE))
        distiller = make(Given(), ALONE).eval()
        assert distiller.teacher is None
        expected = make(seeded(Net, 1), ALONE).eval()(IMAGES, MASKS)
        torch.testing.assert_close(distiller(IMAGES, MASKS, teacher=outputs).loss, expected.loss)
        with pytest.raises(SegkdError, match=r"give its outputs, teacher=\{'logits': ..., 'encoder.2': ...\}"):
            distiller(IMAGES, MASKS)

    def test_a_connector_by_name_needs_the_shapes(self) -> None:
        terms = {"pkd": features("encoder.2", connector="conv1x1")}
        assert "needs the models' channels, but the shapes of the teacher" in refusal(Given(), terms)
        distiller = make(Given({"encoder.2": (9, 16, 24)}), terms)
        assert distiller.connectors["pkd"].weight.shape == (9, 6, 1, 1)
        says = refusal(Given({"encoder.2": (9, 16, 24)}), {"pkd": features("encoder.2")})
        assert "'encoder.2' has 9: give connector='conv1x1'" in says

    def test_of_several_by_name_and_the_others_run(self) -> None:
        teachers = several()
        distiller = make(teachers, TERMS).eval()
        expected = distiller(IMAGES, MASKS)
        runs: list[str] = []
        for name, module in teachers.items():
            module.register_forward_hook(lambda *_, name=name: runs.append(name))
        out = distiller(IMAGES, MASKS, teacher={"big": {"logits": expected.teacher["big"]}})
        assert runs == ["wide"]
        torch.testing.assert_close(out.loss, expected.loss)

    def test_the_weighting_reads_them_too(self) -> None:
        teacher = seeded(WithAux, 1)
        distiller = make(teacher, {}, pixel_weighting=RelativeDifficulty()).eval()
        expected = distiller(IMAGES, MASKS, progress=0.05)
        outputs = {"logits": expected.teacher["out"], "aux": expected.teacher["aux"]}
        out = distiller(IMAGES, MASKS, progress=0.05, teacher=outputs)
        torch.testing.assert_close(out.pixel_weights, expected.pixel_weights)
        with pytest.raises(SegkdError, match="needs a teacher with an auxiliary head"):
            distiller(IMAGES, MASKS, progress=0.05, teacher={"logits": outputs["logits"]})

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"encoder.2": None}, r"the teacher's given outputs lack 'encoder.2': they have 'logits'"),
            (
                {"logits": torch.zeros(3, CLASSES, 16, 24)},
                r"given 'logits' must be \(2, 5, h, w\), got \(3, 5, 16, 24\)",
            ),
            ({"logits": torch.zeros(2, 7, 16, 24)}, r"given 'logits' must be \(2, 5, h, w\), got \(2, 7, 16, 24\)"),
            ({"logits": torch.zeros(2, CLASSES)}, r"given 'logits' must be \(2, 5, h, w\), got \(2, 5\)"),
            ({"logits": "zeros"}, "given 'logits' must be a tensor, or a list or mapping of them, got a str"),
            ({"encoder.2": [torch.zeros(2, 6, 16, 24)] * 2}, "given 'encoder.2' must be 1 tensors, got 2"),
        ],
    )
    def test_what_does_not_fit(self, change: dict[str, Any], says: str) -> None:
        distiller = make(seeded(Net, 1), ALONE)
        outputs = {key: value for key, value in {**self.outputs(distiller), **change}.items() if value is not None}
        with pytest.raises(SegkdError, match=says) as error:
            distiller(IMAGES, MASKS, teacher=outputs)
        assert "\n" not in str(error.value)

    def test_what_is_no_mapping_of_places(self) -> None:
        with pytest.raises(SegkdError, match=r"are given by place, \{'logits': ...\}, got a Tensor"):
            make(seeded(Net, 1), {})(IMAGES, MASKS, teacher=torch.zeros(2, CLASSES, 16, 24))
        with pytest.raises(SegkdError, match="has no teacher to give the outputs of"):
            make(None, {})(IMAGES, MASKS, teacher={"logits": torch.zeros(2, CLASSES, 16, 24)})
        with pytest.raises(SegkdError, match=r"no teacher 'logits', .* by name, teacher={'big': {'logits': ...}}"):
            make(several(), TERMS)(IMAGES, MASKS, teacher={"logits": torch.zeros(2, CLASSES, 16, 24)})

    def test_a_loss_that_runs_the_teachers_layers_refuses(self) -> None:
        def own(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
            return (student - teacher).square().mean()

        own.needs_live = True
        assert "term 'x': function runs layers of the teacher itself" in refusal(Given(), {"x": Term(own)})
        distiller = make(seeded(Net, 1), {"x": Term(own)})
        with pytest.raises(SegkdError, match="runs layers of the teacher itself: its outputs cannot be given"):
            distiller(IMAGES, MASKS, teacher={"logits": torch.zeros(2, CLASSES, 16, 24)})


def test_a_live_teacher_may_teach_in_two_distillers() -> None:
    live = Live(seeded(Net, 1))
    first, second = (make(live, {"pkd": features(place)}).eval() for place in ("encoder", "encoder.2"))
    torch.testing.assert_close(first(IMAGES, MASKS).terms, second(IMAGES, MASKS).terms)
    assert not any(module.training for module in live.module.modules())


class Constant:
    """A teacher of one's own: the same logits for every image, and the step that it saw."""

    def __init__(self, offered: Any = True) -> None:
        self.offered, self.steps = offered, list[Step]()

    def offers(self, reads: Any) -> Any:
        return self.offered

    def __call__(self, step: Step, reads: Any) -> dict[str, Tensor]:
        self.steps.append(step)
        return {"logits": torch.arange(CLASSES).float().view(1, -1, 1, 1).expand(len(step.images), CLASSES, 4, 6)}


class TestOnesOwn:
    @pytest.mark.parametrize("offered", [True, ["logits"], {"logits": None}, {"logits": (CLASSES, 4, 6)}])
    def test_anything_that_offers_and_is_called(self, offered: Any) -> None:
        teacher = Constant(offered)
        assert isinstance(teacher, Teacher)
        views = [(0, 3), (0, 7)]
        out = make(teacher, {"kd": Term(PixelKD())})(IMAGES, MASKS, 0.25, views=views)
        (step,) = teacher.steps
        assert (step.views, step.progress, step.images is IMAGES) == (views, 0.25, True)
        assert out.teacher["logits"].shape == (2, CLASSES, 4, 6)

    def test_what_it_does_not_offer(self) -> None:
        says = refusal(Constant(["logit"]), {"kd": Term(PixelKD())})
        assert says == "the teacher 'teacher' does not offer 'logits': did you mean 'logit'?"
        says = refusal(Constant({"logits": (7, 4, 6)}), {"kd": Term(PixelKD())})
        assert f"the student has {CLASSES} classes, the teacher 7" in says

    def test_what_it_does_not_give_after_all(self) -> None:
        distiller = make(Constant(), {"cwd": Term(CWD(), student="encoder.2", teacher="body")})
        with pytest.raises(SegkdError, match="reads 'body', which the teacher did not give: it gave 'logits'"):
            distiller(IMAGES, MASKS)
