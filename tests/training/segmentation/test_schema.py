import pytest
from pydantic import ValidationError

from segkd.training.segmentation.schema import Teacher


class TestTeacher:
    def test_needs_a_config_or_all_the_rest(self):
        Teacher.model_validate({"config": "a.yaml"})
        Teacher.model_validate({"arch": "Unet", "encoder": "resnet18", "checkpoint": "a.pth"})
        with pytest.raises(ValidationError, match="encoder is missing"):
            Teacher.model_validate({"arch": "Unet", "checkpoint": "a.pth"})

    @pytest.mark.parametrize("value", [True, False, "fit"])
    def test_auxiliary(self, value: object):
        assert Teacher.model_validate({"config": "a.yaml", "auxiliary": value}).auxiliary is value or value == "fit"

    def test_no_other_auxiliary(self):
        with pytest.raises(ValidationError):
            Teacher.model_validate({"config": "a.yaml", "auxiliary": "perhaps"})
