"""Networks as feature maps: which modules of a classifier give one at each stride, and what shape they have."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

# Not square, and one side no power of two: in whatever order a map has its dimensions, its stride is unambiguous.
_HEIGHT, _WIDTH = 128, 192


class Layout(NamedTuple):
    """What shape a feature map has: (B, C, H / stride, W / stride), or with its channels last."""

    stride: int
    channels: int
    channels_last: bool


def layouts(body: nn.Module) -> list[Layout | None]:
    """Return the layout of each map that a network returns, None for what is no map of an exact stride.

    Args:
        body: maps images (B, 3, H, W) to a list of tensors.
    """
    with torch.no_grad():
        return [_layout(x) for x in _probe(body)]


def freeze_up_to(body: nn.Module, stride: int) -> None:
    """Take the gradient from all parameters that the last map of this stride depends on.

    Args:
        body: maps images (B, 3, H, W) to a list of feature maps.
        stride: of one of them.
    """
    with torch.enable_grad():
        maps = [x for x in _probe(body) if (found := _layout(x)) is not None and found.stride == stride]
        parameters = list(body.parameters())
        reached = torch.autograd.grad(maps[-1].sum(), parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, reached, strict=True):
        if gradient is not None:
            parameter.requires_grad_(False)


class Chain(nn.Module):
    """Some modules of a network, under the names that they have there, run one after the other.

    Args:
        network: the network.
        names: the modules, in the order in which they run.
        returned: those whose outputs are returned.
    """

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
    """Return the part of a classification network that computes feature maps, and returns the deepest of each stride.

    The strides are those from 4 up that it has.

    Args:
        network: runs modules one after the other, at its top and within an `nn.Sequential`.
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
    """Run a network on a black image, without a trace in its statistics."""
    training = network.training
    try:
        return network.eval()(torch.zeros(1, 3, _HEIGHT, _WIDTH))
    finally:
        network.train(training)


@torch.no_grad()
def _chain(network: nn.Module) -> dict[str, int]:
    """Return the strides after the modules that a network runs one after the other, by their names, in that order.

    Found by running it: each takes what the one before returned. A sequence that goes through several strides is
    looked into. What takes or returns something else than a feature map, such as a classifier, is left out.
    """
    calls: list[dict[str, Any]] = []
    running: list[dict[str, Any]] = []

    def before(name: str, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        calls.append({"name": name, "module": module, "input": inputs[0] if inputs else None})
        running.append(calls[-1])

    def after(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        running.pop()["output"] = output

    handles = []
    for name, module in network.named_modules():
        handles.append(module.register_forward_pre_hook(lambda m, inputs, name=name: before(name, m, inputs)))
        handles.append(module.register_forward_hook(after))
    try:
        _probe(network)
    finally:
        for handle in handles:
            handle.remove()

    whole, *parts = calls
    x, stride, within = whole["input"], 1, None
    strides = {}
    for call in parts:
        found = _layout(call["output"])
        # An activation in place within the last module returns the very tensor that the module does.
        if call["input"] is not x or found is None or (within and call["name"].startswith(within)):
            continue
        if isinstance(call["module"], nn.Sequential) and found.stride > 2 * stride:
            continue
        x, stride, within = call["output"], found.stride, f"{call['name']}."
        strides[call["name"]] = stride
    return strides
