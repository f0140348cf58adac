"""Networks as student and teacher: raw images for both, logits in the student's classes, tokens as maps."""

from typing import Any

import pytest
import torch
from nets import CLASSES, Net, WithAux, batch, cross_entropy, seeded
from torch import Tensor, nn

from segkd import Distiller, Term
from segkd.adapter import Adapter
from segkd.losses import PKD, PixelKD
from segkd.network import Network
from segkd.weighting import RelativeDifficulty

RAW, MASKS = torch.randint(0, 256, (2, 3, 16, 24), dtype=torch.uint8), batch()[1]
OF_STUDENT = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
OF_TEACHER = ((0.5, 0.4, 0.3), (0.5, 0.25, 0.2))


def network(module: nn.Module, of: Any = OF_STUDENT, **settings: Any) -> Network:
    return Network(module, mean=of[0], std=of[1], **settings)


def normalised(of: Any) -> Tensor:
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in of)
    return (RAW.float() / 255 - mean) / std


@pytest.mark.parametrize("compiled", [False, True])
def test_the_same_step_as_with_plain_models(compiled: bool) -> None:
    student, teacher = seeded(Net, 0).eval(), seeded(WithAux, 1, classes=7)
    class_map = [0, 1, 2, 3, 4, 4, None]
    terms = {"kd": Term(PixelKD()), "pkd": Term(PKD(), student="encoder.2", teacher="encoder.2")}
    adapter = Adapter(OF_STUDENT, OF_TEACHER, class_map)
    arguments: dict[str, Any] = {"pixel_weighting": RelativeDifficulty()}
    plain = Distiller(student, teacher, terms, cross_entropy(), adapter=adapter, **arguments)
    expected = plain(normalised(OF_STUDENT), MASKS, 0.05)
    models: list[Any] = [network(student), network(teacher, OF_TEACHER, class_map=class_map)]
    if compiled:
        models = [torch.compile(model, backend="eager") for model in models]
    out = Distiller(*models, terms, cross_entropy(), **arguments)(RAW, MASKS, 0.05)
    torch.testing.assert_close(out.terms, expected.terms)
    torch.testing.assert_close(out.pixel_weights, expected.pixel_weights)
    assert out.teacher["out"].shape[1] == 7


class Patches(nn.Module):
    """A backbone whose output is tokens (B, N, C), one for each 4 x 4 pixels, after a class token."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.blocks = nn.Conv2d(3, 6, 4, 4), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        return self.blocks(torch.cat([tokens.mean(1, keepdim=True), tokens], 1))


def test_tokens_are_read_as_maps() -> None:
    def as_map(module: nn.Module, output: Tensor, size: tuple[int, int]) -> Tensor:
        return output[:, 1:].transpose(1, 2).unflatten(2, (size[0] // 4, size[1] // 4))

    torch.manual_seed(0)
    teacher = network(Patches(), as_map=as_map, multiple=4)
    terms = {"pkd": Term(PKD(), student="encoder", teacher="blocks")}
    out = Distiller(network(seeded(Net, 0, stride=4)), teacher, terms, cross_entropy())(RAW, MASKS)
    assert out.teacher.shape == (2, 25, 6)
    assert out.terms["pkd"] > 0


def test_a_network_is_tried_on_images_that_it_takes() -> None:
    class Sized(Net):
        def forward(self, x: Tensor) -> Tensor:
            assert x.shape[-2:] in ((42, 28), (70, 70)), x.shape
            return super().forward(x)

    for settings in ({"size": (42, 28)}, {"multiple": 14}):
        term = Term(PKD(), student="encoder", teacher="encoder", connector="conv1x1")
        teacher = network(seeded(Sized, 1, width=9), **settings)
        distiller = Distiller(network(seeded(Net, 0)), teacher, {"pkd": term}, cross_entropy())
        assert distiller.connectors["pkd"].weight.shape == (9, 6, 1, 1)
    assert Adapter().example(network(nn.Conv2d(4, CLASSES, 1), ((0.0,) * 4, (1.0,) * 4)), 64).shape == (1, 4, 64, 64)
