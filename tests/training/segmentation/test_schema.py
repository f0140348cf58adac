from typing import Any

import pytest
from pydantic import ValidationError

from segkd.training.tasks import config_type

CONFIG = {
    "name": "a",
    "data": {"dataset": "camvid", "crop": [8, 8]},
    "student": {"arch": "Unet", "encoder": "resnet18"},
}


def teacher(block: dict[str, object]) -> Any:
    """The teacher of a whole config, with the default family."""
    content = {**CONFIG, "task": "segmentation", "teacher": block}
    return config_type(content).model_validate(content).teacher


class TestTeacher:
    def test_is_a_config_or_a_checkpoint(self):
        teacher({"config": "a.yaml"})
        teacher({"checkpoint": "runs/a"})
        teacher({"arch": "Unet", "encoder": "resnet18", "checkpoint": "a.pth"})
        with pytest.raises(ValidationError, match="needs a config, or a checkpoint"):
            teacher({"arch": "Unet", "encoder": "resnet18"})
        with pytest.raises(ValidationError, match="name two teachers"):
            teacher({"config": "a.yaml", "checkpoint": "runs/a"})

    @pytest.mark.parametrize("value", [True, False, "fit"])
    def test_auxiliary(self, value: object):
        found = teacher({"config": "a.yaml", "auxiliary": value}).auxiliary
        assert found == value
        assert type(found) is type(value)

    def test_no_other_auxiliary(self):
        with pytest.raises(ValidationError):
            teacher({"config": "a.yaml", "auxiliary": "perhaps"})
