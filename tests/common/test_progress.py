import io

import pytest
from rich.console import Console

from segkd.common.progress import shown


def test_a_terminal_shows_name_count_and_time_left_and_is_left_clean():
    console = Console(force_terminal=True, width=80, file=io.StringIO(), record=True)
    assert list(shown(iter("abc"), 3, "reading images", console)) == ["a", "b", "c"]
    text = console.export_text()
    assert "reading images" in text
    assert "0/3 -:--:-- left" in text


@pytest.mark.parametrize("console", [None, Console(file=io.StringIO())])
def test_elsewhere_nothing_is_shown(console: Console | None):
    assert list(shown([1, 2], 2, "reading", console)) == [1, 2]
    if console is not None:
        assert console.file.getvalue() == ""  # type: ignore[attr-defined]
