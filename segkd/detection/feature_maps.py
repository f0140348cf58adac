"""Networks as feature maps: which modules of a classifier give one at each stride, and those of a detector's FPN."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torchvision.models.detection.image_list import ImageList

from segkd.trial import undisturbed

# Not square, and one side no power of two: in whatever order a map has its dimensions, its stride is unambiguous.
_HEIGHT, _WIDTH = 128, 192


class Layout(NamedTuple):
    """What shape a feature map has: (B, C, H / stride, W / stride), or with its channels last."""

    stride: int
    channels: int
    channels_last: bool


def layouts(body: nn.Module) -> list[Layout | None]:
    """Return the layout of each map that a network returns, None for what is no map of an exact stride."""
    with torch.no_grad():
        return [_layout(x) for x in _probe(body)]


def freeze_up_to(body: nn.Module, stride: int) -> None:
    """Take the gradient from all parameters that the last map of this stride depends on, of those returned."""
    with torch.enable_grad():
        maps = [x for x in _probe(body) if (found := _layout(x)) is not None and found.stride == stride]
        parameters = list(body.parameters())
        reached = torch.autograd.grad(maps[-1].sum(), parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, reached, strict=True):
        if gradient is not None:
            parameter.requires_grad_(False)


class Chain(nn.Module):
    """Some modules of a network, under their names there, run one after the other; of some the output is returned."""

    def __init__(self, network: nn.Module, names: list[str], returned: set[str]) -> None:
        super().__init__()
        for name in dict.fromkeys(name.split(".")[0] for name in names):
            self.add_module(name, network.get_submodule(name))
        self.names, self.returned = names, returned

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the outputs, of images (B, 3, H, W)."""
        maps = []
        for name in self.names:
            x = self.get_submodule(name)(x)
            if name in self.returned:
                maps.append(x)
        return maps


def cut(network: nn.Module) -> Chain:
    """Return the part of a classification network that gives feature maps, and of each stride from 4 up the deepest.

    It runs modules one after the other, at its top and within an `nn.Sequential`.
    """
    strides = _chain(network)
    deepest = {stride: name for name, stride in strides.items() if stride >= 4}
    return Chain(network, list(strides), set(deepest.values()))


def _layout(x: object) -> Layout | None:
    if not isinstance(x, Tensor) or x.dim() != 4:
        return None
    _, a, b, c = x.shape
    for height, width, channels, channels_last in ((b, c, a, False), (a, b, c, True)):
        if _HEIGHT % height == 0 and height * _WIDTH == width * _HEIGHT:
            return Layout(_HEIGHT // height, channels, channels_last)
    return None


def _probe(network: nn.Module) -> Any:
    with undisturbed(network):
        return network(torch.zeros(1, 3, _HEIGHT, _WIDTH))


@torch.no_grad()
def _chain(network: nn.Module) -> dict[str, int]:
    """Return the strides after the modules that a network runs one after the other, by their names, in that order.

    Found by running it: each takes what the one before returned. A sequence that goes through several strides is
    looked into. What takes or returns something else than a feature map, such as a classifier, is left out.
    """
    names = {module: name for name, module in network.named_modules()}
    calls: list[dict[str, Any]] = []
    running: list[dict[str, Any]] = []

    def before(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        calls.append({"module": module, "input": inputs[0] if inputs else None})
        running.append(calls[-1])

    def after(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        running.pop()["output"] = output

    with register_module_forward_pre_hook(before), register_module_forward_hook(after):
        _probe(network)
    whole, *parts = (call for call in calls if call["module"] in names)
    x, stride, within = whole["input"], 1, None
    strides = {}
    for call in parts:
        name, found = names[call["module"]], _layout(call["output"])
        # An activation in place within the last module returns the very tensor that the module does.
        if call["input"] is not x or found is None or (within and name.startswith(within)):
            continue
        if isinstance(call["module"], nn.Sequential) and found.stride > 2 * stride:
            continue
        x, stride, within = call["output"], found.stride, f"{name}."
        strides[name] = stride
    return strides


def fpn_maps(detector: Any, images: ImageList) -> tuple[dict[str, Tensor], dict[int, Tensor]]:
    """Return a detector's FPN maps (B, D, h, w) by the backbone's names and by stride, from fine to coarse.

    The strides are what the backbone says in ``strides``, as `FPNBackbone` does, or what the maps' sizes say.
    """
    maps = detector.backbone(images.tensors)
    named = {"0": maps} if isinstance(maps, Tensor) else maps
    known = getattr(detector.backbone, "strides", None)
    if known is not None:
        return named, dict(zip(known, named.values(), strict=True))
    side, stride, by_stride = max(images.tensors.shape[-2:]), 1, {}
    for x in named.values():
        # Sizes are rounded up, so that on a small image several maps are of one cell: each has half the cells at least.
        stride = max(2 * stride, 2 ** round(math.log2(side / max(x.shape[-2:]))))
        by_stride[stride] = x
    return named, by_stride


@torch.no_grad()
def fpn_strides(detector: Any) -> list[int]:
    """Return the strides of a detector's FPN maps; a backbone that does not say them runs once, on zeros."""
    known = getattr(detector.backbone, "strides", None)
    if known is not None:
        return list(known)
    with undisturbed(detector):
        zeros = torch.zeros(1, 3, 128, 128).to(next(detector.parameters()))
        return list(fpn_maps(detector, ImageList(zeros, [(128, 128)]))[1])
