import torch
import torchvision
from torch import nn

from segkd.detection.feature_maps import Layout, cut, freeze_up_to, layouts

IMAGE = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def conv(inputs, outputs, stride=1):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class Residual(nn.Module):
    """Ends with an activation in place, whose output is the module's."""

    def __init__(self, channels):
        super().__init__()
        self.conv, self.relu = nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.conv(x)
        y += x
        return self.relu(y)


class Network(nn.Module):
    """A stem, a sequence through three strides, a module that is never run, an auxiliary head and a classifier."""

    def __init__(self):
        super().__init__()
        self.classifier = nn.Linear(8, 2)  # made first, run last
        self.stem = conv(3, 4, 2)
        self.blocks = nn.Sequential(conv(4, 5, 2), Residual(5), conv(5, 6, 2), conv(6, 7, 2), Residual(7))
        self.unused = conv(7, 7)
        self.auxiliary = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(7, 2))
        self.last = nn.Sequential(conv(7, 8, 2))
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x):
        x = self.blocks(self.stem(x))
        return self.auxiliary(x), self.classifier(self.pool(self.last(x)).flatten(1))


def test_the_chain_is_what_ran_in_the_order_in_which_it_ran():
    chain = cut(Network())
    assert chain.names == ["stem", "blocks.0", "blocks.1", "blocks.2", "blocks.3", "blocks.4", "last"]
    assert chain.returned == {"blocks.1", "blocks.2", "blocks.4", "last"}
    assert sorted({key.split(".")[0] for key in chain.state_dict()}) == ["blocks", "last", "stem"]


def test_its_maps_are_those_within_the_network():
    network = Network().eval()
    seen = {}
    for name in ("blocks.1", "blocks.2", "blocks.4", "last"):
        # A copy at once: what comes later could write into it.
        network.get_submodule(name).register_forward_hook(lambda m, i, o, name=name: seen.update({name: o.clone()}))
    with torch.no_grad():
        network(IMAGE)
        maps = cut(network)(IMAGE)
    assert len(maps) == 4
    assert all(torch.equal(x, expected) for x, expected in zip(maps, seen.values(), strict=True))


def test_a_network_with_branches_inside_its_modules():
    network = torchvision.models.densenet121().eval()
    chain = cut(network)
    with torch.no_grad():
        assert torch.equal(chain(IMAGE)[-1], network.features(IMAGE))
    assert "features.denseblock1" in chain.returned


def test_layouts():
    assert layouts(cut(Network())) == [
        Layout(4, 5, False),
        Layout(8, 6, False),
        Layout(16, 7, False),
        Layout(32, 8, False),
    ]
    swin = layouts(cut(torchvision.models.swin_t()))
    assert swin == [Layout(4, 96, True), Layout(8, 192, True), Layout(16, 384, True), Layout(32, 768, False)]


class Odd(nn.Module):
    def forward(self, x):
        return [x, x[..., 1:], x.flatten(1), x.movedim(1, 3)[:, ::2, ::2], "text"]


def test_what_is_no_map_of_an_exact_stride_has_no_layout():
    assert layouts(Odd()) == [Layout(1, 3, False), None, None, Layout(2, 3, True), None]


def test_looking_leaves_no_trace():
    network = Network()
    network.stem.eval()
    chain = cut(network)
    layouts(chain)
    assert network.stem[1].num_batches_tracked == network.last[0][1].num_batches_tracked == 0
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    assert all(value.grad is None for value in network.parameters())


def test_freezing_reaches_all_that_the_map_depends_on_and_nothing_else():
    chain = cut(Network())
    freeze_up_to(chain, 8)
    frozen = {key.rsplit(".", 1)[0] for key, value in chain.named_parameters() if not value.requires_grad}
    assert frozen == {"stem.0", "stem.1", "blocks.0.0", "blocks.0.1", "blocks.1.conv", "blocks.2.0", "blocks.2.1"}
    chain(IMAGE)[-1].sum().backward()
    assert all((value.grad is None) == (not value.requires_grad) for value in chain.parameters())
