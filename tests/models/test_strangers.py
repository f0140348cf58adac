import json
import socket
from pathlib import Path
from typing import Any

import pytest
from networks import detector, segmenter

import segkd
from segkd.errors import SegkdError
from segkd.models.build import build_network
from segkd.registry import find


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"_segkd": 1}'])
def test_a_description_that_is_none(tmp_path: Path, text: str):
    segmenter().save(tmp_path / "student")
    (tmp_path / "student/config.json").write_text(text)
    with pytest.raises(SegkdError, match=r"config\.json does not describe a model"):
        segkd.load_student(tmp_path)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was asked of the network, every call of which fails."""
    asked: list[Any] = []

    def refuse(*arguments: Any, **named: Any) -> None:
        asked.append(arguments)
        raise OSError("the network was asked")

    for owner, name in ((socket.socket, "connect"), (socket.socket, "connect_ex"), (socket, "getaddrinfo")):
        monkeypatch.setattr(owner, name, refuse)
    return asked


class TestNothingReachesTheNetwork:
    """Each of these would be fetched if what the description says were handed on to the libraries."""

    def opened(self, folder: Path, changes: dict[str, Any]) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **changes}))
        segkd.load_student(folder)

    @pytest.mark.parametrize(
        "changes",
        [
            {"encoder_name": "tu-hf_hub:timm/resnet18.a1_in1k"},
            {"encoder_name": "tu-hf-hub:timm/resnet18.a1_in1k"},
            {"encoder_name": "tu-HF-Hub:timm/resnet18.a1_in1k"},
            {"encoder_name": "hf-hub:timm/resnet18.a1_in1k"},
            {"encoder_name": "tu-local-dir:."},
            {"encoder_name": "tu-https://127.0.0.1/resnet18"},
            {"encoder_name": "tu-resnet18", "pretrained": True},
            {"encoder_name": "tu-resnet18", "pretrained_cfg": {"url": "http://127.0.0.1/a.pth"}},
            {"encoder_name": "tu-resnet18", "pretrained_cfg_overlay": {"hf_hub_id": "timm/resnet18.a1_in1k"}},
            {"encoder_name": "tu-resnet18", "checkpoint_path": "http://127.0.0.1/a.pth"},
            {"encoder_weights": {"url": "http://127.0.0.1/a.pth"}},
            {"_model_class": "from_pretrained"},
        ],
        ids=str,
    )
    def test_of_a_segmenter(self, changes: dict[str, Any], calls: list[Any], tmp_path: Path):
        segmenter("Unet", "tu-mobilenetv3_small_050").save(tmp_path)
        with pytest.raises(SegkdError, match=r"config\.json does not describe a model: "):
            self.opened(tmp_path, changes)
        assert calls == []

    @pytest.mark.parametrize("encoder", ["resnet18", "tu-resnet18", "tu-resnet18.a1_in1k"])
    @pytest.mark.parametrize("weights", ["imagenet", True])
    def test_of_a_segmenter_that_was_trained_from_fetched_weights(
        self, encoder: str, weights: Any, calls: list[Any], tmp_path: Path
    ):
        segmenter("Linknet", encoder).save(tmp_path)
        self.opened(tmp_path, {"encoder_weights": weights})
        assert calls == []

    @pytest.mark.parametrize(
        "changes",
        [
            {"backbone": "tu-hf_hub:timm/resnet18.a1_in1k"},
            {"backbone": "tu-hf-hub:timm/resnet18.a1_in1k"},
            {"backbone": "tu-local-dir:."},
            {"backbone_weights": "default"},
            {"backbone_weights": "IMAGENET1K_V1"},
            {"weights": "default"},
            {"options": {"weights_backbone": "DEFAULT"}},
            {"options": {"pretrained": 1}},
        ],
        ids=str,
    )
    def test_of_a_detector(self, changes: dict[str, Any], calls: list[Any], tmp_path: Path):
        detector().save(tmp_path)
        settings = json.loads((tmp_path / "config.json").read_text())["settings"]
        with pytest.raises(SegkdError, match=r"config\.json does not describe a model: "):
            self.opened(tmp_path, {"settings": {**settings, **changes}})
        assert calls == []

    @pytest.mark.parametrize(
        "changes",
        [
            {"path": "evil/hub"},
            {"weights": "backbone"},
            {"config": {"model_type": "evil"}},
            {"config": {"model_type": "upernet", "backbone": "evil/resnet", "use_pretrained_backbone": True}},
        ],
        ids=str,
    )
    def test_of_a_model_of_transformers(self, changes: dict[str, Any], calls: list[Any], tmp_path: Path):
        transformers = pytest.importorskip("transformers")
        two = {"num_encoder_blocks": 2, "depths": [1, 1], "sr_ratios": [2, 1], "hidden_sizes": [8, 16]}
        two |= {"patch_sizes": [7, 3], "strides": [4, 2], "num_attention_heads": [1, 2], "mlp_ratios": [2, 2]}
        family = find("family", "transformers")
        block = family.block(config=transformers.SegformerConfig(**two, decoder_hidden_size=8).to_dict())
        build_network("transformers", block, ["a", "b"]).save(tmp_path)
        settings = json.loads((tmp_path / "config.json").read_text())["settings"]
        self.opened(tmp_path, {"settings": settings})
        for key, value in changes.items():
            settings[key] = {**settings[key], **value} if isinstance(value, dict) else value
        with pytest.raises(SegkdError, match=r"config\.json does not describe a model: "):
            self.opened(tmp_path, {"settings": settings})
        assert calls == []
