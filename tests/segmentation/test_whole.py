"""A stored teacher that has seen whole images: what it says of a view is where the view lies."""

import copy
from typing import Any

import pytest
import torch
from nets import Net
from torch import Tensor, nn

from segkd.data.transforms import train_transform
from segkd.distiller import Distiller
from segkd.errors import SegkdError
from segkd.losses import PixelKD
from segkd.segmentation.whole import SIZE, Whole, cut
from segkd.step import Step
from segkd.term import Term


class Same(nn.Module):
    """Says of each pixel, or of each square of pixels, what it is: its logits are the image."""

    def __init__(self, stride: int = 1) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(stride)

    def forward(self, images: Tensor) -> Tensor:
        pooled: Tensor = self.pool(images)
        return pooled


def distilled(model: nn.Module, learner: nn.Module | None = None, **term: Any) -> Distiller:
    """Return a distiller whose teacher is stored by whole images."""
    terms = {"term": Term(**{"loss": PixelKD(), **term})}
    return Distiller(learner or copy.deepcopy(model), Whole(model), terms, nn.CrossEntropyLoss())


def stored(model: nn.Module) -> Any:
    return distilled(model).teachers["teacher"]


def ramp(height: int, width: int) -> Tensor:
    y, x = torch.meshgrid(torch.arange(height) / height, torch.arange(width) / width, indexing="ij")
    return torch.stack([x, y, (x + y) / 2])


def test_the_whole_image_is_itself_and_mirrored_it_is_mirrored() -> None:
    x = torch.randn(5, 6, 9)
    assert torch.allclose(cut(x, torch.tensor([0.0, 0, 1, 1]), (6, 9), (6, 9)), x, atol=1e-5)
    assert torch.allclose(cut(x, torch.tensor([1.0, 0, 0, 1]), (6, 9), (6, 9)), x.flip(-1), atol=1e-5)
    quarter = cut(x, torch.tensor([1 / 3, 0.5, 2 / 3, 1]), (6, 9), (3, 3))
    assert torch.allclose(quarter, x[:, 3:, 3:6], atol=1e-5)


def test_beyond_the_border_the_nearest_value_is_repeated() -> None:
    x = torch.randn(2, 4, 4)
    found = cut(x, torch.tensor([-1.0, 0, 0, 1]), (4, 4), (4, 4))
    assert torch.allclose(found, x[:, :, :1].expand(2, 4, 4), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_type_and_size_are_those_of_a_views_map(dtype: torch.dtype) -> None:
    found = cut(torch.zeros(7, 30, 40, dtype=dtype), torch.tensor([0.1, 0.1, 0.5, 0.6]), (240, 320), (160, 224))
    assert (found.dtype, found.shape) == (dtype, (7, 20, 28))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_mixed_precision_rounds_not_where_a_view_lies(dtype: torch.dtype) -> None:
    x, crop = torch.randn(3, 60, 80).to(dtype), torch.tensor([0.93, 0.21, 0.27, 0.88])
    expected = cut(x, crop, (240, 320), (160, 224))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(cut(x, crop, (240, 320), (160, 224)), expected)


@pytest.mark.parametrize("stride", [1, 4])
def test_a_view_reads_what_the_teacher_says_of_it(stride: int) -> None:
    """Of a teacher that sees no further than a square it is the same, but where an image or a view is resampled."""
    teacher = stored(Same(stride))
    image = (ramp(96, 120) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    transform = train_transform((48, 64), scale=(0.8, 1.6)).with_crops()
    kept = teacher.keep(torch.as_tensor(image).permute(2, 0, 1)[None] / 255, ["logits"])
    entry = {place: value[0] for place, value in kept.items()}
    for seed in range(10):
        out, _, crop = transform.apart(image, None, seed)
        view = torch.as_tensor(out.image).permute(2, 0, 1)[None] / 255
        step = Step(view, views=[(0, 0)], crops=torch.tensor([crop]))
        found = teacher.together([{**entry}], step, view.device)["logits"]
        said = Same(stride)(view)
        assert found.shape == said.shape
        # Away from the image's border, beyond which there is padding.
        x = torch.linspace(*(crop[i] for i in (0, 2)), found.shape[3])
        y = torch.linspace(*(crop[i] for i in (1, 3)), found.shape[2])
        inner = ((y > 0.06) & (y < 0.94))[:, None] & ((x > 0.06) & (x < 0.94))
        assert inner.any()
        assert (found - said)[0, :, inner].abs().max() < 0.012


def test_sizes_that_the_model_cannot_take_are_padded() -> None:
    class Strict(Same):
        requires_divisible_input_shape = True
        encoder = type("Encoder", (), {"output_stride": 8})

        def forward(self, images: Tensor) -> Tensor:
            assert images.shape[-2] % 8 == images.shape[-1] % 8 == 0
            return super().forward(images)

    image = ramp(50, 61)[None]
    teacher = stored(Strict())
    kept = teacher.keep(image, ["logits"])
    assert kept[SIZE].tolist() == [[50, 61, 56, 64]]
    assert kept["logits"].shape == (1, 3, 56, 64)
    step = Step(torch.zeros(1, 3, 50, 61), views=[(3, 0)], crops=torch.tensor([[0.0, 0, 1, 1]]))
    found = teacher.together([{place: x[0] for place, x in kept.items()}], step, image.device)
    assert torch.allclose(found["logits"], image, atol=1e-5)


class Entries(dict[Any, Any]):
    """Stored outputs in memory."""

    def read(self, view: tuple[int, int], places: Any) -> Any:
        return None if view not in self else {place: self[view][place] for place in places}


def test_in_a_distiller_all_views_of_an_image_read_one_entry() -> None:
    torch.manual_seed(0)
    distiller = distilled(model := Net(classes=4), Net(classes=4))
    image, target = torch.rand(1, 3, 32, 32), torch.zeros(1, 32, 32, dtype=torch.long)
    teacher: Any = distiller.teachers["teacher"]
    teacher.entries = Entries({(0, 0): {place: x[0] for place, x in teacher.keep(image, ["logits"]).items()}})
    runs: list[int] = []
    model.register_forward_hook(lambda *_: runs.append(1))

    def term(**given: Any) -> float:
        return float(distiller(image, target, **given).terms["term"])

    everything = torch.tensor([[0.0, 0, 1, 1]])
    distiller.eval()  # else each step would change the student's batch norm
    live = term()  # its views are not known
    assert len(runs) == 1
    for epoch in (0, 9):
        assert term(views=[(epoch, 0)], crops=everything) == pytest.approx(live, rel=1e-4)
    assert term(views=[(0, 0)], crops=torch.tensor([[0.5, 0, 0, 0.5]])) != pytest.approx(live, rel=1e-3)
    assert len(runs) == 1
    with pytest.raises(SegkdError, match="needs the crops of the views"):
        term(views=[(0, 0)])


def test_what_is_no_map_is_refused() -> None:
    class Tokens(Same):
        def __init__(self) -> None:
            super().__init__()
            self.tokens = nn.Flatten(2)

        def forward(self, images: Tensor) -> Tensor:
            self.tokens(images)
            return super().forward(images)

    teacher: Any = distilled(Tokens(), loss=nn.MSELoss(), student="tokens", teacher="tokens").teachers["teacher"]
    with pytest.raises(SegkdError, match=r"teacher.store.whole: 'tokens' gives \(1, 3, 64\), not maps"):
        teacher.keep(torch.rand(1, 3, 8, 8), ["tokens"])
