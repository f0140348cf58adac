import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import segmentation_models_pytorch as smp
import torch
from networks import detector, segmenter

import segkd
from segkd.detection.models import ARCHITECTURES, build_detector
from segkd.errors import SegkdError
from segkd.models.saved import load_student, read_network
from segkd.models.smp import build_model
from segkd.network import Network

INFO = {"colors": [[0, 0, 0], [1, 2, 3], [4, 5, 6]], "ignore_index": 255, "dataset": "streets"}
NAMES = ["sky", "road", "car"]
OF_BOXES = {"colors": [[1, 2, 3], [4, 5, 6]], "dataset": "bccd"}
SURE_OF_NOTHING = {"box_score_thresh": 0.0}, {"score_thresh": 0.0}  # as random weights are


def config_of(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())


class TestSegmentation:
    @pytest.mark.parametrize("auxiliary", [False, True])
    @pytest.mark.parametrize("encoder", ["resnet18", "tu-mobilenetv3_small_050"])
    def test_what_is_saved_opens_here_and_with_the_library_alone(self, encoder, auxiliary, tmp_path):
        normalization = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.2)}
        block = {"auxiliary": auxiliary, "options": {"decoder_channels": 32}, "normalization": normalization}
        network = segmenter("DeepLabV3Plus", encoder, NAMES, recorded=INFO, size=[64, 96], **block).eval()
        network.save(tmp_path / "run" / "student")
        ours, theirs = load_student(tmp_path / "run"), smp.from_pretrained(str(tmp_path / "run" / "student"))
        assert type(ours.module) is type(theirs) is smp.DeepLabV3Plus
        assert not ours.training
        assert ours.preprocess == network.preprocess
        x = torch.rand(2, 3, 64, 64)
        with torch.no_grad():
            expected = network(x)["out"] if auxiliary else network(x)
            assert torch.equal(ours(x), expected)
            assert torch.equal(theirs.eval()(network.preprocess(x)), expected)
        recorded = {"classes": NAMES, "mean": [0.5, 0.4, 0.3], "std": [0.2] * 3, "size": [64, 96], **INFO}
        assert recorded.items() <= ours.info.items()
        assert ours.info["version"]
        assert load_student(tmp_path / "run" / "student").info == ours.info

    def test_the_auxiliary_head_comes_back_where_it_is_asked_for(self, tmp_path):
        network = segmenter("Unet", auxiliary=True)
        network.save(tmp_path)
        _, again = read_network(tmp_path, auxiliary=True)
        assert segkd.models.smp.SMP.load(again.module, tmp_path)
        expected = network.module.auxiliary.state_dict()
        assert all(torch.equal(value, expected[key]) for key, value in again.module.auxiliary.state_dict().items())

    def test_a_student_built_on_hub_weights_opens_without_the_hub(self, tmp_path):
        network = segmenter(classes=3)
        network.module.config["encoder_weights"] = "imagenet"  # as the library records it
        network.save(tmp_path)
        assert config_of(tmp_path)["encoder_weights"] is None
        assert load_student(tmp_path).info["mean"] == [0.485, 0.456, 0.406]

    def test_saving_again_replaces_and_leaves_nothing_behind(self, tmp_path):
        segmenter(classes=NAMES, recorded=INFO, auxiliary=True).save(tmp_path / "student")
        assert (tmp_path / "student" / "auxiliary.safetensors").exists()
        (tmp_path / "student" / "notes.txt").write_text("kept")
        segmenter(classes=list("abcd"), recorded={"colors": [[0, 0, 0]] * 4}).save(tmp_path / "student")
        names = {file.name for file in (tmp_path / "student").iterdir()}
        assert names == {"model.safetensors", "config.json", "notes.txt"}
        assert [file.name for file in tmp_path.iterdir()] == ["student"]
        assert load_student(tmp_path).module.segmentation_head[0].out_channels == 4


class TestDetection:
    @pytest.mark.parametrize(
        ("arch", "block"),
        [(arch, {}) for arch in ARCHITECTURES]
        + [
            ("retinanet", {"options": {"assigner": "atss"}}),
            ("fcos", {"norm": "frozen", "min_size": list(range(48, 209))}),
        ],
    )
    def test_what_is_saved_opens_and_finds_the_same(self, arch, block, tmp_path):
        torch.manual_seed(0)
        options = {**SURE_OF_NOTHING["rcnn" not in arch], **block.get("options", {})}
        normalization = {"mean": (0.5,) * 3, "std": (0.25,) * 3}
        network = detector(arch, recorded=OF_BOXES, **{**block, "options": options, "normalization": normalization})
        network.eval().save(tmp_path / "run" / "student")
        student = load_student(tmp_path / "run")
        assert type(student.module) is type(network.module)
        assert student.module.config == network.module.config
        assert not student.training
        image = torch.rand(3, 50, 70)
        with torch.no_grad():
            (expected,), (found,) = network([image]), student([image])
        assert len(expected["boxes"])
        assert all(torch.equal(value, found[key]) for key, value in expected.items())
        assert {"classes": ["cell", "dot"], "task": "detection", **OF_BOXES}.items() <= student.info.items()
        assert student.info["version"]
        assert load_student(tmp_path / "run" / "student").info == student.info

    def test_a_student_built_on_weights_opens_without_them(self, tmp_path):
        torch.save(detector("fcos").module.state_dict(), tmp_path / "a.pth")
        network = detector("fcos", checkpoint=str(tmp_path / "a.pth"))
        network.save(tmp_path / "student")
        (tmp_path / "a.pth").unlink()
        assert torch.equal(next(load_student(tmp_path).parameters()), next(network.parameters()))

    def test_sizes_may_be_others_than_it_was_saved_with(self, tmp_path):
        detector().save(tmp_path)
        _, network = read_network(tmp_path, min_size=[32, 48], max_size=64)
        assert (network.module.transform.min_size, network.module.transform.max_size) == ([32, 48], 64)


class TestOfVersion01:
    """The folders that version 0.1 wrote, as it wrote them."""

    def test_a_segmentation_student(self, tmp_path):
        torch.manual_seed(0)
        model = build_model("Unet", "resnet18", 3).eval()
        info = {"classes": NAMES, "mean": [0.5, 0.4, 0.3], "std": [0.2] * 3, "size": None, "window": [32, 32], **INFO}
        config = {**model.config, "encoder_weights": None, "_model_class": "Unet"}
        config = {**config, "_segkd": {**info, "version": "0.1.0"}}
        self.write(tmp_path / "run/student", model, config)
        student = segkd.load_student(tmp_path / "run")
        image = np.random.default_rng(0).integers(0, 256, (32, 64, 3), dtype=np.uint8)
        with torch.no_grad():
            pixels = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
            logits = model((pixels - torch.tensor(info["mean"]).view(3, 1, 1)) / 0.2)
        np.testing.assert_array_equal(student.predict(image), logits[0].argmax(0).numpy())
        np.testing.assert_array_equal(student.predict_batch([image])[0], student.predict(image))
        assert isinstance(student.model, smp.Unet)
        assert student.info == {**info, "task": "segmentation", "version": "0.1.0"}

    def test_a_detector(self, tmp_path):
        torch.manual_seed(0)
        options = {"out_channels": 64, "score_thresh": 0.0}
        model = build_detector("gfl", "resnet18", 2, min_size=[64, 80], max_size=96, options=options).eval()
        info = {"task": "detection", "classes": ["cell", "dot"], "version": "0.1.0", **OF_BOXES}
        assert set(model.config) == {
            *("arch", "backbone", "num_classes", "min_size", "max_size", "normalization", "norm", "options")
        }
        self.write(tmp_path / "student", model, {**model.config, "_segkd": info})
        student = segkd.load_student(tmp_path)
        assert student.module.config == model.config
        found = student.predict(np.zeros((64, 96, 3), np.uint8))
        with torch.no_grad():
            (expected,) = model([torch.zeros(3, 64, 96)])
        np.testing.assert_array_equal(found["boxes"], expected["boxes"].numpy())
        assert info.items() <= student.info.items()

    def write(self, folder, model, config):
        folder.mkdir(parents=True)
        safetensors.torch.save_file(model.state_dict(), folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True))


def test_what_cannot_be_saved_writes_nothing(tmp_path):
    for network in (segmenter(recorded={"notes": {1, 2}}), detector(recorded={"notes": {1, 2}})):
        with pytest.raises(SegkdError, match="JSON"):
            network.save(tmp_path / "student")
    with pytest.raises(SegkdError, match="Conv2d cannot be saved as a student"):
        Network(torch.nn.Conv2d(3, 3, 1)).save(tmp_path / "student")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("make", [segmenter, detector])
def test_what_is_no_student(make, tmp_path):
    with pytest.raises(SegkdError, match="there is no run"):
        load_student(tmp_path / "absent")
    with pytest.raises(SegkdError, match="not a finished run"):
        load_student(tmp_path)
    make().save(tmp_path / "student")
    config = tmp_path / "student" / "config.json"
    good = json.loads(config.read_text())
    wrong = {**good, "_model_class": "Foo"} if make is segmenter else {**good, "settings": {"arch": "yolo"}}
    for text in ("{", json.dumps(wrong), json.dumps({**good, "a": 1}), json.dumps({"a": 1}), "{}", "[]"):
        config.write_text(text)
        with pytest.raises(SegkdError, match=r"config\.json does not describe a model") as error:
            load_student(tmp_path)
        assert "\n" not in str(error.value)
    config.write_text(json.dumps({**good, "classes": 7, "_segkd": {"classes": list("abcdefg")}}))
    with pytest.raises(SegkdError, match="the file has 2 classes, the model 7"):
        load_student(tmp_path)
