"""Segmentation models of torchvision: DeepLabV3, FCN and LR-ASPP, with its auxiliary heads."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from segkd.common.values import PathText
from segkd.errors import SegkdError, nearest
from segkd.models.family import Built, Family, ModelBlock

if TYPE_CHECKING:
    from torch import nn

    from segkd.common.weights import State

# The last layers of each head: these alone depend on the classes.
_MAIN = ("classifier.4.", "classifier.low_classifier.", "classifier.high_classifier.")
_HEADS = (*_MAIN, "aux_classifier.4.")


class TorchvisionBlock(ModelBlock):
    """A segmentation model of torchvision."""

    arch: str = Field(description="such as deeplabv3_resnet50, fcn_resnet50 or lraspp_mobilenet_v3_large")
    weights: PathText | None = Field(
        None, description="default: torchvision's, of VOC's classes; backbone: its backbone's alone; a file; or null"
    )
    aux: bool = Field(False, description="with the auxiliary head, which reads the last but one stage of the backbone")


class Torchvision(Family):
    """Models of torchvision, which return ``{"out": logits}``, and ``"aux"`` where asked for, at the images' size."""

    name = "torchvision"
    title = "torchvision's DeepLabV3, FCN and LR-ASPP"
    block = TorchvisionBlock
    kept = ("arch", "aux")
    encoders = ("backbone",)

    @classmethod
    def build(cls, block: TorchvisionBlock, classes: Sequence[str] | None, weights: bool = True) -> Built:
        """See `Family.build`."""
        import torchvision
        from torchvision.models import segmentation

        from segkd.network import Preprocess

        names = torchvision.models.list_models(module=segmentation)
        if block.arch not in names:
            raise SegkdError(f"torchvision has no segmentation model {block.arch!r}: {nearest(block.arch, names)}")
        if block.options:
            raise SegkdError(f"{block.arch} has no option {next(iter(block.options))!r}: there are none")
        if block.aux and block.arch.startswith("lraspp"):
            raise SegkdError(f"{block.arch} has no auxiliary head: aux must be false")
        described = torchvision.models.get_model_weights(block.arch).DEFAULT
        # Names of classes are known of torchvision's own weights alone.
        state, own = _given(block, list(described.meta["categories"])) if weights else ({}, None)
        count = len(classes) if classes is not None else _rows(state)
        if count is None:
            raise SegkdError(f"{block.arch} without weights has no classes of its own: weights: default has VOC's 21")
        options: dict[str, Any] = {"weights": None, "weights_backbone": None, "num_classes": count}
        if not block.arch.startswith("lraspp"):
            options["aux_loss"] = block.aux
        module = torchvision.models.get_model(block.arch, **options)
        note = _load(module, block, state, is_other=own is not None and classes is not None and list(classes) != own)
        transforms = described.transforms()
        preprocess = Preprocess(tuple(transforms.mean), tuple(transforms.std))
        own = own if classes is None else None
        return Built(module, preprocess, own, {"arch": block.arch, "aux": block.aux}, note=note)


def _given(block: TorchvisionBlock, categories: list[str]) -> tuple["State", list[str] | None]:
    """Return the weights that a block names, and the names of their classes where these are known."""
    from segkd.common.networks import torchvision_weights
    from segkd.common.weights import is_weight_file, read_state_dict

    if block.weights is None:
        return {}, None
    if is_weight_file(block.weights):
        return read_state_dict(Path(block.weights)), None
    if block.weights == "backbone":
        return torchvision_weights(block.arch.partition("_")[2], "default", "weights"), None
    if block.weights == "default":
        return torchvision_weights(block.arch, "default", "weights"), categories
    valid = nearest(block.weights, ["default", "backbone"])
    raise SegkdError(f"{block.arch} has no weights {block.weights!r}: {valid} (or null, or the path of a file)")


def _rows(state: "State") -> int | None:
    """Return how many classes weights are for; None without a head."""
    return next((len(value) for key, value in state.items() if key.startswith(_MAIN)), None)


def _load(module: "nn.Module", block: TorchvisionBlock, state: "State", is_other: bool) -> str:
    """Load weights and return what a user has to know; ``is_other``: they are of other classes."""
    from segkd.common.weights import check_fit, load_pretrained

    if not state:
        return ""
    if _rows(state) is None:  # of an image classifier, whose features MobileNet keeps under this name
        state = {key.removeprefix("features."): value for key, value in state.items()}
        backbone = module.get_submodule("backbone")
        load_pretrained(backbone, state, block.weights, f"backbone of {block.arch}", "backbone.")
        return ""
    wanted = module.state_dict()
    if not block.aux:
        state = {key: value for key, value in state.items() if not key.startswith("aux_classifier.")}
    lacks_aux = block.aux and not any(key.startswith("aux_classifier.") for key in state)
    old = _rows(state)
    is_other = is_other or old != _rows(wanted)
    anew = tuple(_HEADS if is_other else ()) + (("aux_classifier.",) if lacks_aux else ())
    state |= {key: value for key, value in wanted.items() if anew and key.startswith(anew)}
    check_fit(module, state, block.weights)
    module.load_state_dict(state)
    if is_other:
        return f"{block.arch}: its weights are of {old} other classes, so the head's last layer starts anew"
    return f"{block.arch}: its weights have no auxiliary head, which starts anew" if lacks_aux else ""
