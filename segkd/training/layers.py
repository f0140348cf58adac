"""Merging a config before it is checked: its bases, itself, and the changes to it, one layer over the other."""

import functools
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from segkd.common.paths import check_regular, plain_path, shortened
from segkd.common.yaml_file import parse_yaml, read_yaml
from segkd.errors import SegkdError, nearest
from segkd.registry import KINDS
from segkd.resources import resource_dir
from segkd.training.distill import is_of_terms

# The most files that may make a config; one counts each time that it is a base.
MAX_FILES = 50
# The most values that one value may stand for, through ``${...}`` and what that refers to.
MAX_REFERENCES = 1000
_ABSENT = object()
_REFERENCE = re.compile(r"\$\{\s*(\.*)([\w.-]+)\s*\}")


class Layer(NamedTuple):
    """Some keys, nested as in a file, and where they come from."""

    name: str
    """A file's path, ``the command line``, ``the keywords`` or ``teacher.overrides``."""
    keys: dict[str, Any]
    folder: Path
    """What paths in it are relative to."""


def read_layers(path: Path, content: Any = _ABSENT, seen: tuple[Path, ...] = ()) -> list[Layer]:
    """Return a file's bases, in order, then the file itself, or ``content`` in its place."""
    if path.resolve() in seen:
        raise SegkdError(f"{path}: its bases go round in a circle")
    content = read_yaml(path) if content is _ABSENT else content
    if not isinstance(content, dict):
        raise SegkdError(f"{path} must hold keys and values, got {type(content).__name__}")
    _check_keys(str(path), content)
    bases = content.pop("base", [])
    layers: list[Layer] = []
    for base in bases if isinstance(bases, list) else [] if bases is None else [bases]:
        layers += read_layers(_base(path, base), seen=(*seen, path.resolve()))
        if len(layers) > MAX_FILES:
            raise SegkdError(f"{path}: base: more than {MAX_FILES} files make this config")
    return [*layers, Layer(str(path), content, path.parent)]


def _base(path: Path, base: Any) -> Path:
    if not isinstance(base, str):
        raise SegkdError(f"{path}: base: expected the path of a file or a list of them, got {base!r:.80}")
    try:
        beside = path.parent / plain_path(base)
    except ValueError as error:
        raise SegkdError(f"{path}: base: {error}") from None
    check_regular(beside, "the base")
    shipped = resource_dir("configs")
    candidates = [beside, shipped / base, shipped / f"{base}.yaml"] if Path(base).name == base else [beside]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    names = [str(p.relative_to(path.parent)) for p in path.parent.glob("**/*.yaml")]
    names += [p.stem for p in shipped.glob("*.yaml") if path.parent != shipped]
    raise SegkdError(f"{path}: base {base!r} does not exist: {nearest(base, names)}")


def plain(value: Any) -> Any:
    """Return what a program wrote as a YAML file would hold it: paths as text, tuples as lists."""
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def changes_of(overrides: Sequence[str] | Mapping[str, Any]) -> list[Layer]:
    """Return the layers of changes: ``key.path=value`` texts, or values or blocks by (dotted) key; a later one wins.

    The first layer empties blocks (``student.options={}``), so that ``student.options.x=1`` can be given as well.
    """
    name = "the keywords" if isinstance(overrides, Mapping) else "the command line"
    keys: dict[str, Any] = {}
    emptied: dict[str, Any] = {}
    pairs = list(overrides.items() if isinstance(overrides, Mapping) else map(_parsed, overrides))
    for path, given in pairs:
        parts = path.split(".")
        if not all(parts):
            raise SegkdError(f"{name}: {path!r}: a key between two dots is missing")
        change = plain(given)
        for part in reversed(parts):
            change = {part: change}
        keys = overlay(keys, change)
        emptied = overlay(emptied, change) if given == {} else emptied
    _check_keys(name, keys)
    given_keys = {path for path, value in pairs if value is not None}
    for path in sorted(given_keys):
        term, _, key = path.rpartition(".")
        if key == "weight" and ".terms." in path and f"{term}.share" in given_keys:
            raise SegkdError(f"{name}: {term} is given a weight and a share: a term has one or the other")
    return [Layer(name, layer, Path()) for layer in (emptied, keys)]


def _parsed(text: str) -> tuple[str, Any]:
    path, equals, value = text.partition("=")
    if not equals or not path.strip():
        raise SegkdError(f"an override is key.path=value, got {text[:100]!r}")
    try:
        return path.strip(), parse_yaml(value) if value else ""
    except SegkdError as error:
        raise SegkdError(f"the command line: {path}{error}") from None


def merge(layers: Sequence[Layer]) -> dict[str, Any]:
    """Merge the layers, later ones over earlier ones, and replace each ``${...}`` by what it refers to."""
    merged: dict[str, Any] = functools.reduce(overlay, (layer.keys for layer in layers), {})
    if not any(isinstance(value, str) and "${" in value for value in leaves(merged).values()):
        return merged
    name = layers[-1].name if len(layers) == 1 else next(layer.name for layer in reversed(layers) if layer.keys)
    _check_references(name, merged)
    from omegaconf import OmegaConf  # here, since few configs need it
    from omegaconf.errors import OmegaConfBaseException

    try:
        resolved = OmegaConf.to_container(OmegaConf.create(merged), resolve=True)
    except (OmegaConfBaseException, ValueError, TypeError, RecursionError) as error:
        raise SegkdError(f"{name}: {str(error).splitlines()[0]}") from None
    return cast(dict[str, Any], resolved)


# Blocks of one name and its options: another name drops the lower layer's options.
_NAMING = ("connector", "pixel_weighting")
# A term's keys beside its loss's options.
_OF_TERMS = ("loss", *KINDS["loss"].beside)
_OF_ANY_FAMILY = ("config", "overrides", "class_map", "partial", "checkpoint")
_DEFAULTS = ("smp", "detectors")  # the family of a block that names none
# What may be said of a teacher beside its config.
_BESIDE_CONFIG = ("overrides", "auxiliary", "auxiliary_fit", "class_map", "partial")


def overlay(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of both; blocks are merged key by key, elsewhere the value of ``above`` wins.

    An empty block (``{}``) takes out what the lower one has. What belongs to a choice is dropped with it: another
    ``arch`` drops the lower ``options``, another ``family`` all that describes the model, another ``loss``, connector,
    pixel weighting or schedule its options. A teacher's ``checkpoint`` and ``config``, ``teacher`` and ``teachers``,
    and a term's ``weight`` and ``share`` drop each other.
    """
    merged = _without_outdated(below, above)
    for key, value in above.items():
        lower: Any = merged.get(key)
        if not (isinstance(value, Mapping) and value and isinstance(lower, Mapping)):
            merged[key] = value
        elif key == "schedule" and not any(map(is_of_terms, (*lower, *value))):
            merged[key] = {**lower, **{term: _one_named(lower.get(term), block) for term, block in value.items()}}
        else:
            merged[key] = _one_named(lower, value) if key in (*_NAMING, "schedule") else overlay(lower, value)
    return merged


def _one_named(lower: Any, value: Any) -> Any:
    are_blocks = isinstance(lower, Mapping) and isinstance(value, Mapping)
    return overlay(lower, value) if are_blocks and value and not lower.keys().isdisjoint(value) else value


def _without_outdated(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    kept = dict(below)

    def is_other(key: str) -> bool:
        old, new = below.get(key), above.get(key)
        return isinstance(old, str) and isinstance(new, str) and old.lower() != new.lower()

    def only(*keys: str) -> None:
        for key in kept.keys() - set(keys):
            del kept[key]

    family, old = (block.get("family") or ("python" if "build" in block else None) for block in (above, below))
    if family and family != (old or (family if family in _DEFAULTS else None)):
        only(*_OF_ANY_FAMILY)
    if is_other("arch"):
        kept.pop("options", None)
    if is_other("loss"):
        only(*_OF_TERMS)
    if above.get("checkpoint") is not None and "config" not in above:
        kept.pop("config", None)
        kept.pop("overrides", None)
    if above.get("config") is not None and "checkpoint" not in above:
        only(*_BESIDE_CONFIG)
    for pair in (("teacher", "teachers"), ("weight", "share")):
        for one, other in (pair, pair[::-1]):
            if above.get(one) is not None and other not in above:
                kept.pop(other, None)
    return kept


def source(keys: Sequence[str], layers: Sequence[Layer]) -> Layer:
    """Return the last layer with the key, else the last with the longest part of its path, else the last file."""
    for length in range(len(keys), 0, -1):
        for layer in reversed(layers):
            node: Any = layer.keys
            for key in keys[:length]:
                node = node.get(key, _ABSENT) if isinstance(node, dict) else _ABSENT
            if node is not _ABSENT:
                return layer
    return next(layer for layer in reversed(layers) if layer.name not in ("the command line", "the keywords"))


def where(keys: Sequence[str], layers: Sequence[Layer]) -> str:
    """Return how a message about a key begins: the layer that sets it, and the key."""
    return f"{source(keys, layers).name}: {'.'.join(keys)}"


def _check_keys(name: str, node: Any, path: str = "") -> None:
    for key, value in node.items() if isinstance(node, dict) else ():
        if not isinstance(key, str):
            raise SegkdError(f"{name}: {path}{str(key).lower()}: a key is text; this one needs quotes to be that")
        if not key.isprintable():
            raise SegkdError(f"{name}: {path}{shortened(key)}: a key is text of one line")
        _check_keys(name, value, f"{path}{key}.")


def leaves(node: Any, within: Any = dict | list, path: str = "") -> dict[str, Any]:
    """Return the values of nested mappings and, unless ``within`` is dict alone, of lists by their dotted keys."""
    if not isinstance(node, within):
        return {path: node}
    found: dict[str, Any] = {}
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        found |= leaves(value, within, f"{path}.{key}" if path else str(key))
    return found


def _check_references(name: str, merged: dict[str, Any]) -> None:
    """Raise where a value stands for too many others: references that double thirty times would never end."""
    values, weights = leaves(merged), dict[str, int]()

    def weigh(path: str, way: tuple[str, ...]) -> int:
        if path in way:
            raise SegkdError(f"{name}: {path}: refers to itself")
        if path not in weights:
            below = [leaf for leaf in values if leaf == path or leaf.startswith(f"{path}.")]
            weights[path] = 1 + sum(of_leaf(leaf, (*way, path)) for leaf in below)
        if weights[path] > MAX_REFERENCES:
            raise SegkdError(f"{name}: {path}: stands for more than {MAX_REFERENCES} values, by what it refers to")
        return weights[path]

    def of_leaf(leaf: str, way: tuple[str, ...]) -> int:
        targets = _REFERENCE.findall(values[leaf]) if isinstance(values[leaf], str) else []
        parents = leaf.split(".")
        return 1 + sum(weigh(".".join([*parents[: -len(dots)], key]) if dots else key, way) for dots, key in targets)

    for leaf in values:
        of_leaf(leaf, (leaf,))
