"""Docstrings are read by their parts, and shown as they are meant."""

from segkd.training.docstrings import arguments, parts, prose


class Base:
    """Something.

    Args:
        first: what it is,
            at ``length``. None: nothing: else.
        second: another.

    Reference: Who, "What", arXiv 1503.02531,
    per pixel.

    Config:
        distill:
          terms: {}
    """


class Derived(Base):
    """A thing without options of its own."""


def test_parts():
    assert parts(Base) == {
        "": "Something.",
        "Args": "first: what it is,\n    at ``length``. None: nothing: else.\nsecond: another.",
        "Reference": 'Who, "What", arXiv 1503.02531,\nper pixel.',
        "Config": "distill:\n  terms: {}",
    }
    assert parts(Derived) == {"": "A thing without options of its own."}
    assert parts(type("Silent", (), {})) == {"": ""}


def test_arguments():
    assert arguments(Derived) == {"first": "what it is, at `length`. `null`: nothing: else", "second": "another"}
    assert arguments(object) == {}


def test_prose():
    text = (
        "A mean over B*h*w of ``x * y``, see `segkd.losses.CWD` and `other`, arXiv 1503.02531:\n\n"
        "    L = a * b\n      + <c>\n\nwhere a < b.\n\n- one,\n  still one\n- two\n\n| a | b |\n|---|---|"
    )
    assert prose(text, {"CWD": "cwd"}) == (
        "A mean over B\\*h\\*w of `x * y`, see [`CWD`](#cwd) and `other`, "
        "[arXiv 1503.02531](https://arxiv.org/abs/1503.02531):\n\n"
        "```text\nL = a * b\n  + <c>\n```\n\nwhere a &lt; b.\n\n- one,\n  still one\n- two\n\n| a | b |\n|---|---|"
    )
