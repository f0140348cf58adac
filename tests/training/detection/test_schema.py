import pytest
from pydantic import ValidationError

from segkd.training.detection.schema import DetectionData


class TestSizes:
    @pytest.mark.parametrize("size", [800, [640, 800], [800]])
    def test_those_given(self, size: object):
        assert DetectionData.model_validate({"dataset": "coco", "min_size": size}).sizes() == size

    def test_one_is_a_range_of_its_own(self):
        data = DetectionData.model_validate({"dataset": "coco", "min_size": 800, "min_size_sampling": "range"})
        assert data.sizes() == 800

    def test_all_of_a_range(self):
        data = DetectionData.model_validate({"dataset": "coco", "min_size": [5, 8], "min_size_sampling": "range"})
        assert data.sizes() == [5, 6, 7, 8]

    @pytest.mark.parametrize("size", [[800], [480, 640, 800], [800, 480], [480, 480]])
    def test_what_is_no_range(self, size: object):
        with pytest.raises(ValidationError, match=r"needs min_size: \[smallest, largest\], got"):
            DetectionData.model_validate({"dataset": "coco", "min_size": size, "min_size_sampling": "range"})
