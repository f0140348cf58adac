"""Loading a config: its bases, the merge, the overrides, and errors that name the file and the key."""

import itertools
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from segkd import registry
from segkd.common.paths import check_regular, plain_path, shortened
from segkd.common.plain import complaint, lower
from segkd.data.description import is_spec_path
from segkd.errors import SegkdError, nearest
from segkd.resources import resource_dir
from segkd.training.distill import TermBlock
from segkd.training.families import config_type, names_code
from segkd.training.layers import Layer, command_line, keywords, layers_of, merge, plain, read_layers, source
from segkd.training.schema import Config


def shipped_configs() -> list[Path]:
    """Return the configs that come with the package, by name."""
    return sorted(resource_dir("configs").glob("*.yaml"))


def describe(path: Path) -> str:
    """Return the first sentence of a config's header comment."""
    lines = itertools.takewhile(lambda line: line.startswith("#"), path.read_text(encoding="utf-8").splitlines())
    sentence, *_ = re.split(r"(?<=\.)\s", " ".join(line.lstrip("# ") for line in lines))
    return sentence


def find_config(name: str, beside: Path | None = None) -> Path:
    """Return the path of a config: a file, one beside another config, or a shipped one by name.

    The suffix ``.yaml`` may be left out.

    Raises:
        SegkdError: there is none; the message has the nearest name of those beside it and those shipped.
    """
    try:
        plain_path(name)
    except ValueError as error:
        raise SegkdError(f"there is no config {shortened(name)!r}: {error}") from None
    folders = [Path()] if beside is None else [beside, Path()]
    candidates = [folder / spelled for folder in folders for spelled in (name, f"{name}.yaml")]
    shipped = resource_dir("configs") / Path(name).name
    if Path(name).name == name or Path(name).parent == Path("configs"):
        candidates += [shipped, shipped.with_name(f"{shipped.name}.yaml")]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    for candidate in candidates:
        if candidate.exists() and not candidate.is_dir():
            check_regular(candidate, "the config")
    own = [path.stem for folder in folders for path in folder.glob("*.yaml")]
    known = dict.fromkeys([*own, *(path.stem for path in shipped_configs())])
    raise SegkdError(f"there is no config {name!r}: {nearest(Path(name).stem, known)}")


def load_config(
    name: str | Mapping[str, Any],
    overrides: Sequence[str] | Mapping[str, Any] = (),
    changes: Mapping[str, Any] | None = None,
    beside: Path | None = None,
    build: bool = True,
) -> Config:
    """Read, merge and check a config.

    Args:
        name: see `find_config`; or what such a file would hold.
        overrides: ``key.path=value`` texts, values as in YAML; or values by key, blocks nested or keys dotted.
        changes: further changes, nested as in the file; the overrides win.
        beside: the folder of the config that names this one.
        build: whether the methods are made once, to try their options' ranges and what is the user's own: that loads
            torch, and imports what the config names.

    Raises:
        SegkdError: names the file and the key, and the nearest valid key.
    """
    if isinstance(name, Mapping):
        path = Path("the config")
        layers = layers_of(path, plain(name))
    else:
        path = find_config(name, beside)
        layers = read_layers(path)
    if changes:
        layers.append(Layer("teacher.overrides", dict(changes), Path()))
    layers += keywords(overrides) if isinstance(overrides, Mapping) else command_line(overrides)
    merged = merge(layers)
    _place_paths(merged, path, layers)
    folders = _python_path(merged, layers)
    if code := names_code(merged):
        registry.look_in(*folders)
    schema = config_type(merged, lambda keys: source(keys, layers).name)
    try:
        config: Config = schema.model_validate(merged)
    except ValidationError as error:
        raise SegkdError(_explain(error, merged, layers, schema)) from None
    if code or config.names_code():
        registry.look_in(*folders)
        config = config.model_copy(update={"python_path": folders})
    _check_places(config, layers, own=False)
    if build:
        for keys, make in config.parts():
            try:
                make()
            except SegkdError as error:
                raise SegkdError(f"{source(keys, layers).name}: {'.'.join(keys)}: {lower(str(error))}") from None
        _check_places(config, layers, own=True)
    return config


def _check_places(config: Config, layers: list[Layer], own: bool) -> None:
    """Raise where a method reads what the models of another task return."""
    for keys, problem in config.distill.misplaced(config.task, config.places, own) if config.places else ():
        raise SegkdError(f"{source(keys, layers).name}: {'.'.join(keys)}: {problem}")


def _python_path(merged: dict[str, Any], layers: list[Layer]) -> list[str]:
    """Return the folders where modules are looked for that a config names."""
    given = merged.get("python_path")
    is_given = isinstance(given, list) and given and all(isinstance(path, str) for path in given)
    found = given if is_given else [str(layer.folder) for layer in reversed(layers) if layer.folder != Path()]
    assert found is not None
    return list(dict.fromkeys(str(Path(folder).expanduser().resolve()) for folder in found))


def dump_config(config: Config) -> str:
    """Return the whole config as YAML, every default included: what a run directory keeps."""
    return yaml.safe_dump(whole(config), sort_keys=False)


def whole(config: Config) -> dict[str, Any]:
    """Return all that a config says as plain values; paths of data sets hold whatever the working directory is."""
    content = config.model_dump(mode="json")
    teachers = [content["teacher"], *(content["teachers"] or {}).values()]
    for node in (content, *((block or {}).get("overrides", {}) for block in teachers)):
        name = (node.get("data") or {}).get("dataset")
        if isinstance(name, str) and is_spec_path(name):
            node["data"]["dataset"] = os.path.abspath(os.path.expanduser(name))
    return content


def same_dataset(one: str, other: str) -> bool:
    """Whether what two configs name as their data set is the same: of a file, also where other machines have it."""
    if not (is_spec_path(one) and is_spec_path(other)):
        return one == other
    first, second = (Path(name).expanduser() for name in (one, other))
    if first.is_file() and second.is_file():
        return first.samefile(second) or (first.name, first.read_bytes()) == (second.name, second.read_bytes())
    return first.name == second.name


def _place_paths(merged: dict[str, Any], path: Path, layers: list[Layer]) -> None:
    """Take the paths of data set, modules and the teachers' configs from where they are written, as ``base`` is."""
    if isinstance(modules := merged.get("python_path"), list):
        folder = source(["python_path"], layers).folder
        merged["python_path"] = [str(folder / Path(p).expanduser()) if isinstance(p, str) else p for p in modules]
    several = merged.get("teachers")
    blocks = [["teacher"], *(["teachers", name] for name in (several if isinstance(several, dict) else ()))]
    for keys in (["data", "dataset"], *([*block, "overrides", "data", "dataset"] for block in blocks)):
        node: Any = merged
        for key in keys[:-1]:
            node = node.get(key) if isinstance(node, dict) else None
        name = node.get(keys[-1]) if isinstance(node, dict) else None
        if isinstance(name, str) and is_spec_path(name) and len(name) < 4096 and name.isprintable():
            folder = source(keys, layers).folder
            if folder != Path() and (folder / Path(name).expanduser()).exists():
                node[keys[-1]] = str(folder / Path(name).expanduser())
    for keys in blocks:
        teacher = merged.get("teacher") if len(keys) == 1 else several[keys[1]]  # type: ignore[index]
        if not isinstance(teacher, dict) or not isinstance(teacher.get("config"), str):
            continue
        try:
            found = find_config(teacher["config"], path.parent)
        except SegkdError as error:
            # An absolute one is a run's, perhaps of another machine: `teacher_configs` asks for it where it is needed.
            if not Path(teacher["config"]).is_absolute():
                where = source([*keys, "config"], layers).name
                raise SegkdError(f"{where}: {'.'.join(keys)}.config: {error}") from None
        else:
            # A shipped config keeps its name, so that a run's config.yaml holds on another machine.
            is_shipped = found.resolve().parent == resource_dir("configs").resolve()
            teacher["config"] = found.stem if is_shipped else str(found.resolve())


# What pydantic puts into the path of an error where a value may be one of several types: no keys.
_TYPES = re.compile(r"(int|float|str|bool|none|list|tuple|dict|literal|function|union|constrained|nullable)\b.*")


def _explain(error: ValidationError, merged: dict[str, Any], layers: list[Layer], schema: type[Config]) -> str:
    """Return one line for the first error: where the key stands, what is wrong, what would be right."""
    problems = error.errors()
    # A key that lacks is as a rule one that is misspelt.
    first = next((problem for problem in problems if problem["type"] == "extra_forbidden"), problems[0])
    keys: list[str | int] = []
    node: Any = merged
    for part in first["loc"]:
        is_key = isinstance(node, dict) and not (_TYPES.fullmatch(str(part)) and part not in node)
        if is_key or (isinstance(node, list) and isinstance(part, int)):
            keys.append(part)
            inner: dict[Any, Any] = node if isinstance(node, dict) else dict(enumerate(node))
            node = inner.get(part)
    if first["type"] == "missing" and keys and isinstance(keys[-1], int):
        keys = keys[:-1]  # an item of a list: the list is too short
        first["input"] = _at(merged, keys)
    names = [str(key) for key in keys]
    where, dotted = source(names, layers).name, ".".join(names)
    field, block = _field(schema, names)
    if first["type"] == "extra_forbidden":
        return f"{where}: there is no key {shortened(dotted)!r}, {_nearest_key(schema, names)}"
    if first["type"] == "missing" and not isinstance(first["input"], list):
        return f"{where}: the key {dotted!r} is missing"
    text = complaint(first, field, block)
    return f"{where}: {dotted}: {text}" if dotted else f"{where}: {text}"


def _at(merged: dict[str, Any], keys: Sequence[Any]) -> Any:
    node: Any = merged
    for key in keys:
        node = node[key]
    return node


def _nearest_key(schema: type[Config], names: list[str]) -> str:
    """Return a hint for a key that does not exist: a key of another block if it has this name, else of this one."""
    elsewhere = [path for path in _all_keys(schema) if path.rpartition(".")[2] == names[-1]]
    hint = min(elsewhere, key=lambda path: path.count("."), default=None)
    return f"did you mean {hint!r}?" if hint else nearest(names[-1], _fields(schema, names[:-1]))


def _all_keys(model: Any, path: str = "") -> list[str]:
    found: list[str] = []
    for name, field in model.model_fields.items():
        dotted = f"{path}.{name}" if path else name
        block = None if name == "terms" else _block(field.annotation)
        found += [dotted] if block is None else _all_keys(block, dotted)
    return found


def _field(schema: type[Config], names: list[str]) -> tuple[FieldInfo | None, type[BaseModel] | None]:
    """Return the field that a path of keys leads to, and the block that it holds, if any."""
    field = _fields(schema, names[:-1]).get(names[-1]) if names else None
    return field, None if field is None else _block(field.annotation)


def _fields(schema: type[Config], names: list[str]) -> dict[str, FieldInfo]:
    model: Any = schema
    for name in names:
        if name.isdecimal():  # of a list of blocks
            continue
        fields = getattr(model, "model_fields", {})
        # A name that is no field is a term's: the terms are the only open mapping of blocks.
        model = _block(fields[name].annotation) if name in fields else TermBlock
    return dict(getattr(model, "model_fields", {}))


def _block(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    blocks = (_block(argument) for argument in getattr(annotation, "__args__", ()))
    return next((block for block in blocks if block is not None), None)
