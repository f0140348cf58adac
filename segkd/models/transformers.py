"""Models of transformers: semantic segmentation from a folder or the hub, and backbones whose features are read."""

import contextlib
import copy
import dataclasses
import inspect
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from segkd.common.values import Count, HeightWidth, PathText
from segkd.errors import SegkdError
from segkd.models.family import Built, Family, ModelBlock

if TYPE_CHECKING:
    from torch import nn

#: Types that find masks with classes: they become `segkd.models.maps.PerPixel`.
MASKS = ("eomt", "eomt_dinov3", "mask2former", "maskformer", "oneformer")
# "the task is semantic" in the vocabulary of CLIP, which every OneFormer is trained with; zeros follow.
_SEMANTIC = (49406, 518, 10549, 533, 29119, 1550, 49407)


class TransformersBlock(ModelBlock):
    """A model of transformers."""

    path: PathText | None = Field(None, description="folder with config.json and weights, or a name at the hub")
    weights: bool | Literal["backbone"] = Field(
        True, description="false: random; backbone: of a file of another task too, the head starts anew"
    )
    features: bool | None = Field(
        None, description="true: its backbone alone, a teacher of features; default: what its files say"
    )
    size: HeightWidth | Literal["own"] | None = Field(
        None,
        description="[height, width] that images are resized to; own: not at all; default: what its files say, where "
        "its classes are its own, else own",
    )
    order: Literal["rgb", "bgr"] | None = Field(None, description="of channels; default: what its files say")
    multiple: Count | None = Field(
        None, description="what height and width of images must be multiples of; default: what its files say"
    )
    config: dict[str, Any] | None = Field(None, description="what a config.json says, in place of path")


class Transformers(Family):
    """Models of transformers; module paths of those that find masks begin with ``model.``."""

    name = "transformers"
    title = "segmentation, mask classifiers and backbones of transformers"
    block = TransformersBlock
    extra = "transformers"
    kept = ("config", "features", "order", "multiple")

    @classmethod
    def build(cls, block: TransformersBlock, classes: Sequence[str] | None, weights: bool = True) -> Built:
        """See `Family.build`."""
        try:
            import transformers  # noqa: F401
        except ImportError as error:
            raise SegkdError('family transformers needs its library: pip install "segkd[transformers]"') from error
        from segkd.common.networks import offline
        from segkd.models import transformers_files as files
        from segkd.models.maps import Taken

        where, loads = str(block.path or "config"), weights and block.weights is not False and block.config is None
        folder, description = None, block.config
        images: Mapping[str, Any] | None = files.IMAGENET
        if description is None:
            if block.path is None:
                raise SegkdError("path is missing: the folder of a model of transformers, or its name at the hub")
            folder = files.find_folder(where, loads)
            description, images = files.read_json(folder, "config.json"), files.read_images(folder)
        with offline(), _silent():
            config = files.make_config(description, where)
            kind, features = _kind(config, block, where)
            names = None if features else classes
            lenient = block.weights == "backbone" or features
            module, note = _make(kind, config, names, folder if loads else None, lenient)
        if images is None:
            note += f"{'; ' if note else ''}{where} has no preprocessor_config.json: ImageNet's mean and std are taken"
            images = files.IMAGENET
        is_free = names is not None or features
        size = "own" if block.size is None and is_free else block.size
        preprocess = files.preprocess_of(images, module.config, size, where)
        order = block.order or ("bgr" if images.get("do_flip_channel_order") else "rgb")
        preprocess = dataclasses.replace(preprocess, multiple=block.multiple or preprocess.multiple)
        settings = {"config": files.settings_of(module.config), "features": features, "order": order}
        settings["multiple"] = preprocess.multiple
        made = _finished(module, features)
        made.register_forward_pre_hook(Taken(files.fixed_size(module.config), preprocess.multiple, order == "bgr"))
        own = None if is_free else list(config.id2label.values())
        return Built(made, preprocess, own, settings, features, note)

    @classmethod
    def as_map(cls, module: "nn.Module", output: Any, size: tuple[int, int]) -> Any:
        """See `Family.as_map`: the class token, registers and such are left out."""
        from segkd.models.maps import PerPixel, Taken, to_map
        from segkd.models.transformers_files import patch_size

        config: Any = (module.model if isinstance(module, PerPixel) else module).config
        prefixes = (1, 2, 1 + getattr(config, "num_register_tokens", 0))
        return to_map(output, Taken.by(module, size), step=patch_size(config), prefixes=prefixes)


def _kind(config: Any, block: TransformersBlock, where: str) -> tuple[Any, bool]:
    """Return the class of the model, and whether it is a backbone whose features alone are read."""
    import transformers

    made = next(iter(config.architectures or []), "")
    if block.features or (block.features is None and made.endswith(("Model", "Backbone"))):
        found: Any = transformers.MODEL_MAPPING.get(type(config), None)
        if found is None:
            raise SegkdError(f"{where}: transformers has no backbone of type {config.model_type}")
        return found, True
    found = transformers.MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING.get(type(config), None)
    if found is None and config.model_type in MASKS:
        found = transformers.MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING.get(type(config), None)
    is_other = made and found is not None and made != found.__name__
    if found is None or (is_other and block.weights != "backbone"):
        other = "" if found is None else f", no {found.__name__}; weights: backbone starts a student from such a file"
        raise SegkdError(
            f"{where} is of another task than semantic segmentation: it holds a {made or config.model_type}{other}; "
            "features: true makes a teacher of features of it"
        )
    return found, False


def _make(kind: Any, config: Any, names: Sequence[str] | None, folder: Path | None, backbone: bool) -> tuple[Any, str]:
    """Return a model, with a folder's weights if one is given, and what is to be said of it.

    The config is of the weights' classes; ``names`` are the model's, None for those. Of a ``backbone`` the weights need
    not be all that it has.
    """
    old = list(config.id2label.values())
    named = config if names is None else _named(config, names)
    named.architectures = [kind.__name__]
    if folder is None:
        return _constructed(kind, named), ""
    if backbone:
        module, lacking = _loaded(kind, folder, named, kind.base_model_prefix)
        is_told = lacking and names is not None
        return module, f"{folder}: its weights are of a backbone alone, the head starts anew" if is_told else ""
    module, _ = _loaded(kind, folder, config)
    unknown = old == [f"LABEL_{number}" for number in range(len(old))]
    if names is None or list(names) == old or (unknown and len(names) == len(old)):
        module.config = named
        return module, ""
    fresh = _constructed(kind, named)
    state, wanted = module.state_dict(), fresh.state_dict()
    # What depends on the classes has another shape for another number of them.
    other = wanted if len(names) != len(old) else _constructed(kind, _named(config, [*old, ""])).state_dict()
    fresh.load_state_dict({**wanted, **{key: value for key, value in state.items() if value.shape == other[key].shape}})
    return fresh, f"{folder}: its weights are of {len(old)} other classes, so what depends on them starts anew"


def _named(config: Any, names: Sequence[str]) -> Any:
    config = copy.deepcopy(config)
    config.id2label = dict(enumerate(names))
    config.label2id = {name: number for number, name in enumerate(names)}
    return config


def _constructed(kind: Any, config: Any) -> Any:
    from segkd.models.transformers_files import reason

    try:
        return kind(config)
    except SegkdError:
        raise
    except Exception as error:  # of values that do not go together, which no type checks
        raise SegkdError(f"a {config.model_type} model cannot be made of its config: {reason(error)}") from error


def _loaded(kind: Any, folder: Path, config: Any, backbone: str | None = None) -> tuple[Any, list[str]]:
    """Return a model with a folder's weights, and the keys that these lack.

    None may be lacking, or where a ``backbone`` is given, the prefix of its keys, none of those but its pooler's.
    """
    import torch

    from segkd.common.weights import check_finite
    from segkd.models.transformers_files import PICKLED, SAFE, reason, weights_file

    name = weights_file(folder)
    if name is None:
        raise SegkdError(
            f"{folder} holds no weights ({SAFE[0]} or {PICKLED[0]}); weights: false starts from random ones"
        )
    try:
        module, found = kind.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            use_safetensors=name in SAFE,
            weights_only=True,
            local_files_only=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except Exception as error:  # what is in the folder, or is not, makes it fail in many ways
        raise SegkdError(f"{folder / name} cannot be read as weights of a {kind.__name__}: {reason(error)}") from error
    lacks = (*found["missing_keys"], *found["mismatched_keys"])  # of the latter some versions give the shapes too
    lacking = sorted({key if isinstance(key, str) else key[0] for key in lacks})
    needed = [key for key in lacking if backbone is None or (key.startswith(backbone) and "pooler" not in key)]
    if needed:
        raise SegkdError(
            f"{folder / name} is not of this {kind.__name__}: {len(needed)} of {len(module.state_dict())} keys are "
            f"missing or of another shape, first {needed[0]!r}"
        )
    check_finite(module.state_dict(), folder / name)
    for parameter in module.parameters():  # out of the file's own memory: the last bits of results depend on alignment
        parameter.data = parameter.data.clone()
    return module, lacking


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Within this, transformers neither draws bars nor reports on keys, which is done here."""
    from transformers.utils import logging

    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()


def _finished(module: Any, features: bool) -> "nn.Module":
    """Return a model that takes images alone, and gives logits of each pixel or features."""
    import torch

    from segkd.models.maps import PerPixel

    config = module.config
    if features and "interpolate_pos_encoding" in inspect.signature(module.forward).parameters:
        module.register_forward_pre_hook(_of_any_size, with_kwargs=True)
    if config.model_type not in MASKS or features:
        return module
    told = [*_SEMANTIC, *([0] * max(getattr(config, "task_seq_len", 0) - len(_SEMANTIC), 0))]
    return PerPixel(module, torch.tensor([told]).float() if config.model_type == "oneformer" else None)


def _of_any_size(module: "nn.Module", inputs: Any, named: dict[str, Any]) -> Any:
    return inputs, {**named, "interpolate_pos_encoding": True}
