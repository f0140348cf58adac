"""Networks of timm as teachers of features: DINOv2, DINOv3, ConvNeXt, Swin and all the others."""

import contextlib
import sys
from collections.abc import Sequence
from typing import Any

from pydantic import Field

from segkd.common.values import ModelName, PathText
from segkd.errors import SegkdError
from segkd.models.family import Built, Family, ModelBlock


class TimmBlock(ModelBlock):
    """A network of timm, without its classifier."""

    arch: ModelName = Field(description="such as vit_small_patch14_dinov2, with the tag of its weights after a dot")
    weights: bool | PathText | None = Field(True, description="true: timm's at the hub; a file; or null")


class Timm(Family):
    """Networks of timm, whose submodules terms read, such as ``blocks.11`` or ``stages.3``."""

    name = "timm"
    title = "timm's networks as teachers of features, tokens given as maps"
    block = TimmBlock
    only_features = True
    kept = ("arch", "options")

    @classmethod
    def build(cls, block: TimmBlock, classes: Sequence[str] | None, weights: bool = True) -> Built:
        """See `Family.build`; classes are passed over."""
        from segkd.common.networks import check_timm, timm_normalization
        from segkd.models.maps import Taken
        from segkd.network import Preprocess

        check_timm(f"tu-{block.arch}", "network")  # as the names of encoders have it
        module, takes_any = _made(block, block.weights if weights else None)
        size = None if takes_any else tuple(module.pretrained_cfg["input_size"][1:])
        # Convolutions take any size; patches that a size cuts through are refused or left out.
        multiple = _step(module) if takes_any and hasattr(module, "patch_embed") else 1
        mean, std = timm_normalization(f"tu-{block.arch}")
        preprocess = Preprocess(mean, std, size=size, multiple=multiple)
        module.register_forward_pre_hook(Taken(size, multiple))
        return Built(module, preprocess, None, {"arch": block.arch, "options": block.options}, features=True)

    @classmethod
    def as_map(cls, module: Any, output: Any, size: tuple[int, int]) -> Any:
        """See `Family.as_map`: class token and registers are left out, channels that come last turned to the front."""
        from segkd.models.maps import Taken, to_map

        prefixes = (getattr(module, "num_prefix_tokens", 0),)
        is_last = getattr(module, "output_fmt", "") == "NHWC"
        return to_map(output, Taken.by(module, size), step=_step(module), prefixes=prefixes, channels_last=is_last)


def _step(module: Any) -> int:
    """Return pixels from one cell of the first map to the next: a transformer's patch."""
    return int(module.feature_info[0]["reduction"])


def _made(block: TimmBlock, weights: bool | str | None) -> tuple[Any, bool]:
    """Return a network, and whether it takes images of any size."""
    import timm

    from segkd.common.networks import hub_or_cache
    from segkd.common.weights import load_pretrained, read_state_dict

    module: Any
    options = {"num_classes": 0, "pretrained": weights is True, **block.options}
    of_any = {"dynamic_img_size": True}
    with hub_or_cache(f"the weights of {block.arch!r}", "weights") if weights is True else contextlib.nullcontext():
        try:
            try:
                module = timm.create_model(block.arch, **{**of_any, **options})
            except TypeError as error:  # it is no argument of networks that take any size anyhow, or never
                if "dynamic_img_size" not in str(error) or "dynamic_img_size" in options:
                    raise
                of_any, module = {}, timm.create_model(block.arch, **options)
        except (TypeError, ValueError, RuntimeError, AssertionError) as error:
            lines = filter(None, map(str.strip, str(error).split("\n")))
            said = " ".join(list(lines)[:2])[:300]
            raise SegkdError(f"{block.arch} cannot be built: {type(error).__name__}: {said}") from error
    if isinstance(weights, str):
        given = read_state_dict(weights)
        # As timm does with its own: other names of older files, positions of another image size interpolated.
        fitting = getattr(sys.modules[type(module).__module__], "checkpoint_filter_fn", None)
        given = given if fitting is None else fitting(given, module)
        load_pretrained(module, given, weights, f"network {block.arch!r}", within="model.")
    return module, bool(of_any) or not module.pretrained_cfg.get("fixed_input_size")
