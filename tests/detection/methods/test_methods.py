"""What is found in `segkd.detection.methods` by its name."""

import pytest

from segkd.detection import methods
from segkd.detection.methods.crosskd import CrossKDClass
from segkd.losses import PKD


def test_a_method_is_found_by_its_class_name() -> None:
    assert methods.CrossKDClass is CrossKDClass
    assert methods.PKD is PKD  # it reads the FPN maps
    for name in ("Nothing", "nothing", "crosskd_"):
        with pytest.raises(AttributeError, match=name):
            getattr(methods, name)
