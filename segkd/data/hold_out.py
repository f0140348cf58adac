"""A part of a split that is held out, to be measured on, and the rest of it, to be trained on: splits by their names.

``train/held_out/0.2`` is a fifth of the split ``train``, ``train/rest/0.2`` all else of it.
"""

import re
from collections.abc import Container, Sequence
from pathlib import Path

from segkd.errors import SegkdError

BLOCKS = 5
_PART = re.compile(r"(.+)/(held_out|rest)/([^/]+)")


def hold_out(split: str, share: float) -> tuple[str, str]:
    """Return the names of what is left of a split to train on, and of the share of it that is held out."""
    return f"{split}/rest/{share}", f"{split}/held_out/{share}"


def whole_split(name: str, splits: Container[str]) -> str:
    """Return the name of the split that a part is of; itself where it is no part."""
    found = None if name in splits else _PART.fullmatch(name)
    return found[1] if found else name


def places_of(name: str, images: Sequence[Path]) -> list[int]:
    """Return where the images of a part are among those of its whole split.

    What is held out lies in a few blocks of neighbours, spread over the sorted images: frames of a video that follow
    one another are nearly the same image, so that a random choice would measure what was trained on.

    Raises:
        SegkdError: the share is not between 0 and 1, or leaves nothing on either side.
    """
    found = _PART.fullmatch(name)
    assert found is not None
    try:
        share = float(found[3])
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise SegkdError(f"{name}: what is held out is a share between 0 and 1, got {found[3]}")
    count, held = len(images), round(len(images) * share)
    if not 0 < held < count:
        what = "train on" if held else "hold out"
        raise SegkdError(f"{name}: of {count} images a share of {share:g} leaves none to {what}")
    order, blocks = sorted(range(count), key=images.__getitem__), min(BLOCKS, held)
    chosen = set[int]()
    for block in range(blocks):  # before each as many others as behind the last
        before = (count - held) * (block + 1) // (blocks + 1)
        chosen |= set(order[before + held * block // blocks : before + held * (block + 1) // blocks])
    return [place for place in range(count) if (place in chosen) == (found[2] == "held_out")]
