"""Reference figures of the authors' released code, and the tensors they were computed on.

`reference/losses.json` holds each case's inputs as a recipe in numpy's random numbers, which are the same everywhere,
the loss in float64 and the L2 norm of its gradient with respect to the student.
"""

import json
from pathlib import Path
from typing import Any

from reference.row import labels, normal

__all__ = ["labels", "normal", "rows"]

REFERENCE = Path(__file__).parent / "reference" / "losses.json"


def rows(name: str) -> list[dict[str, Any]]:
    """Return the reference cases of that name; there is at least one."""
    found = [row for row in json.loads(REFERENCE.read_text()) if row["name"] == name]
    assert found, name
    return found
