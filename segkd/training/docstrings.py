"""Docstrings as Markdown, for the page of methods and the reference of options."""

import inspect
import re
import textwrap
from collections.abc import Mapping

HEADS = "Args|Attributes|Config|Example|Raises|Reference|Returns|Shape"
"""The headings of a docstring's parts; the description stands before the first."""


def parts(build: type) -> dict[str, str]:
    """Return a docstring's parts by their heading, without the indent; the description's heading is empty."""
    text = f":\n{inspect.cleandoc(build.__doc__ or '')}"
    _, description, *others = re.split(rf"^({HEADS}|):(?=\s)", text, flags=re.MULTILINE)[1:]
    found = dict(zip(others[::2], map(inspect.cleandoc, others[1::2]), strict=True))
    return {"": description.strip(), **found}


def arguments(build: type) -> dict[str, str]:
    """Return what the ``Args`` in the docstrings of a class and its bases say, by argument, as Markdown."""
    text = "\n".join(parts(owner).get("Args", "") for owner in reversed(build.__mro__))
    entries = re.findall(r"^(\w+): (.*(?:\n .*)*)", text, flags=re.MULTILINE)
    return {
        key: re.sub(r"\bNone\b", "`null`", " ".join(meaning.split()).replace("``", "`")).rstrip(".")
        for key, meaning in entries
    }


def prose(text: str, anchors: Mapping[str, str]) -> str:
    """Return a description as Markdown: indented formulas fenced, classes linked, special characters escaped.

    Args:
        text: paragraphs, lists, tables with pipes, and formulas indented by four.
        anchors: by a class's name the anchor of its section on the page.
    """
    blocks = []
    for block in re.split(r"\n{2,}(?!    )", text):
        said, *formulas = re.split(r"\n\n(?=    )", block)
        blocks += [marked(said, anchors), *(f"```text\n{textwrap.dedent(formula)}\n```" for formula in formulas)]
    return "\n\n".join(blocks)


def marked(text: str, anchors: Mapping[str, str]) -> str:
    """Return running text as Markdown: code as code, arXiv numbers and classes with a section as links."""
    spans = re.split(r"(``.+?``|`[^`]+`)", text, flags=re.DOTALL)
    return "".join(_plain(span) if index % 2 == 0 else _code(span, anchors) for index, span in enumerate(spans))


def _plain(text: str) -> str:
    text = text.replace("*", r"\*").replace("<", "&lt;")
    return re.sub(r"\barXiv (\d+\.\d+)", r"[\g<0>](https://arxiv.org/abs/\1)", text)


def _code(span: str, anchors: Mapping[str, str]) -> str:
    name = span.strip("`").rpartition(".")[2]
    return f"[`{name}`](#{anchors[name]})" if span[:2] != "``" and name in anchors else f"`{span.strip('`')}`"
