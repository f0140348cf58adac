from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from segkd.common.values import PathText


def test_a_home_directory_is_meant_by_a_tilde(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("HOME", str(tmp_path))
    read = TypeAdapter(PathText).validate_python
    assert read("~/runs") == f"{tmp_path}/runs"
    assert read("runs/~") == "runs/~"
    for text in ("a\0b", "a" * 256):
        with pytest.raises(ValidationError):
            read(text)
