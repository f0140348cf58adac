import pytest
from pydantic import ValidationError

from segkd.training.segmentation.schema import SegmentationTeacher


class TestTeacher:
    def test_is_a_config_or_a_checkpoint(self):
        SegmentationTeacher.model_validate({"config": "a.yaml"})
        SegmentationTeacher.model_validate({"checkpoint": "runs/a"})
        SegmentationTeacher.model_validate({"arch": "Unet", "encoder": "resnet18", "checkpoint": "a.pth"})
        with pytest.raises(ValidationError, match="needs a config, or a checkpoint"):
            SegmentationTeacher.model_validate({"arch": "Unet", "encoder": "resnet18"})
        with pytest.raises(ValidationError, match="name two teachers"):
            SegmentationTeacher.model_validate({"config": "a.yaml", "checkpoint": "runs/a"})

    @pytest.mark.parametrize("value", [True, False, "fit"])
    def test_auxiliary(self, value: object):
        assert (
            SegmentationTeacher.model_validate({"config": "a.yaml", "auxiliary": value}).auxiliary is value
            or value == "fit"
        )

    def test_no_other_auxiliary(self):
        with pytest.raises(ValidationError):
            SegmentationTeacher.model_validate({"config": "a.yaml", "auxiliary": "perhaps"})
