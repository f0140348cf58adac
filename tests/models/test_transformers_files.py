"""Folders of models that are not what they should be, or that a stranger wrote: one line, and nothing is run."""

import json
import os
import pickle
import sys
import time

import pytest
import tiny_transformers as tiny
import torch
import transformers
from builds import build
from huggingface_hub import constants

from segkd.errors import SegkdError
from segkd.models.transformers import Transformers


@pytest.fixture
def folder(tmp_path):
    return tiny.segmentation("segformer", tmp_path)[0]


def refuse(path, *texts, **block):
    with pytest.raises(SegkdError) as error:
        build(Transformers, None, path=str(path), **block)
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 600
    for text in texts:
        assert text in message, message


def change(folder, name="config.json", **changes):
    file = folder / name
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_without_weights(folder):
    (folder / "model.safetensors").unlink()
    refuse(folder, "holds no weights (model.safetensors or pytorch_model.bin)", "weights: false")
    assert build(Transformers, None, path=str(folder), weights=False).classes == tiny.NAMES


@pytest.mark.parametrize(
    ("name", "kind", "texts"),
    [
        ("vit", "ViTForImageClassification", ("another task", "ViTForImageClassification", "features: true")),
        ("dpt", "DPTForDepthEstimation", ("another task", "DPTForDepthEstimation", "no DPTForSemanticSegmentation")),
    ],
)
def test_of_another_task(name, kind, texts, tmp_path):
    path = tiny.save(tmp_path / "m", getattr(transformers, kind)(tiny.config_of(name)))
    refuse(path, str(path), *texts)


@pytest.mark.parametrize(
    ("changes", "texts"),
    [
        ({"model_type": "segfromer"}, ("no model_type 'segfromer'", "did you mean 'segformer'?")),
        ({"hidden_sizes": "wide"}, ("segformer", "config.json")),
        ({"depths": [1, 1, 1, 7]}, ("model.safetensors", "keys are missing or of another shape")),
        ({"hidden_sizes": [8, 8, 16, 32]}, ("model.safetensors", "missing or of another shape")),
        ({"id2label": {"0": "a", "7": "b"}}, ("must number its 2 classes from 0",)),
    ],
)
def test_a_description_that_does_not_fit(changes, texts, folder):
    change(folder, **changes)
    refuse(folder, *(text for text in texts if text != "config.json"))


@pytest.mark.parametrize(
    ("changes", "text"),
    [({"image_mean": "grey"}, "preprocessor_config.json"), ({"image_std": [0, 1, 1]}, "std and white must be above 0")],
)
def test_a_description_of_images_that_does_not_fit(changes, text, folder):
    change(folder, "preprocessor_config.json", **changes)
    refuse(folder, text)


def test_files_that_cannot_be_read(folder):
    (folder / "model.safetensors").write_bytes(b"no weights" * 100)
    refuse(folder, "model.safetensors cannot be read as weights of a SegformerForSemanticSegmentation")
    (folder / "config.json").write_text("{")
    refuse(folder, "config.json does not describe a model of transformers")
    (folder / "config.json").unlink()
    refuse(folder, "config.json does not describe a model of transformers: there is no such file")
    refuse(folder / "no" / "such", "there is no folder")


def test_weights_that_are_not_finite(tmp_path):
    config = tiny.config_of("segformer")
    model = transformers.SegformerForSemanticSegmentation(config)
    model.decode_head.classifier.bias.data[0] = float("nan")
    refuse(tiny.save(tmp_path / "nan", model), "'decode_head.classifier.bias' is not finite")


def test_a_size_that_the_model_does_not_take(tmp_path):
    path, _ = tiny.segmentation("eomt", tmp_path)
    refuse(path, "takes images of [64, 64] alone, got [32, 32]", size=[32, 32])


def test_what_names_code_or_other_models_is_passed_over(folder, connections):
    before = build(Transformers, None, path=str(folder)).module.state_dict()
    (folder / "evil.py").write_text("open('ran', 'w')")
    change(
        folder,
        auto_map={"AutoConfig": "evil.Config", "AutoModelForSemanticSegmentation": "evil.Model"},
        attn_implementation="owner/kernels",
        _attn_implementation="owner/kernels",
        quantization_config={"quant_method": "bitsandbytes"},
        dtype="float16",
    )
    connections.clear()
    built = build(Transformers, None, path=str(folder))
    assert all(torch.equal(before[key], value) for key, value in built.module.state_dict().items())
    assert not {"auto_map", "dtype", "_attn_implementation"} & built.settings["config"].keys()
    change(folder, **{"model_type": "upernet", "backbone": "owner/model", "use_pretrained_backbone": True})
    change(folder, architectures=["UperNetForSemanticSegmentation"])
    refuse(folder, "UperNet" if "4." in transformers.__version__[:2] else "names another model, at the hub")
    assert connections == []


class _Runs:
    def __reduce__(self):
        return os.mkdir, ("ran",)


def test_pickled_weights_run_nothing(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (folder / "model.safetensors").unlink()
    torch.save({"decode_head.classifier.bias": _Runs()}, folder / "pytorch_model.bin", pickle_module=pickle)
    refuse(folder, "pytorch_model.bin cannot be read as weights")
    assert not (tmp_path / "ran").exists()


def test_a_library_that_is_not_installed(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    refuse(folder, 'pip install "segkd[transformers]"')


def test_a_hub_that_cannot_be_reached(monkeypatch, tmp_path):
    # A closed port of this machine: refused at once, with or without a network.
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    start = time.monotonic()
    refuse("owner/segformer", "'owner/segformer' is no folder here", "path: path/to/folder")
    assert time.monotonic() - start < 10
