"""Reading YAML that others wrote: every key once, no more values than a person writes, and nothing that runs code."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from segkd.common.paths import check_regular
from segkd.errors import SegkdError

# The most keys and values of a config; the longest shipped one has about a hundred.
MAX_VALUES = 5_000
# How deep lists and mappings may stand in each other.
MAX_DEPTH = 30
MAX_BYTES = 10_000_000

# libyaml where there is one, which reads ten times faster.
_Parser: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Parser):
    """Reads 1e-3 as a number, as YAML 1.2 does, and leaves dates as they are written."""


_Loader.yaml_implicit_resolvers = {
    first: [pair for pair in pairs if not pair[0].endswith(":timestamp")]
    for first, pairs in _Parser.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)

_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float", "str", "seq", "map", "merge")}


def read_yaml(path: Path, most: int = MAX_VALUES) -> Any:
    """Return what a YAML file holds, at most so many keys and values; those that an alias repeats count each time.

    Raises:
        SegkdError: no file, no YAML, a key that stands twice, more values or deeper ones than allowed; one line that
            names the file, and the line and key where there is one.
    """
    check_regular(path, "the YAML file")
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        text = data.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SegkdError(f"{path}: cannot be read as YAML: {' '.join(str(error).split())}") from None
    if len(data) > MAX_BYTES:
        raise SegkdError(f"{path}: cannot be read as YAML: it has more than {MAX_BYTES // 1_000_000} MB")
    try:
        return parse_yaml(text, most)
    except SegkdError as error:
        raise SegkdError(f"{path}{error}") from None


def parse_yaml(text: str, most: int = MAX_VALUES) -> Any:
    """Return what YAML text says; see `read_yaml`. Messages begin with the place: what has the text goes before it."""
    try:
        _count(text, most)
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is not None:
            _check(node, most)
        return None if node is None else loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
        reason = error.problem or error.context
        raise SegkdError(f": cannot be read as YAML: {place}{' '.join(str(reason).split())}") from None
    # Numbers of five thousand digits and characters that YAML does not know are refused in other ways.
    except (yaml.YAMLError, ValueError, OverflowError, TypeError) as error:
        if isinstance(error, SegkdError):
            raise
        raise SegkdError(f": cannot be read as YAML: {' '.join(str(error).split())}") from None


def _count(text: str, most: int) -> None:
    """Raise where the text alone is too much, before anything is built of it."""
    count = depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        count += isinstance(event, yaml.NodeEvent)
        if depth > MAX_DEPTH:
            raise SegkdError(f": {_line(event)}: lists and mappings nest more than {MAX_DEPTH} deep")
        if count > most:
            raise SegkdError(f": {_line(event)}: more than {most} keys and values")


def _check(root: yaml.Node, most: int) -> None:
    """Raise where what the text says is too large or too deep with its aliases written out; each node is met once."""
    sizes: dict[yaml.Node, tuple[int, int] | None] = {}

    def measure(node: yaml.Node, path: str) -> tuple[int, int]:
        """Return how many values a node stands for, and how deep; path is the dotted key that leads to it."""
        where = f": {_line(node)}: {path or 'the file'}"
        if node in sizes:
            if (known := sizes[node]) is None:
                raise SegkdError(f"{where} refers to itself")
            return known
        if node.tag not in _TAGS:
            tag = node.tag.replace("tag:yaml.org,2002:", "!!")
            raise SegkdError(f": cannot be read as YAML: {_line(node)}: the tag {tag} is not read here")
        sizes[node] = None
        size, depth = 1, 0
        for child, name in _children(node, f"{path}." if path else ""):
            of_child, deep = measure(child, name)
            size, depth = size + of_child, max(depth, deep + 1)
            if size > most:
                raise SegkdError(f"{where} has more than {most} keys and values")
            if depth > MAX_DEPTH:
                raise SegkdError(f"{where} nests more than {MAX_DEPTH} deep")
        sizes[node] = size, depth
        return size, depth

    measure(root, "")


def _children(node: yaml.Node, path: str) -> Iterator[tuple[yaml.Node, str]]:
    """Yield what a node holds, keys as well as values, each with the dotted key that leads to it."""
    if isinstance(node, yaml.SequenceNode):
        yield from ((child, f"{path}{index}") for index, child in enumerate(node.value))
    seen: dict[tuple[str, str], str] = {}
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        name = f"{path}{key.value}"
        if not isinstance(key, yaml.ScalarNode):
            raise SegkdError(f": {_line(key)}: a list or mapping cannot be a key")
        if (key.tag, key.value) in seen and not key.tag.endswith(":merge"):
            first = seen[key.tag, key.value]
            raise SegkdError(f": {_line(key)}: the key {name!r} stands twice, first in {first}")
        seen[key.tag, key.value] = _line(key)
        yield from ((key, name), (value, name))


def _line(node: yaml.Node | yaml.Event) -> str:
    return f"line {node.start_mark.line + 1}"
