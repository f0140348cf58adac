"""What holds of every source file."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("folder", ["tests"])
def test_no_file_is_longer_than_a_person_reads_at_once(folder: str):
    lengths = {str(path): len(path.read_text().splitlines()) for path in (ROOT / folder).rglob("*.py")}
    assert lengths
    assert [path for path, length in lengths.items() if length > 300] == []
