"""Tiny models of transformers, from random weights, in folders as `save_pretrained` writes them."""

import copy
import json
from pathlib import Path
from typing import Any

import torch
import transformers

NAMES = ["wall", "tree", "road", "sky"]
SWIN = {
    "model_type": "swin",
    "image_size": 64,
    "embed_dim": 8,
    "depths": [1, 1, 1, 1],
    "num_heads": [1, 1, 2, 2],
    "window_size": 4,
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}
_VIT = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32}
_BEIT = {**_VIT, "image_size": 64, "patch_size": 16, "out_indices": [1, 2, 3, 4], "auxiliary_channels": 8}
_FORMER = {
    "feature_size": 32,
    "mask_feature_size": 32,
    "hidden_dim": 32,
    "encoder_feedforward_dim": 32,
    "dim_feedforward": 32,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "num_attention_heads": 2,
    "num_queries": 6,
    "backbone_config": SWIN,
}
_DETR = {
    "model_type": "detr",
    "d_model": 32,
    **{f"{part}coder_{key}": value for part in ("en", "de") for key, value in (("layers", 1), ("attention_heads", 2))},
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "num_queries": 6,
}
#: What a config.json of each type says.
CONFIGS: dict[str, dict[str, Any]] = {
    "segformer": {
        "hidden_sizes": [8, 8, 16, 16],
        "depths": [1, 1, 1, 1],
        "num_attention_heads": [1, 1, 2, 2],
        "decoder_hidden_size": 16,
    },
    "upernet": {"backbone_config": SWIN, "hidden_size": 16, "auxiliary_channels": 8, "auxiliary_in_channels": 32},
    "dpt": {
        **_VIT,
        "image_size": 64,
        "patch_size": 16,
        "backbone_out_indices": [0, 1, 2, 3],
        "neck_hidden_sizes": [8, 8, 16, 16],
        "fusion_hidden_size": 16,
    },
    "beit": {**_BEIT, "use_relative_position_bias": True},
    "data2vec-vision": {**_BEIT, "use_relative_position_bias": True},
    "mobilevit": {
        "hidden_sizes": [16, 16, 16],
        "neck_hidden_sizes": [8, 8, 8, 16, 16, 16, 16],
        "num_attention_heads": 2,
        "aspp_out_channels": 16,
        "atrous_rates": [1, 2, 3],
    },
    "mobilenet_v2": {"depth_multiplier": 0.35},
    "mask2former": _FORMER,
    "maskformer": {
        "fpn_feature_size": 32,
        "mask_feature_size": 32,
        "backbone_config": SWIN,
        "decoder_config": _DETR,
    },
    "oneformer": {**_FORMER, "conv_dim": 32, "mask_dim": 32, "query_dec_layers": 1},
    "eomt": {
        "hidden_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 64,
        "patch_size": 16,
        "num_queries": 6,
        "num_blocks": 1,
        "num_upscale_blocks": 2,
    },
    "dinov2": {**_VIT, "image_size": 56, "patch_size": 14},
    "dinov2_with_registers": {**_VIT, "image_size": 56, "patch_size": 14, "num_register_tokens": 4},
    "dinov3_vit": {**_VIT, "image_size": 64, "patch_size": 16, "num_register_tokens": 4},
    "vit": {**_VIT, "image_size": 64, "patch_size": 16},
    "swin": {**SWIN, "model_type": "swin"},
    "convnext": {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]},
}
IMAGES = {
    "do_resize": True,
    "size": {"height": 64, "width": 64},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.2, 0.25, 0.3],
}


def config_of(name: str, **changes: Any) -> Any:
    """Return the config of a type, of `NAMES`."""
    labels = {"id2label": dict(enumerate(NAMES)), "label2id": {label: number for number, label in enumerate(NAMES)}}
    return transformers.CONFIG_MAPPING[name].from_dict({**copy.deepcopy(CONFIGS[name]), **labels, **changes})


def save(folder: Path, model: Any, images: dict[str, Any] | None = IMAGES) -> Path:
    """Write a model's config.json and model.safetensors, and preprocessor_config.json."""
    with torch.no_grad():  # random weights are so small that outputs of other images would hardly differ
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(folder)
    if images is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(images))
    return folder


def segmentation(name: str, folder: Path, images: dict[str, Any] | None = IMAGES, **changes: Any) -> tuple[Path, Any]:
    """Return the folder of a segmentation model, and transformers' own model in eval mode."""
    config = config_of(name, **changes)
    table = transformers.MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING.get(type(config), None)
    kind = table or transformers.MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING[type(config)]
    model = kind(config).eval()
    return save(folder / name, model, images), model
