"""Every row of the reference figures that ship is matched, and one that is not would be found."""

import json
from pathlib import Path

import pytest
from reference.__main__ import differences, main, read

HERE = Path(__file__).parent
CASES = {path.stem for path in (HERE / "cases").glob("*.py")}
ROWS = [
    pytest.param(row, id=f"{path.stem}-{number}-{row.name}")
    for path in sorted(HERE.glob("*.json"))
    for number, row in enumerate(read(path))
    if row.name in CASES or not path.stem.startswith("zoo")
]


@pytest.mark.filterwarnings("ignore:sp compares")  # of a single image
@pytest.mark.parametrize("row", ROWS)
def test_a_row_is_matched(row):
    assert differences(row)[1] == []


def test_a_wrong_figure_is_found(tmp_path, capsys):
    rows = [row for row in json.loads((HERE / "losses.json").read_text()) if row["name"] == "cwd"]
    path = tmp_path / "figures.json"
    path.write_text(json.dumps(rows))
    assert main([str(path)]) == 0
    assert f"figures.json: {len(rows)} of {len(rows)} rows match" in capsys.readouterr().out
    rows[1]["value"] *= 1 + 2e-6
    rows[2]["name"] = "unheard_of"
    path.write_text(json.dumps(rows))
    assert main([str(path)]) == 1
    found = capsys.readouterr().out
    assert f"figures.json: {len(rows) - 2} of {len(rows)} rows match" in found
    assert "figures.json row 1, cwd {'temperature': 4.0}: value 2.0e-06" in found
    assert "row 2, unheard_of" in found
