"""What a class of this package says of itself, read from its source: importing it would load torch, which takes long.

That is its class attributes, where they are literals, and the parameters that it is made with.
"""

import __future__

import ast
import contextlib
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parent
Declaration = tuple[str, Mapping[str, Any], Callable[..., Any] | None]
"""``module:Name``, its class attributes with those of its bases, and a function with the same parameters."""


def declared(path: Path, headers: bool = True) -> dict[str, Declaration]:
    """Return what a file's classes declare, by their ``name``, with headers if wanted.

    Those that set ``name`` themselves, and those that set ``title`` alone, which go by the file's name: of a data set
    ``name`` is a field.
    """
    found: dict[str, Declaration] = {}
    module = ".".join((PACKAGE.name, *path.relative_to(PACKAGE).with_suffix("").parts))
    for node in _tree(path).body:
        said = _said(node) if isinstance(node, ast.ClassDef) else {}
        name = said.get("name") or (path.stem if said.get("title") else None)
        if isinstance(node, ast.ClassDef) and isinstance(name, str):
            chain = _with_bases(path, node.name)
            says = {key: value for _, base in chain for key, value in _said(base).items()}
            found[name] = (f"{module}:{node.name}", says, _header(chain) if headers else None)
    return found


@functools.cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _is_class_var(node: ast.AnnAssign) -> bool:
    return "ClassVar" in ast.unparse(node.annotation)


def _said(node: ast.ClassDef) -> dict[str, Any]:
    """Return the class attributes that are literals."""
    found: dict[str, Any] = {}
    for inner in node.body:
        if isinstance(inner, ast.Assign):
            target, value = inner.targets[0], inner.value
        elif isinstance(inner, ast.AnnAssign) and inner.value is not None and _is_class_var(inner):
            target, value = inner.target, inner.value
        else:
            continue
        with contextlib.suppress(ValueError):  # no literal
            said = ast.literal_eval(value)
            if isinstance(target, ast.Tuple):
                found |= zip(map(ast.unparse, target.elts), said, strict=True)
            else:
                found[ast.unparse(target)] = said
    return found


def _with_bases(path: Path, name: str) -> list[tuple[Path, ast.ClassDef]]:
    """Return a class of a file and its bases in this package, the most distant first."""
    for node in _tree(path).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
            # As Python looks them up: of what two bases say the first one's counts, and each base stands once.
            above = [found for base in reversed(bases) for found in _with_bases(path, base)]
            return [*dict.fromkeys(above), (path, node)]
    for line in _tree(path).body:
        if isinstance(line, ast.ImportFrom) and name in {alias.name for alias in line.names}:
            file = PACKAGE.parent.joinpath(*(line.module or "").split(".")).with_suffix(".py")
            return _with_bases(file, name) if (line.module or "").startswith("segkd.") and file.is_file() else []
    return []


def _header(chain: list[tuple[Path, ast.ClassDef]]) -> Callable[..., Any]:
    """Return a function with the parameters that a class is made with: its ``__init__``'s, else its fields.

    Types may use builtins, what the file imports from ``typing`` and ``collections.abc``, and its own
    ``Name = Literal[...]``; defaults are literals.
    """
    parameters: dict[str, str] = {}
    for _, node in chain:
        for inner in node.body:
            if isinstance(inner, ast.AnnAssign) and not _is_class_var(inner):
                parameters[ast.unparse(inner.target)] = ast.unparse(inner)
            elif isinstance(inner, ast.FunctionDef) and inner.name == "__init__":
                parameters = {"self": ast.unparse(inner.args).removeprefix("self").removeprefix(", ")}
    types = [line for path in dict.fromkeys(path for path, _ in chain) for line in _tree(path).body if _is_type(line)]
    header = f"def header({', '.join(filter(None, parameters.values()))}) -> None: ..."
    text = "\n".join([*map(ast.unparse, types), header])
    found: dict[str, Any] = {}
    exec(compile(text, str(chain[-1][0]), "exec", flags=__future__.annotations.compiler_flag), found)
    built: Callable[..., Any] = found["header"]
    return built


def _is_type(line: ast.stmt) -> bool:
    if isinstance(line, ast.ImportFrom):
        return line.module in ("typing", "collections.abc")
    value = line.value if isinstance(line, ast.Assign) else None
    return isinstance(value, ast.Subscript) and isinstance(value.value, ast.Name) and value.value.id == "Literal"
