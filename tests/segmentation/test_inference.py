import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segkd.errors import SegkdError
from segkd.models.smp import build_model
from segkd.segmentation import inference
from segkd.segmentation.inference import predict_classes, predict_logits


def images(*size):
    return torch.randn(*size, generator=torch.Generator().manual_seed(0))


class Pointwise(nn.Module):
    """Logits of a pixel depend on it alone, at full resolution: any way of cutting the image gives the same."""

    def forward(self, x):
        self.sizes = [*getattr(self, "sizes", []), tuple(x.shape[-2:])]
        return torch.cat([x, 2 * x.sum(1, keepdim=True)], 1)


class Quarter(nn.Module):
    def forward(self, x):
        return {"out": F.avg_pool2d(x, 4), "aux": x}


def test_logits_come_at_label_size():
    x = images(2, 3, 32, 48)
    logits = predict_logits(Quarter(), x, (64, 100))
    assert torch.equal(logits, F.interpolate(F.avg_pool2d(x, 4), size=(64, 100), mode="bilinear", align_corners=False))
    assert torch.equal(predict_logits(Pointwise(), x, (32, 48))[:, :3], x)


@pytest.mark.parametrize("arch", ["DeepLabV3Plus", "PSPNet", "Unet"])
@pytest.mark.parametrize("auxiliary", [False, True])
def test_images_of_any_size(arch, auxiliary):
    model = build_model(arch, "resnet18", 4, auxiliary=auxiliary).eval()
    assert predict_logits(model, images(1, 3, 50, 71), (50, 71)).shape == (1, 4, 50, 71)
    fitting = images(1, 3, 64, 64)
    with torch.no_grad():
        out = model(fitting)
    assert torch.equal(predict_logits(model, fitting, (64, 64)), out["out"] if auxiliary else out)


def test_padding_is_on_the_far_sides_and_cut_off():
    model = Pointwise()
    model.requires_divisible_input_shape = True
    model.encoder = nn.Identity()
    model.encoder.output_stride = 16
    x = images(1, 3, 50, 71)
    assert torch.equal(predict_logits(model, x, (50, 71))[:, :3], x)
    assert model.sizes == [(64, 80)]


@pytest.mark.parametrize(
    ("window", "stride"), [(16, None), ((20, 30), (7, 30)), (16, 16), (33, 5), (1, None), (500, None)]
)
def test_windows_cover_every_pixel_and_overlaps_are_averaged(window, stride):
    x = images(2, 3, 33, 47)
    model = Pointwise()
    logits = predict_logits(model, x, (33, 47), mode="sliding", window=window, stride=stride)
    torch.testing.assert_close(logits, predict_logits(Pointwise(), x, (33, 47)))
    height, width = (window, window) if isinstance(window, int) else window
    assert set(model.sizes) == {(min(height, 33), min(width, 47))}


def test_overlap_is_the_mean():
    class Position(nn.Module):
        """A logit that depends on where in its window a pixel lies."""

        def forward(self, x):
            return torch.arange(x.shape[-1], dtype=x.dtype).expand(1, 1, *x.shape[-2:])

    logits = predict_logits(Position(), images(1, 3, 2, 6), (2, 6), mode="sliding", window=(2, 4), stride=2)
    assert logits[0, 0, 0].tolist() == [0, 1, 1, 2, 2, 3]  # columns 2 and 3: mean of 2, 0 and of 3, 1


@pytest.mark.parametrize("window", [64, (64, 96), 500])
def test_a_window_as_large_as_the_image_is_the_whole(window):
    model = build_model("DeepLabV3Plus", "resnet18", 4).eval()
    x = images(1, 3, 64, 64) if window == 64 else images(1, 3, 60, 90)
    whole = predict_logits(model, x, (70, 100))
    torch.testing.assert_close(predict_logits(model, x, (70, 100), mode="sliding", window=window), whole)


class LeftRight(nn.Module):
    """Two classes: the one's logit is the colour, the other's grows from left to right, whatever the image shows."""

    def forward(self, x):
        ramp = torch.linspace(-1, 1, x.shape[-1]).expand(len(x), 1, *x.shape[-2:])
        return torch.cat([x[:, :1], ramp], 1)


class TestClasses:
    def test_of_one_view_are_those_of_the_largest_logit(self):
        x = images(3, 3, 32, 48)
        found = predict_classes(Quarter(), [x], [(32, 48), (50, 70), (8, 12)])
        assert [tuple(mask.shape) for mask in found] == [(32, 48), (50, 70), (8, 12)]
        assert all(mask.dtype == torch.uint8 for mask in found)
        for index, mask in enumerate(found):
            logits = predict_logits(Quarter(), x[index : index + 1], tuple(mask.shape))
            assert torch.equal(mask, logits[0].argmax(0).to(torch.uint8))

    def test_of_several_views_are_those_of_the_largest_mean_probability(self):
        views = [images(2, 3, 32, 48), 3 * images(2, 3, 20, 30), images(2, 3, 64, 96).neg()]
        found = predict_classes(Quarter(), views, [(40, 60), (40, 60)])
        means = sum(predict_logits(Quarter(), view, (40, 60)).softmax(1) for view in views) / 3
        assert torch.equal(torch.stack(found), means.argmax(1).to(torch.uint8))
        # Not the mean of logits, nor the vote of the first.
        assert not torch.equal(
            torch.stack(found), sum(predict_logits(Quarter(), view, (40, 60)) for view in views).argmax(1)
        )

    def test_flip_averages_with_the_mirrored_image_mirrored_back(self):
        x = images(2, 3, 32, 48)
        found = torch.stack(predict_classes(LeftRight(), [x], [(32, 48)] * 2, flip=True))
        seen, mirrored = LeftRight()(x), LeftRight()(x.flip(-1)).flip(-1)
        assert torch.equal(found, (seen.softmax(1) + mirrored.softmax(1)).argmax(1).to(torch.uint8))
        (back,) = predict_classes(LeftRight(), [x[:1].flip(-1)], [(32, 48)], flip=True)
        assert torch.equal(back.flip(-1), found[0])
        (alone,) = predict_classes(LeftRight(), [x[:1]], [(32, 48)])
        assert not torch.equal(alone, found[0])

    def test_windows(self):
        model = Pointwise()
        (found,) = predict_classes(model, [images(1, 3, 33, 47)], [(33, 47)], "sliding", (20, 30), 10, flip=True)
        assert set(model.sizes) == {(20, 30)}
        (whole,) = predict_classes(Pointwise(), [images(1, 3, 33, 47)], [(33, 47)])
        assert torch.equal(found, whole)

    def test_in_half_precision(self):
        x = images(1, 3, 8, 8).to(torch.bfloat16)
        (found,) = predict_classes(Pointwise(), [x, x], [(8, 8)])
        assert torch.equal(found, Pointwise()(x).float().argmax(1)[0].to(torch.uint8))

    @pytest.mark.parametrize("size", [(33, 47), (70, 50)])
    def test_in_strips_are_those_of_all_logits(self, size, monkeypatch):
        monkeypatch.setattr(inference, "STRIP", 200)
        monkeypatch.setattr(inference, "BAND", 3)
        views = [images(2, 3, 33, 47), 3 * images(2, 3, 20, 30)]
        sliding = {"mode": "sliding", "window": (11, 16), "stride": (7, 9)}
        found = torch.stack(predict_classes(Quarter(), views, [size] * 2, **sliding, flip=True))
        logits = [predict_logits(Quarter(), view, size, **sliding) for view in views]
        logits += [predict_logits(Quarter(), view.flip(-1), size, **sliding).flip(-1) for view in views]
        assert torch.equal(found, sum(each.softmax(1) for each in logits).argmax(1).to(torch.uint8))


LARGE = """
import sys
import numpy, torch
from segkd.segmentation.inference import predict_logits
from segkd.network import Network
model = torch.nn.Conv2d(3, 19, 1).eval()
student = Network(model, mean=[0.5] * 3, std=[0.5] * 3, recorded={"window": 512})
size = (int(sys.argv[2]), int(sys.argv[3]))
def peak():  # of this process: getrusage counts the one that started it too
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) * 1024
if sys.argv[1] == "logits":
    images = torch.rand(1, 3, *size)
    predict_logits(model, images[..., :512, :512], (512, 512))  # what the library itself takes, once
    before = peak()
    assert predict_logits(model, images, size, "sliding", 512).shape[1] == 19
else:
    image = numpy.zeros((*size, 3), numpy.uint8)
    before = peak()
    assert student.predict(image, mode="sliding").shape == size
print(peak() - before, peak())
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "size", "extra", "most"),
    [("logits", (4000, 4000), 1.3e9, 3e9), ("classes", (4000, 4000), 0.7e9, 2e9), ("classes", (4000, 6000), 1e9, 3e9)],
)
def test_memory_of_a_large_image(what, size, extra, most):
    command = [sys.executable, "-c", LARGE, what, *map(str, size)]
    # What is freed goes back at once, else the peak is another each time.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "1000000"}
    shown = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    more, peak = map(int, shown.stdout.split())
    assert more < extra
    assert peak < most


def test_no_gradient_and_the_mode_stays():
    model = build_model("Unet", "resnet18", 4)
    assert not predict_logits(model, images(2, 3, 64, 64), (64, 64)).requires_grad
    assert model.training


def test_errors():
    x = images(1, 3, 8, 8)
    with pytest.raises(SegkdError, match="'sliding'"):
        predict_logits(Pointwise(), x, (8, 8), mode="slide")
    with pytest.raises(SegkdError, match="'sliding'"):
        predict_classes(Pointwise(), [x], [(8, 8)], mode="slide")
    with pytest.raises(SegkdError, match="window"):
        predict_logits(Pointwise(), x, (8, 8), mode="sliding")
    for window, stride in ((4, 5), (4, 0), (0, None)):
        with pytest.raises(SegkdError, match="1 <= stride <= window"):
            predict_logits(Pointwise(), x, (8, 8), mode="sliding", window=window, stride=stride)
