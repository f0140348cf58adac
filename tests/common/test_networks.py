import pytest
import timm
from huggingface_hub import constants
from huggingface_hub.errors import EntryNotFoundError, OfflineModeIsEnabled

from segkd.common.networks import IMAGENET, check_timm, hub_or_cache, timm_normalization, unreachable
from segkd.errors import SegkdError


def test_names_of_timm():
    check_timm("tu-resnet18", "encoder")
    check_timm("tu-resnet18.a1_in1k", "encoder")
    for name, expected in (("tu-resnet81", "'tu-resnet"), ("tu-resnet18.a1_in1", "'tu-resnet18.a1_in1k'")):
        with pytest.raises(SegkdError) as error:
            check_timm(name, "backbone")
        assert expected in str(error.value)
        assert repr(name) in str(error.value)


def test_normalization_is_timms_own():
    assert timm_normalization("tu-resnet18") == IMAGENET == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert timm_normalization("tu-tf_efficientnet_lite2") == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    described = timm.get_pretrained_cfg("vit_base_patch16_clip_224.openai")
    assert timm_normalization("tu-vit_base_patch16_clip_224.openai") == (described.mean, described.std)


@pytest.fixture
def no_hub(monkeypatch):
    # A closed port of this machine: refused at once, with or without a network.
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")


def test_without_a_hub_nothing_is_retried_and_the_setting_returns(no_hub):
    before = constants.HF_HUB_OFFLINE
    with hub_or_cache("x", "y"):
        assert constants.HF_HUB_OFFLINE
    assert before == constants.HF_HUB_OFFLINE


@pytest.mark.parametrize("error", [OfflineModeIsEnabled("off"), EntryNotFoundError("no such file")])
def test_a_failed_download_names_what_and_the_local_way(no_hub, error):
    before = constants.HF_HUB_OFFLINE
    with pytest.raises(SegkdError) as raised, hub_or_cache("the weights 'a'", "encoder_weights"):
        raise error
    assert str(raised.value) == str(unreachable("the weights 'a'", "encoder_weights"))
    assert str(raised.value).startswith("the weights 'a' could not be fetched")
    assert "encoder_weights: path/to/file" in str(raised.value)
    assert before == constants.HF_HUB_OFFLINE


def test_other_errors_pass(no_hub):
    with pytest.raises(ZeroDivisionError), hub_or_cache("x", "y"):
        _ = 1 / 0
