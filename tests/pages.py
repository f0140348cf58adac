"""What stands in README and docs: fenced blocks, commands, links."""

import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

FENCE = re.compile(r"^(?:<!-- (slow) -->\n)?```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
CODE_SPAN = re.compile(r"`([^`\n]+(?:\n[^`\n]+)?)`")


class Block(NamedTuple):
    """A fenced block: its page, the line of its first line, its language, its text, and whether it takes long."""

    page: Path
    line: int
    language: str
    text: str
    slow: bool

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(*languages: str) -> list[Block]:
    """Return the blocks of all pages in these languages, or of any."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in FENCE.finditer(text):
            line = text.count("\n", 0, match.start(3)) + 1
            found.append(Block(page, line, match[2].strip(), match[3], match[1] is not None))
    return [block for block in found if not languages or block.language in languages]


def cases(found: list[Block]) -> list[Any]:
    """Return the blocks as parameters, each called by its page and line; a comparison takes long."""
    return [
        pytest.param(block, id=str(block), marks=[pytest.mark.slow] * (block.slow or "segkd compare" in block.text))
        for block in found
    ]


def prose(page: Path) -> str:
    """Return a page without its fenced blocks and comments."""
    return re.sub(r"<!--.*?-->", "", FENCE.sub("", page.read_text(encoding="utf-8")), flags=re.DOTALL)


def code_spans(page: Path) -> list[str]:
    """Return what stands between single backticks in a page's prose."""
    return [" ".join(span.split()) for span in CODE_SPAN.findall(prose(page))]


def anchors(page: Path) -> set[str]:
    """Return the names that GitHub gives a page's headings."""
    found: set[str] = set()
    for heading in HEADING.findall(prose(page)):
        plain = re.sub(r"[`*]|\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        name = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        found.add(next(n for n in (name, *(f"{name}-{k}" for k in range(1, 100))) if n not in found))
    return found


def links(page: Path) -> list[str]:
    """Return where a page's links and pictures lead."""
    text = CODE_SPAN.sub("", prose(page))
    return re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)


def commands(text: str) -> list[str]:
    """Return the command lines of a block: comments cut off, lines that a backslash continues joined, ``&&`` split."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        command = re.sub(r"(^|\s)#.*$", "", line).strip()
        found += [part.strip() for part in command.split(" && ")] if command else []
    return found
