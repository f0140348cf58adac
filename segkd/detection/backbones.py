"""Backbones of detectors by name: a classification network of torchvision or timm, cut into levels, under an FPN."""

from collections import OrderedDict
from contextlib import nullcontext
from pathlib import Path

import timm
import torchvision
from timm.layers import FrozenBatchNormAct2d, freeze_batch_norm_2d
from torch import Tensor, nn
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool, LastLevelP6P7
from torchvision.ops.misc import FrozenBatchNorm2d

from segkd.common.networks import IMAGENET, Triple, check_network, hub_or_cache, timm_normalization, torchvision_weights
from segkd.common.weights import is_weight_file, load_pretrained, read_state_dict
from segkd.detection.feature_maps import cut, freeze_up_to, layouts
from segkd.errors import SegkdError, nearest

#: FPN levels by name: the strides of the network's maps that they start from, and of those added on top.
LEVELS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "p3_p7": ((8, 16, 32), (64, 128)),
    "p2_p6": ((4, 8, 16, 32), (64,)),
}


class FPNBackbone(nn.Module):
    """A network's feature maps, (B, C, h, w) or (B, h, w, C), through an FPN (Lin et al., arXiv 1612.03144).

    Its weights are named as in torchvision's detectors: ``body.layer4...``, ``fpn.inner_blocks...``; so are the maps:
    from ``"0"`` up, then ``"p6"`` and ``"p7"``, or ``"pool"``. ``strides`` are theirs, in their order.
    """

    def __init__(
        self,
        body: nn.Module,
        levels: str = "p3_p7",
        out_channels: int = 256,
        p6_from: str = "p5",
        norm_layer: type[nn.Module] | None = None,
    ) -> None:
        super().__init__()
        needed, added = LEVELS[levels]
        # Of several maps of one stride the last is the deepest.
        last = {layout.stride: (index, layout) for index, layout in enumerate(layouts(body)) if layout is not None}
        if not set(needed) <= last.keys():
            found = ", ".join(map(str, sorted(last))) or "none"
            raise SegkdError(f"{levels} needs feature maps of strides {', '.join(map(str, needed))}, found: {found}")
        self.body, self.out_channels, self.strides = body, out_channels, needed + added
        self.taken = [(index, layout.channels_last) for index, layout in (last[stride] for stride in needed)]
        channels = [last[stride][1].channels for stride in needed]
        extra: LastLevelMaxPool | LastLevelP6P7 = LastLevelMaxPool()
        if levels == "p3_p7":
            extra = LastLevelP6P7(out_channels if p6_from == "p5" else channels[-1], out_channels)
            extra.use_P5 = p6_from == "p5"  # it would guess it from the numbers of channels
        self.fpn = FeaturePyramidNetwork(channels, out_channels, extra, norm_layer)

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """Return the FPN maps (B, out_channels, h, w) of images (B, 3, H, W), from large to small, sides rounded up."""
        maps = self.body(images)
        taken = [
            maps[index].permute(0, 3, 1, 2) if channels_last else maps[index] for index, channels_last in self.taken
        ]
        return self.fpn(OrderedDict((str(place), x) for place, x in enumerate(taken)))


def build_backbone(
    name: str,
    weights: str | Path | None = None,
    *,
    levels: str = "p3_p7",
    out_channels: int = 256,
    norm: str = "batch",
    frozen_stages: int = 0,
    p6_from: str = "p5",
    fpn_norm: type[nn.Module] | None = None,
) -> FPNBackbone:
    """Build a classification network's feature levels under an FPN.

    Args:
        name: a classification network of torchvision, such as ``resnet50`` or ``mobilenet_v2``, or one of timm after
            ``tu-``. It must take images of any size and have feature maps of the strides needed, up to 32.
        weights: None (random); ``default``, what the library's hub has; for torchvision also another of its names, such
            as ``IMAGENET1K_V1``; or a local file in the library's names, also of a whole detector.
        levels: ``p3_p7`` (strides 8..128, for one-stage detectors) or ``p2_p6`` (4..64, for two-stage ones, where P6 is
            every second pixel of P5).
        out_channels: of every FPN map.
        norm: ``batch``; ``eval``: the network's batch norm keeps its statistics as they are, its scale and shift are
            trained; or ``frozen``: scale and shift stay as well. Both are for pretrained weights and batches too small.
        frozen_stages: 1..4 leaves the stem and the network's first stages untrained, up to the map of stride 4, 8, 16
            or 32. Statistics of batch norm still change there if `norm` is ``batch``.
        p6_from: ``p5`` or ``c5``, what the P6 of ``p3_p7`` is made of.
        fpn_norm: normalisation layer of the FPN, such as ``nn.BatchNorm2d``; never frozen.
    """
    check_backbone(name, weights)
    choices: dict[str, tuple[object, tuple[object, ...]]] = {
        "levels": (levels, tuple(LEVELS)),
        "norm": (norm, ("batch", "eval", "frozen")),
        "frozen_stages": (frozen_stages, (0, 1, 2, 3, 4)),
        "p6_from": (p6_from, ("p5", "c5")),
    }
    for key, (given, valid) in choices.items():
        if given not in valid:
            raise SegkdError(f"backbone {name!r}: no {key} {given!r}; {nearest(given, valid)}")
    if out_channels < 1:
        raise SegkdError(f"backbone {name!r}: out_channels must be at least 1, got {out_channels}")
    at_hub = weights is not None and not is_weight_file(weights)
    try:
        if name.startswith("tu-"):
            with hub_or_cache(f"the weights {str(weights)!r}", "backbone_weights") if at_hub else nullcontext():
                body = timm.create_model(name[3:], features_only=True, pretrained=at_hub)
        else:
            body = cut(torchvision.models.get_model(name))
        backbone = FPNBackbone(body, levels, out_channels, p6_from, fpn_norm)
    except SegkdError as error:
        raise SegkdError(f"backbone {name!r}: {error}") from error
    # A network refuses to be cut, or an image of another size than it was made for, with errors of every kind.
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        raise SegkdError(f"backbone {name!r} cannot be cut into maps: {type(error).__name__}: {reason}") from error
    if weights is not None and not (at_hub and name.startswith("tu-")):
        state = torchvision_weights(name, str(weights), "backbone_weights") if at_hub else read_state_dict(weights)
        load_pretrained(body, state, weights, f"backbone {name!r}", within="backbone.body.")
    if norm != "batch":
        freeze_batch_norm_2d(body)
    if norm == "eval":
        _train_scale_and_shift(body)
    if frozen_stages:
        freeze_up_to(body, 2 ** (frozen_stages + 1))
    return backbone


def check_backbone(name: str, weights: str | Path | None = None) -> None:
    """Raise `SegkdError` unless there is such a network and such weights of it, see `build_backbone`."""
    names = torchvision.models.list_models(module=torchvision.models)
    check_network(name, "backbone", names, _sets_of_weights, "default", weights)


def _sets_of_weights(name: str) -> list[str]:
    return ["default", *torchvision.models.get_model_weights(name).__members__]


def normalization(name: str) -> tuple[Triple, Triple]:
    """Return the mean and standard deviation of a backbone's input, per RGB channel, for pixels in [0, 1]."""
    check_backbone(name)
    return timm_normalization(name) if name.startswith("tu-") else IMAGENET


def _train_scale_and_shift(body: nn.Module) -> None:
    """Make parameters of what timm's frozen batch norms hold as buffers, but for the statistics."""
    for module in body.modules():
        if isinstance(module, FrozenBatchNorm2d | FrozenBatchNormAct2d):
            for name in ("weight", "bias"):
                value = module.get_buffer(name)
                delattr(module, name)
                module.register_parameter(name, nn.Parameter(value))
