import pytest
import torch
from detection.detectors import detector, distil
from detection.methods.base import IMAGES, TARGETS, MethodTests, tiny
from recipe import normal

from segkd import Term
from segkd.detection.methods.dual_relation import DualRelation, ObjectRelation, PixelRelation
from segkd.errors import SegkdError


class TestDualRelation(MethodTests):
    loss = DualRelation
    settings = ({"nodes": [4, 8]}, {"relation_filter": True})
    needs_boxes = False  # of pixels
    zero = False  # both sides' layers differ

    def test_is_zero_without_a_gradient_where_models_and_layers_are_alike(self) -> None:
        distiller = self.distiller("gfl", {"nodes": [4, 8]}, tiny("gfl", 1, copy=1))
        loss = distiller.losses["own"]
        for relation in (*loss.pixels.values(), *loss.relations.values()):
            relation.student.load_state_dict(relation.teacher.state_dict())
        adapters = [module for name, module in loss.named_modules() if name.startswith("adapters.")]
        for adapter in [
            *adapters,
            *(relation.adapter for relation in (*loss.pixels.values(), *loss.relations.values())),
        ]:
            torch.nn.init.dirac_(adapter.weight)
            torch.nn.init.zeros_(adapter.bias)
        value, _ = self.step(distiller)
        assert value == 0
        assert not any(p.grad.any() for p in distiller.student.parameters() if p.grad is not None)

    def test_layers_of_the_levels_and_of_what_has_a_weight(self) -> None:
        loss = self.distiller("gfl", {"region": 0.0}).losses["own"]
        nodes = {int(level): layers.student.project.out_channels for level, layers in loss.pixels.items()}
        assert nodes == {8: 64, 16: 64, 32: 256, 64: 256, 128: 256}
        assert (list(loss.relations), list(loss.adapters)) == (["8", "16"], [])
        loss = self.distiller("faster_rcnn", {"pixel": 0.0, "relation": 0.0}).losses["own"]
        assert (len(loss.pixels), len(loss.relations), list(loss.adapters)) == (0, 0, ["4", "8"])
        loss = self.distiller("gfl", {"strides": [32, 16]}).losses["own"]
        assert (list(loss.pixels), list(loss.adapters)) == (["16", "32"], ["16", "32"])

    def test_each_image_reads_its_own_map(self) -> None:
        distiller = self.distiller("gfl", {"pixel": 0.0, "nodes": [4, 8]})
        # Alike in size, so that neither is padded for the other.
        images = [image[:, :100, :100] for image in (IMAGES[0], IMAGES[1])]
        of_all, *of_each = (
            self.step(distiller, [images[i] for i in which], [TARGETS[i] for i in which])[0]
            for which in ((0, 1), (0,), (1,))
        )
        torch.testing.assert_close(of_all, sum(of_each))

    def test_the_filter_is_drawn_anew_from_the_generator(self) -> None:
        distiller = self.distiller("gfl", {"pixel": 0.0, "relation": 1.0, "region": 0.0, "relation_filter": True})
        loss = distiller.losses["own"]
        values = []
        for seed in (0, None, 0):
            if seed is not None:
                loss.generator = torch.Generator().manual_seed(seed)
            values.append(self.step(distiller)[0])
        assert values[0] == values[2] != values[1]

    def test_options_and_inputs_that_do_not_fit(self) -> None:
        for nodes in ([64], [64, 0]):
            with pytest.raises(SegkdError, match=r"dual_relation's nodes must be two numbers of at least 1, got \[64"):
                DualRelation(nodes=nodes)
        for weights in ({"pixel": -1.0}, {"pixel": 0.0, "relation": 0.0, "region": 0.0}):
            with pytest.raises(SegkdError, match="dual_relation's weights must be at least 0 and not all 0, got"):
                DualRelation(**weights)
        with pytest.raises(SegkdError, match=r"call prepare\(student, teacher\) first"):
            DualRelation().terms(None, None, TARGETS)
        with pytest.raises(SegkdError, match=r"dual_relation compares levels of strides \[4\], and .* share \[8, 16,"):
            distil(detector("gfl"), detector("gfl"), {"own": Term(DualRelation(strides=[4]))})


def test_gradcheck_with_other_channels() -> None:
    torch.manual_seed(0)
    pixel, objects = PixelRelation(3, 4, 2).double(), ObjectRelation(1).double()
    student, teacher = normal(0, [2, 3, 2, 3]).requires_grad_(), normal(1, [2, 4, 2, 3])
    assert torch.autograd.gradcheck(lambda s: pixel(s, teacher), (student,))
    regions = normal(2, [3, 1, 3, 3]).requires_grad_()
    drawn = (normal(3, [3, 9]), normal(4, [3]))
    assert torch.autograd.gradcheck(lambda r: objects(r, drawn), (regions,))


def test_a_single_cell_of_a_single_image() -> None:
    layers = PixelRelation(3, 4, 2)
    torch.nn.init.ones_(layers.student.norm.bias)
    student = torch.randn(1, 3, 1, 1, requires_grad=True)
    torch.testing.assert_close(layers.student(student), student + 1)
    layers(student, torch.randn(1, 4, 1, 1)).backward()
    assert all(x.grad.isfinite().all() for x in (student, *layers.parameters()))
