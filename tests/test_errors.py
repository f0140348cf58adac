"""The hint at the nearest valid choice."""

import pytest

from segkd.errors import nearest

MANY = [f"camvid_{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]


@pytest.mark.parametrize(
    ("given", "valid", "hint"),
    [
        ("Poly", ["poly", "cosine"], "did you mean 'poly'?"),
        ("cosin", ["poly", "cosine"], "did you mean 'cosine'?"),
        ("xyz", ["poly", "cosine"], "valid: poly, cosine"),
        ("xyz", [], "there are none"),
        ("##", MANY, "valid: camvid_a, camvid_b, camvid_c, camvid_d, camvid_e, ... (26 in all)"),
        ("cam", ["voc", "coco", *(f"camvid_with_a_long_name_{n}" for n in range(3))], "the nearest: camvid_with"),
        ("cam", ["voc", "coco", *(f"camvid_with_a_long_name_{n}" for n in range(3))], "2 (5 in all)"),
    ],
)
def test_names_what_is_near_or_what_there_is(given: str, valid: list[str], hint: str):
    assert hint in nearest(given, valid, limit=3)


def test_lists_no_more_than_the_limit():
    assert nearest("cam", [f"camvid_with_a_long_name_{n}" for n in range(9)], limit=3).count(",") == 2
