"""Loading a config: its bases, the merge, the overrides, and errors that name the file and the key."""

import itertools
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from segkd import registry
from segkd.common.paths import check_regular, plain_path, shortened
from segkd.common.plain import block_of, complaint, lower
from segkd.common.student import no_run
from segkd.data.description import is_spec_path
from segkd.errors import SegkdError, nearest
from segkd.resources import resource_dir
from segkd.training.layers import Layer, changes_of, merge, plain, read_layers, source, where
from segkd.training.schema import Config
from segkd.training.tasks import config_type, models_in, names_code


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
    if Path(name).name == name or Path(name).parent == Path("configs"):
        shipped = resource_dir("configs") / Path(name).name
        candidates += [shipped, shipped.with_name(f"{shipped.name}.yaml")]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    for candidate in candidates:
        if candidate.exists() and not candidate.is_dir():
            check_regular(candidate, "the config")
    own = [path.stem for folder in folders for path in folder.glob("*.yaml")]
    known = dict.fromkeys([*own, *(path.stem for path in shipped_configs())])
    if (run := Path(name) / "config.yaml").is_file():
        raise SegkdError(
            f"{name!r} is a run, but a config is expected: name {run}, or go on with 'segkd train --resume {name}'"
        )
    raise SegkdError(f"there is no config {name!r}: {nearest(Path(name).stem, known)}")


def check_named(target: str) -> None:
    """Raise where there is no config of that name; where it looks like a run's path, the error says so."""
    try:
        find_config(target)
    except SegkdError:
        if Path(target).suffix in (".yaml", ".yml") or Path(target).name == target:
            raise
        raise no_run(target) from None


def load_config(
    name: str | Mapping[str, Any],
    overrides: Sequence[str] | Mapping[str, Any] = (),
    changes: Mapping[str, Any] | None = None,
    build: bool = True,
) -> Config:
    """Read, merge and check a config.

    Args:
        name: see `find_config`; or what such a file would hold.
        overrides: ``key.path=value`` texts, values as in YAML; or values by key, blocks nested or keys dotted.
        build: whether each method is built once, to check its options' ranges and the user's own code; that loads
            torch, and imports what the config names.

    Raises:
        SegkdError: names the file and the key, and the nearest valid key.
    """
    if isinstance(name, Mapping):
        path = Path("the config")
        layers = read_layers(path, plain(name))
    else:
        path = find_config(name)
        layers = read_layers(path)
    if changes:
        layers.append(Layer("teacher.overrides", dict(changes), Path()))
    layers += changes_of(overrides)
    merged = merge(layers)
    _place_paths(merged, path, layers)
    folders = _python_path(merged, layers)
    if code := names_code(merged):
        registry.look_in(*folders)
    schema = config_type(merged, lambda keys: where(keys, layers))
    try:
        config: Config = schema.model_validate(merged)
    except ValidationError as error:
        raise SegkdError(_explain(error, merged, layers, schema)) from None
    if code or config.names_code():
        registry.look_in(*folders)
        config = config.model_copy(update={"python_path": folders})
    for keys, make in config.parts() if build else ():
        try:
            make()
        except SegkdError as error:
            raise SegkdError(f"{where(keys, layers)}: {lower(str(error))}") from None
    for keys, problem in config.distill.misplaced(config.task, config.places, own=build) if config.places else ():
        raise SegkdError(f"{where(keys, layers)}: {problem}")
    return config


def _python_path(merged: dict[str, Any], layers: list[Layer]) -> list[str]:
    """Return the folders in which modules that a config names are looked for."""
    found = merged.get("python_path")
    if not (isinstance(found, list) and found and all(isinstance(path, str) for path in found)):
        found = [str(layer.folder) for layer in reversed(layers) if layer.folder != Path()]
    return list(dict.fromkeys(str(Path(folder).expanduser().resolve()) for folder in found))


def dump_config(config: Config) -> str:
    """Return the whole config as YAML, every default included: what a run directory keeps."""
    return yaml.safe_dump(whole(config), sort_keys=False)


def whole(config: Config) -> dict[str, Any]:
    """Return all that a config says as plain values, with absolute paths of data sets."""
    content = config.model_dump(mode="json")
    teachers = [content["teacher"], *(content["teachers"] or {}).values()]
    for node in (content, *((block or {}).get("overrides", {}) for block in teachers)):
        name = (node.get("data") or {}).get("dataset")
        if isinstance(name, str) and is_spec_path(name):
            node["data"]["dataset"] = os.path.abspath(os.path.expanduser(name))
    for stage, written in zip(config.stages or (), content["stages"] or (), strict=True):
        if stage.distill == config.distill:  # left out, so that a change of the config's is one of the stage
            del written["distill"]
    return content


def same_dataset(one: str, other: str) -> bool:
    """Whether two configs name the same data set; a description file may lie elsewhere, as on another machine."""
    if not (is_spec_path(one) and is_spec_path(other)):
        return one == other
    first, second = (Path(name).expanduser() for name in (one, other))
    if first.is_file() and second.is_file():
        return first.samefile(second) or (first.name, first.read_bytes()) == (second.name, second.read_bytes())
    return first.name == second.name


def _place_paths(merged: dict[str, Any], path: Path, layers: list[Layer]) -> None:
    """Resolve paths of data set, modules and teachers' configs relative to the file they stand in, like ``base``."""
    if isinstance(modules := merged.get("python_path"), list):
        folder = source(["python_path"], layers).folder
        merged["python_path"] = [str(folder / Path(p).expanduser()) if isinstance(p, str) else p for p in modules]
    teachers = {keys: block for keys, block in models_in(merged).items() if keys != ("student",)}
    nodes: dict[tuple[str, ...], Any] = {(): merged}
    nodes |= {(*keys, "overrides"): teacher.get("overrides") for keys, teacher in teachers.items()}
    for keys, node in nodes.items():
        data: Any = node.get("data") if isinstance(node, dict) else None
        name = data.get("dataset") if isinstance(data, dict) else None
        if isinstance(name, str) and is_spec_path(name) and len(name) < 4096 and name.isprintable():
            folder = source([*keys, "data", "dataset"], layers).folder
            if folder != Path() and (folder / Path(name).expanduser()).exists():
                data["dataset"] = str(folder / Path(name).expanduser())
    for keys, teacher in teachers.items():
        if not isinstance(teacher.get("config"), str):
            continue
        try:
            found = find_config(teacher["config"], path.parent)
        except SegkdError as error:
            # An absolute path is from a run, perhaps on another machine: `teacher_configs` raises where it is needed.
            if not Path(teacher["config"]).is_absolute():
                raise SegkdError(f"{where([*keys, 'config'], layers)}: {error}") from None
        else:
            # A shipped config keeps its name, so that a run's config.yaml holds on another machine.
            is_shipped = found.resolve().parent == resource_dir("configs").resolve()
            teacher["config"] = found.stem if is_shipped else str(found.resolve())


# What pydantic puts into the path of an error where a value may be one of several types: these are no keys.
_TYPES = re.compile(r"(int|float|str|bool|none|list|tuple|dict|literal|function|union|constrained|nullable)\b.*")


def _explain(error: ValidationError, merged: dict[str, Any], layers: list[Layer], schema: type[Config]) -> str:
    """Return one line for the first error: where the key stands, what is wrong, what would be right."""
    problems = error.errors()
    # A missing key is mostly one that is misspelt, so a key that does not exist is told first.
    first = next((problem for problem in problems if problem["type"] == "extra_forbidden"), problems[0])
    names: list[str] = []
    path: list[str] = []  # the same without the indices of lists, and with NAME in place of a term's name
    nodes: list[Any] = [merged]
    for part in first["loc"]:
        node = nodes[-1]
        is_key = isinstance(node, dict) and (part in node or not _TYPES.fullmatch(str(part)))
        if is_key:
            path.append("NAME" if names[-1:] == ["terms"] else str(part))
        if is_key or (isinstance(node, list) and isinstance(part, int)):
            names.append(str(part))
            nodes.append((node if isinstance(node, dict) else dict(enumerate(node))).get(part))
    if first["type"] == "missing" and names and isinstance(nodes[-2], list):
        names.pop()  # an item of a list: the list is too short
        first["input"] = nodes[-2]
    file, dotted = source(names, layers).name, ".".join(names)
    fields = _fields(schema)
    if first["type"] == "extra_forbidden":
        return f"{file}: there is no key {shortened(dotted)!r}, {_nearest_key(path, fields)}"
    if first["type"] == "missing" and not isinstance(first["input"], list):
        return f"{file}: the key {dotted!r} is missing"
    field = fields.get(tuple(path))
    text = complaint(first, field, None if field is None else block_of(field.annotation))
    return f"{file}: {dotted}: {text}" if dotted else f"{file}: {text}"


def _nearest_key(path: list[str], fields: dict[tuple[str, ...], FieldInfo]) -> str:
    """Return a hint for a key that does not exist: a key of another block if it has this name, else of this one."""
    values = [known for known, field in fields.items() if block_of(field.annotation) is None or known[-1] == "terms"]
    elsewhere = [".".join(known) for known in values if known[-1] == path[-1] and "NAME" not in known]
    if elsewhere:
        return f"did you mean {min(elsewhere, key=lambda dotted: dotted.count('.'))!r}?"
    return nearest(path[-1], [known[-1] for known in fields if [*known[:-1]] == path[:-1]])


def _fields(model: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], FieldInfo]:
    """Return the keys of a schema and of the blocks in it; those of a term stand under NAME."""
    found: dict[tuple[str, ...], FieldInfo] = {}
    for name, field in model.model_fields.items():
        found[*path, name] = field
        if (block := block_of(field.annotation)) is not None:
            found |= _fields(block, (*path, name, "NAME") if name == "terms" else (*path, name))
    return found
