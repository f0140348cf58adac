"""The options of what implements a method, read from its source: importing it would load torch, which takes seconds."""

import ast
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

_PACKAGE = Path(__file__).resolve().parents[1]

Function = ast.FunctionDef | ast.AsyncFunctionDef


@functools.cache
def header(place: str) -> Callable[..., None]:
    """Return a function with the parameters of a class or function of this package, types and defaults, and no body.

    Args:
        place: ``module:Name``, such as ``segkd.losses.cwd:CWD``. Types and defaults of the parameters may use builtins,
            what the module imports from ``typing`` and ``collections.abc``, and its own ``Name = Literal[...]``.
    """
    module, _, name = place.partition(":")
    path = _PACKAGE.joinpath(*module.split(".")[1:]).with_suffix(".py")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kept = [node for node in tree.body if _is_of_types(node)]
    function = _function(tree, name)
    function.name, function.body, function.decorator_list = "header", [ast.Pass()], []
    found: dict[str, Any] = {}
    module_of = ast.fix_missing_locations(ast.Module([*kept, function], []))
    exec(compile(module_of, str(path), "exec"), found)
    built: Callable[..., None] = found["header"]
    return built


def _is_of_types(node: ast.stmt) -> bool:
    if isinstance(node, ast.ImportFrom):
        return node.module in ("typing", "collections.abc")
    if isinstance(node, ast.Assign) and isinstance(node.value, ast.Subscript):
        return isinstance(node.value.value, ast.Name) and node.value.value.id == "Literal"
    return False


def _function(tree: ast.Module, name: str) -> Function:
    """Return a function of a module, or a class's ``__init__`` without ``self``: its own, or its base's."""
    node = next(n for n in tree.body if isinstance(n, Function | ast.ClassDef) and n.name == name)
    if isinstance(node, Function):
        return node
    for inner in node.body:
        if isinstance(inner, Function) and inner.name == "__init__":
            del inner.args.args[0]
            return inner
    for base in node.bases:
        if isinstance(base, ast.Name):
            return _function(tree, base.id)
    return next(n for n in ast.parse("def nothing() -> None: ...").body if isinstance(n, Function))
