import inspect
import json

import pytest
import segmentation_models_pytorch as smp
from networks import segmenter

from segkd.errors import SegkdError
from segkd.models.saved import load_student
from segkd.models.smp_files import of_library

NAMES = tuple(smp.MODEL_ARCHITECTURES_MAPPING)


def described(name="unet", **arguments):
    return {"_model_class": name, "encoder_name": "resnet18", "classes": 2, **arguments}


@pytest.mark.parametrize("name", NAMES)
def test_every_argument_of_every_architecture_has_a_type_that_takes_its_default(name):
    """What follows the check, an encoder that is not there, is refused: so the check has passed."""
    parameters = inspect.signature(smp.MODEL_ARCHITECTURES_MAPPING[name]).parameters.values()
    defaults = {each.name: each.default for each in parameters if each.default is not inspect.Parameter.empty}
    config = json.loads(json.dumps({**defaults, **described(name), "encoder_name": "none"}))
    with pytest.raises(SegkdError, match="no encoder 'none'"):
        of_library(config)


@pytest.mark.parametrize(
    ("arch", "options"),
    [
        ("DeepLabV3Plus", {"decoder_atrous_rates": (6, 12, 18), "encoder_output_stride": 8, "upsampling": 4}),
        ("Unet", {"decoder_use_norm": {"type": "batchnorm", "momentum": None}, "decoder_interpolation": "bilinear"}),
        ("Unet", {"decoder_attention_type": "scse", "encoder_depth": 3, "decoder_channels": [64, 32, 16]}),
        ("PSPNet", {"decoder_use_norm": False}),
    ],
)
def test_options_that_a_config_may_set_open_again(arch, options, tmp_path):
    segmenter(arch, options=options).save(tmp_path)
    config = load_student(tmp_path).model.config
    assert all(config[key] == (list(value) if isinstance(value, tuple) else value) for key, value in options.items())


@pytest.mark.parametrize("key", ["encoder_name", "classes", "_model_class"])
def test_what_is_missing_is_named(key):
    with pytest.raises(SegkdError, match=f"^{key} is missing"):
        of_library({name: value for name, value in described().items() if name != key})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoder_use_norm": {"type": "batchnorm", "device": "cuda"}}, "decoder_use_norm: .*'device'"),
        ({"decoder_use_norm": 5}, "decoder_use_norm: "),
        ({"decoder_interpolation": "os.system"}, "decoder_interpolation: .*'nearest'"),
        ({"upsampling": 4.5, "_model_class": "fpn"}, "upsampling: "),
        ({"encoder_weights": {"url": "x"}}, "encoder_weights: "),
        ({"_model_class": "x"}, "no architecture 'x'"),
        ({"_model_class": 5}, "_model_class: expected text"),
    ],
)
def test_what_is_no_plain_setting_is_named(changes, message):
    with pytest.raises(SegkdError, match=message):
        of_library(described(**changes))


def test_weights_that_the_description_names_are_not_looked_at():
    """The library records them; those of the file come afterwards."""
    of_library(described(encoder_weights="imagenet"))
