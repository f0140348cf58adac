"""Segmentation models of transformers: what a folder says is what is built, and gives what the library gives."""

import pytest
import tiny_transformers as tiny
import torch
import transformers
from builds import CLASSES, build, expect_exports, expect_same_again, logits, pictures, train_step

from segkd.errors import SegkdError
from segkd.models.build import network_of
from segkd.models.transformers import MASKS, Transformers

SEMANTIC = ("segformer", "upernet", "dpt", "beit", "data2vec-vision", "mobilevit", "mobilenet_v2")
EVERY = (*SEMANTIC, "mask2former", "maskformer", "oneformer", "eomt")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folder and model of each type, made when first asked for."""
    folder, found = tmp_path_factory.mktemp("models"), {}

    def get(name):
        if name not in found:
            found[name] = tiny.segmentation(name, folder)
        return found[name]

    return get


@pytest.mark.parametrize("name", EVERY)
def test_it_gives_what_transformers_gives_and_teaches_and_learns(name, made, connections):
    folder, model = made(name)
    connections.clear()
    built = build(Transformers, None, path=str(folder))
    assert (built.classes, built.features, built.note) == (tiny.NAMES, False, "")
    images = pictures(64, 64)
    found = logits(built, images)
    given = {"task_inputs": built.module.task.expand(2, -1)} if name == "oneformer" else {}
    with torch.no_grad():
        expected = model(
            (images - torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)) / torch.tensor([0.2, 0.25, 0.3]).view(3, 1, 1),
            **given,
        )
    if name in MASKS:
        classes = transformers.MaskFormerImageProcessor().post_process_semantic_segmentation(expected)
        assert torch.equal(found.argmax(1), torch.stack(classes))
    else:
        torch.testing.assert_close(found, expected.logits)
    expect_same_again(Transformers, built, tiny.NAMES, images)
    student = build(Transformers, path=str(folder))
    assert "its weights are of 4 other classes" in network_of("transformers", student, CLASSES).note
    names = ["a", "b", "c", "d"]
    terms = train_step(build(Transformers, names, path=str(folder)), built, images)
    assert set(terms) == {"task", "kd"}
    expect_same_again(Transformers, student, CLASSES, images)
    assert connections == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["segformer", "upernet", "mask2former", "oneformer", "eomt"])
def test_a_file_for_onnx_gives_the_same(name, made, tmp_path):
    built = build(Transformers, path=str(made(name)[0]))
    axes = {0: "batch", 2: "height", 3: "width"} if name == "segformer" else {}  # others take minutes with those
    expect_exports(built, tmp_path, pictures(64, 64), axes)


IMAGE_FILES = {
    "units of 0 to 255": ({"do_rescale": False, "image_mean": [123, 116, 103], "image_std": [58, 57, 57]}, 255.0),
    "in -1 to 1": ({"rescale_factor": 2 / 255, "image_mean": [1, 1, 1], "image_std": [1, 1, 1]}, 2.0),
    "not normalised": ({"do_normalize": False, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}, 1.0),
}


@pytest.mark.parametrize("kind", IMAGE_FILES)
def test_pixels_become_what_the_processor_makes_of_them(kind, tmp_path):
    said, white = IMAGE_FILES[kind]
    folder, _ = tiny.segmentation("segformer", tmp_path, {**said, "size": 64})
    built = build(Transformers, None, path=str(folder))
    pixels = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    expected = processor(images=list(pixels), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(built.preprocess(pixels), expected)
    assert built.preprocess.white == pytest.approx(white)


@pytest.mark.parametrize(
    ("said", "size", "multiple"),
    [
        ({"size": {"height": 32, "width": 64}}, (32, 64), 4),
        ({"size": 48}, (48, 48), 4),
        ({"size": {"shortest_edge": 48, "longest_edge": 96}, "size_divisor": 32}, None, 32),
        ({"size": {"height": 32, "width": 32}, "do_resize": False}, None, 4),
    ],
)
def test_sizes_of_images(said, size, multiple, tmp_path):
    folder, _ = tiny.segmentation("mask2former", tmp_path, said)
    built = build(Transformers, None, path=str(folder))
    assert (built.preprocess.size, built.preprocess.multiple) == (size, multiple)
    assert build(Transformers, None, path=str(folder), size="own").preprocess.size is None
    assert build(Transformers, None, path=str(folder), size=[96, 64]).preprocess.size == (96, 64)
    assert build(Transformers, path=str(folder)).preprocess.size is None


def test_channels_of_the_other_order_are_turned(tmp_path):
    folder, model = tiny.segmentation(
        "mobilevit", tmp_path, {"do_flip_channel_order": True, "size": {"shortest_edge": 64}}
    )
    built, images = build(Transformers, None, path=str(folder)), pictures(64, 64)
    with torch.no_grad():
        torch.testing.assert_close(logits(built, images), model(images.flip(1)).logits)
    expect_same_again(Transformers, built, tiny.NAMES, images)


def test_for_classes_of_other_names_what_depends_on_them_starts_anew_and_nothing_else(made):
    folder, model = made("mask2former")
    given = {f"model.{key}": value for key, value in model.state_dict().items()}
    for names in (["a", "b", "c", "d"], CLASSES):
        built = build(Transformers, names, path=str(folder))
        state = built.module.state_dict()
        anew = {key for key in given if given[key].shape != state[key].shape or not torch.equal(given[key], state[key])}
        assert {"model.class_predictor.weight", "model.class_predictor.bias"} <= anew
        assert anew <= {"model.class_predictor.weight", "model.class_predictor.bias", "model.criterion.empty_weight"}
    same = build(Transformers, tiny.NAMES, path=str(folder))
    assert same.note == ""
    assert all(torch.equal(given[key], value) for key, value in same.module.state_dict().items())


def test_a_student_starts_from_a_backbone_that_classifies_images(tmp_path):
    config = tiny.config_of("segformer")
    folder = tiny.save(tmp_path / "mit", transformers.SegformerForImageClassification(config))
    with pytest.raises(SegkdError, match=r"of another task.*SegformerForImageClassification.*weights: backbone"):
        build(Transformers, path=str(folder))
    built = build(Transformers, path=str(folder), weights="backbone")
    assert built.note.endswith("of a backbone alone, the head starts anew")
    given = transformers.SegformerForImageClassification.from_pretrained(folder).segformer.state_dict()
    assert all(torch.equal(given[key], value) for key, value in built.module.segformer.state_dict().items())
    expect_same_again(Transformers, built, CLASSES, pictures())


def test_random_weights_of_a_config_alone():
    built = build(Transformers, config={"model_type": "segformer", **tiny.CONFIGS["segformer"]})
    assert logits(built, pictures()).shape == (2, 3, 16, 24)
    expect_same_again(Transformers, built, CLASSES, pictures())


def test_scores_of_masks_stay_finite_in_half_precision(made):
    built = build(Transformers, None, path=str(made("mask2former")[0]))
    for parameter in built.module.model.class_predictor.parameters():
        parameter.data *= 1e4
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        found = built.module(pictures(64, 64) * 100)
    assert found.dtype == torch.float32
    assert torch.isfinite(found).all()
    assert torch.isfinite(found.softmax(1)).all()


@pytest.mark.parametrize(
    ("name", "size"), [("beit", (64, 64)), ("eomt", (64, 64)), ("dpt", (64, 64)), ("upernet", (52, 92))]
)
def test_images_of_a_size_that_it_does_not_take_are_resized(name, size, made):
    built = build(Transformers, None, path=str(made(name)[0]))
    images = pictures(50, 90)
    resized = torch.nn.functional.interpolate(images, size=size, mode="bilinear", align_corners=False)
    torch.testing.assert_close(logits(built, images), logits(built, resized), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "path", "shape", "prefix"),
    [
        ("dinov2", "encoder.layer.1", (16, 4, 6), 1),
        ("dinov2_with_registers", "encoder.layer.1", (16, 4, 6), 5),
        ("dinov3_vit", "norm", (16, 4, 6), 5),
        ("vit", "layernorm", (16, 4, 6), 1),
        ("swin", "encoder.layers.1.blocks.0", (16, 16, 24), 0),
        ("convnext", "encoder.stages.1", (8, 8, 12), None),
    ],
)
def test_backbones_are_teachers_of_features(name, path, shape, prefix, tmp_path):
    config = tiny.config_of(name)
    folder = tiny.save(tmp_path / name, transformers.MODEL_MAPPING[type(config)](config))
    built = build(Transformers, None, path=str(folder))
    assert (built.features, built.classes) == (True, None)
    step = {"dinov2": 14, "dinov2_with_registers": 14, "swin": 32}.get(name, 16)
    size, found = (4 * step, 6 * step), []
    built.module.get_submodule(path).register_forward_hook(lambda module, inputs, output: found.append(output))
    built.module.eval()(built.preprocess(pictures(*size)))
    given = found[0][0] if isinstance(found[0], tuple) else found[0]
    as_map = Transformers.as_map(built.module, given, size)
    assert as_map.shape == (2, *shape)
    if prefix is not None:
        assert torch.equal(as_map, given[:, prefix:].transpose(1, 2).reshape(2, *shape))
    again = build(Transformers, None, fetch=False, **built.settings)
    again.module.load_state_dict(built.module.state_dict())
    assert again.features
