"""The files of a model of transformers: found or fetched, and read as what a stranger may have written."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segkd.common.description import read_description
from segkd.errors import SegkdError, nearest
from segkd.network import Preprocess

# Types whose positions are those of one image size, or that take all images for square ones.
_FIXED = ("beit", "data2vec-vision", "dpt", "eomt", "eomt_dinov3")
# Keys of a config.json that name code, kernels or other models, or say how its weights were written.
_LEFT_OUT = re.compile(
    r"auto_map|custom_pipelines|\w*(attn|experts)_implementation\w*|use_kernels|kernel_config|quantization_config|"
    r"_name_or_path|(torch_)?dtype|transformers_version|use_pretrained_backbone"
)
_LABELS = re.compile("(id2label|label2id)")
#: Names of files of weights: whole ones, and what lists the parts of one.
SAFE = ("model.safetensors", "model.safetensors.index.json")
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
# What a folder that says nothing of images is taken for.
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


def find_folder(path: str, weights: bool) -> Path:
    """Return the folder of a model, fetched from the hub where there is none of that name."""
    if Path(path).exists():
        return Path(path)
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", path):
        raise SegkdError(f"there is no folder {path} (a model of transformers), and a name at the hub is owner/name")
    from huggingface_hub import snapshot_download

    from segkd.common.networks import hub_or_cache

    what = f"{path!r} is no folder here, and the files of a model of that name"
    with hub_or_cache(what, "path", "folder ({}: path/to/folder)"):
        folder = Path(snapshot_download(path, allow_patterns="*.json"))
        for patterns in ("model*.safetensors", "pytorch_model*.bin") if weights else ():
            folder = Path(snapshot_download(path, allow_patterns=["*.json", patterns]))
            if weights_file(folder):
                break
    return folder


def weights_file(folder: Path) -> str | None:
    """Return the name of a folder's weights, None where there are none."""
    return next((name for name in (*SAFE, *PICKLED) if (folder / name).is_file()), None)


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """Return what one of a folder's files says, or raise a SegkdError where that is no JSON of keys and values."""
    try:
        return read_description(folder / name)
    except (OSError, ValueError) as error:
        raise SegkdError(f"{folder / name} does not describe a model of transformers: {reason(error)}") from error


def read_images(folder: Path) -> Mapping[str, Any] | None:
    """Return what a folder says of images: in a file of its own, or beside what is said of texts."""
    if (folder / "preprocessor_config.json").is_file():
        return read_json(folder, "preprocessor_config.json")
    is_there = (folder / "processor_config.json").is_file()
    found = read_json(folder, "processor_config.json").get("image_processor") if is_there else None
    return found if isinstance(found, dict) else None


def plain(value: Any, left_out: re.Pattern[str] = _LEFT_OUT) -> Any:
    """Return what a config says without some keys, in its inner configs too."""
    if isinstance(value, Mapping):
        kept = {str(key): inner for key, inner in value.items() if not left_out.fullmatch(str(key))}
        return {key: plain(inner, left_out) for key, inner in kept.items()}
    return [plain(inner, left_out) for inner in value] if isinstance(value, list | tuple) else value


def settings_of(config: Any) -> dict[str, Any]:
    """Return a config as JSON of which `make_config` makes it again, but for the names of its classes."""
    return {**plain(plain(config.to_dict()), _LABELS), "num_labels": config.num_labels}


def make_config(description: Mapping[str, Any], where: str) -> Any:
    """Return the config that a description makes, or raise a SegkdError: of its type or of values that this refuses."""
    from transformers import CONFIG_MAPPING

    name = str(description.get("model_type"))
    if name not in CONFIG_MAPPING:
        raise SegkdError(f"{where}: transformers has no model_type {name!r}: {nearest(name, CONFIG_MAPPING)}")
    fixed = {"return_dict": True, "output_hidden_states": False, "output_attentions": False}
    if name == "oneformer":
        fixed["is_training"] = False  # what it takes then are texts beside images
    try:
        config: Any = CONFIG_MAPPING[name].from_dict({**plain(description), **fixed})
        if sorted(config.id2label) != list(range(config.num_labels)):
            raise SegkdError(f"id2label must number its {config.num_labels} classes from 0")
        config.id2label = {number: str(config.id2label[number]) for number in range(config.num_labels)}
        return config
    except Exception as error:  # each type checks its values in its own way
        raise SegkdError(f"{where} does not describe a {name} model: {reason(error)}") from error


def preprocess_of(images: Mapping[str, Any], config: Any, size: Any, where: str) -> Preprocess:
    """Return what a model's images are; a size is (height, width), ``own`` or None for what its files say."""
    plain = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3}
    try:
        normalises = images.get("do_normalize", "image_mean" in images)
        mean, std = ([float(x) for x in (images if normalises else plain).get(key, IMAGENET[key])] for key in IMAGENET)
        white = 255 * (float(images.get("rescale_factor", 1 / 255)) if images.get("do_rescale", True) else 1.0)
        said = _pair(images.get("size")) if images.get("do_resize", True) else None
        divisors = [int(images.get(key) or 1) for key in ("size_divisor", "size_divisibility")]
        divisors += [patch_size(config), patch_size(getattr(config, "backbone_config", None))]
        fixed = fixed_size(config)
    except (TypeError, ValueError, KeyError) as error:
        raise SegkdError(f"{where}: preprocessor_config.json: {reason(error)}") from error
    if fixed and size not in (None, "own", fixed):
        raise SegkdError(f"{where}: a {config.model_type} model takes images of {list(fixed)} alone, got {list(size)}")
    chosen = fixed or (said if size is None else None if size == "own" else size)
    white = 1.0 if math.isclose(white, 1) else white
    return Preprocess(tuple(mean), tuple(std), white, chosen, math.lcm(*divisors))


def fixed_size(config: Any) -> tuple[int, int] | None:
    """Return (height, width) of the only images that a segmentation model takes; None where it takes any."""
    return _pair(config.image_size) if config.model_type in _FIXED else None


def _pair(size: Any) -> tuple[int, int] | None:
    """Return (height, width) of a size in any of its spellings; None of the length of one side alone."""
    if isinstance(size, Mapping):
        return (int(size["height"]), int(size["width"])) if {"height", "width"} <= size.keys() else None
    if size is None:
        return None
    height, width = size if isinstance(size, list | tuple) else (size, size)
    return int(height), int(width)


def patch_size(config: Any) -> int:
    """Return pixels from one token to the next, or 1 where a config does not say."""
    patch = getattr(config, "patch_size", None)
    patch = patch[0] if isinstance(patch, list | tuple) and patch else patch
    return patch if isinstance(patch, int) else 1


def reason(error: Exception) -> str:
    """Return what an error of a library says, as part of a line."""
    if type(error).__name__ == "OfflineModeIsEnabled":
        return "it names another model, at the hub, which is not fetched"
    lines = [line for line in str(error).strip().split("\n") if line.strip()] or [""]
    text = " ".join(line.strip() for line in lines[:2]) if lines[0].rstrip().endswith(":") else lines[0]
    return text[:300] if isinstance(error, SegkdError) else f"{type(error).__name__}: {text[:300]}"
