"""What holds of every source file."""

import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("folder", ["segkd", "tests"])
def test_no_file_is_longer_than_a_person_reads_at_once(folder: str):
    lengths = {str(path): len(path.read_text().splitlines()) for path in (ROOT / folder).rglob("*.py")}
    assert lengths
    assert [path for path, length in lengths.items() if length > 300] == []


def test_no_two_classes_have_one_name():
    text = "\n".join(path.read_text() for path in (ROOT / "segkd").rglob("*.py"))
    counts = Counter(re.findall(r"^class (\w+)", text, re.MULTILINE))
    assert len(counts) > 100
    assert [name for name, count in counts.items() if count > 1] == []
