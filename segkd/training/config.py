"""Loading a config: its bases, the merge, the overrides, and errors that name the file and the key."""

import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError

from segkd.errors import SegkdError, nearest
from segkd.resources import resource_dir
from segkd.training.detection.schema import Config as DetectionConfig
from segkd.training.schema import WITHOUT_TORCH, Config, TermBlock
from segkd.training.segmentation.schema import Config as SegmentationConfig

TASKS: dict[str, type[Config]] = {"segmentation": SegmentationConfig, "detection": DetectionConfig}

Layer = tuple[str, dict[str, Any]]
"""Where keys come from (a file's path, or "the command line") and the keys."""

_ABSENT = object()


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

    Raises:
        SegkdError: there is none; the message has the nearest shipped name.
    """
    candidates = [Path(name)] if beside is None else [beside / name, beside / f"{name}.yaml", Path(name)]
    shipped = resource_dir("configs") / Path(name).name
    if Path(name).name == name or Path(name).parent == Path("configs"):
        candidates += [shipped, shipped.with_name(f"{shipped.name}.yaml")]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise SegkdError(f"there is no config {name!r}: {nearest(Path(name).stem, [p.stem for p in shipped_configs()])}")


def load_config(
    name: str,
    overrides: Sequence[str] = (),
    changes: Mapping[str, Any] | None = None,
    beside: Path | None = None,
    build: bool = True,
) -> Config:
    """Read, merge and check a config.

    Args:
        name: see `find_config`.
        overrides: ``key.path=value`` texts, values as in YAML.
        changes: further changes, nested as in the file; the overrides win.
        beside: the folder of the config that names this one.
        build: whether the methods are built to try their options' ranges, which loads torch.

    Raises:
        SegkdError: names the file and the key, and the nearest valid key.
    """
    path = find_config(name, beside)
    layers = _layers(path, ())
    if changes:
        layers.append(("teacher.overrides", dict(changes)))
    layers.append(("the command line", _parse_overrides(overrides)))
    merged = _merge(path, layers)
    teacher = merged.get("teacher")
    if isinstance(teacher, dict) and isinstance(teacher.get("config"), str):
        try:
            found = find_config(teacher["config"], path.parent)
        except SegkdError as error:
            # An absolute one is a run's, perhaps of another machine: `teacher_config` asks for it where it is needed.
            if not Path(teacher["config"]).is_absolute():
                source = _source(["teacher", "config"], layers, str(path))
                raise SegkdError(f"{source}: teacher.config: {error}") from None
        else:
            # A shipped config keeps its name, so that a run's config.yaml holds on another machine.
            is_shipped = found.resolve().parent == resource_dir("configs").resolve()
            teacher["config"] = found.stem if is_shipped else str(found.resolve())
    task = merged.get("task", "segmentation")
    if task not in TASKS:
        raise SegkdError(
            f"{_source(['task'], layers, str(path))}: task: there is no task {task!r}, {nearest(task, TASKS)}"
        )
    try:
        # First without torch, which takes seconds to load: most of what is wrong is told before.
        config = TASKS[task].model_validate(merged, context=WITHOUT_TORCH)
        return TASKS[task].model_validate(merged) if build else config
    except ValidationError as error:
        raise SegkdError(_explain(error, path, layers, TASKS[task])) from None


def dump_config(config: Config) -> str:
    """Return the whole config as YAML, every default included: what a run directory keeps."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def _layers(path: Path, seen: tuple[Path, ...]) -> list[Layer]:
    """Return a file's bases, in order, then the file itself."""
    if path.resolve() in seen:
        raise SegkdError(f"{path}: its bases go round in a circle")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SegkdError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise SegkdError(f"{path} must hold keys and values, got {type(content).__name__}")
    bases = content.pop("base", None) or []
    layers: list[Layer] = []
    for base in [bases] if isinstance(bases, str) else bases:
        beside = path.parent / str(base)
        if not beside.is_file():
            names = [str(p.relative_to(path.parent)) for p in path.parent.glob("**/*.yaml")]
            raise SegkdError(f"{path}: base {str(base)!r} does not exist: {nearest(base, names)}")
        layers += _layers(beside, (*seen, path.resolve()))
    return [*layers, (str(path), content)]


def _parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    for text in overrides:
        if "=" not in text or not text.split("=")[0]:
            raise SegkdError(f"an override is key.path=value, got {text!r}")
    try:
        parsed = OmegaConf.to_container(OmegaConf.from_dotlist(list(overrides)))
    except (OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
        raise SegkdError(f"the command line: {str(error).splitlines()[0]}") from None
    assert isinstance(parsed, dict)
    return {str(key): value for key, value in parsed.items()}


def _merge(path: Path, layers: list[Layer]) -> dict[str, Any]:
    try:
        merged = OmegaConf.merge(*[OmegaConf.create(keys) for _, keys in layers])
        assert isinstance(merged, DictConfig)
        container = OmegaConf.to_container(merged, resolve=True)
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        raise SegkdError(f"{path}: {str(error).splitlines()[0]}") from None
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def _explain(error: ValidationError, path: Path, layers: list[Layer], schema: type[Config]) -> str:
    """Return one line for the first error: where the key stands, what is wrong, what would be right."""
    first = error.errors()[0]
    keys = [str(key) for key in first["loc"]]
    # Where a block may be one of several types, pydantic puts the type's name into the path: it is no key.
    keys = [key for key in keys if not key.startswith(("function-", "literal", "union", "constrained-"))]
    source = _source(keys, layers, default=str(path))
    dotted = ".".join(keys)
    if first["type"] == "extra_forbidden":
        return f"{source}: there is no key {dotted!r}, {nearest(keys[-1], _valid_keys(schema, keys[:-1]))}"
    if first["type"] == "missing":
        return f"{source}: the key {dotted!r} is missing"
    message = first["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    shown = f", got {first['input']!r}" if isinstance(first["input"], (str, int, float, bool, list, type(None))) else ""
    return f"{source}: {dotted}: {message}{shown}" if dotted else f"{source}: {message}"


def _source(keys: list[str], layers: list[Layer], default: str) -> str:
    """Return the last layer that has the key, else the last that has the longest part of its path."""
    for length in range(len(keys), 0, -1):
        for name, content in reversed(layers):
            node: Any = content
            for key in keys[:length]:
                node = node.get(key, _ABSENT) if isinstance(node, dict) else _ABSENT
            if node is not _ABSENT:
                return name
    return default


def _valid_keys(schema: type[Config], keys: list[str]) -> list[str]:
    model: Any = schema
    for key in keys:
        fields = getattr(model, "model_fields", {})
        # A name that is no field is a term's: the terms are the only open mapping of blocks.
        model = _block(fields[key].annotation) if key in fields else TermBlock
    return list(getattr(model, "model_fields", {}))


def _block(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    blocks = (_block(argument) for argument in getattr(annotation, "__args__", ()))
    return next((block for block in blocks if block is not None), None)
