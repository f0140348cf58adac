"""The reference of every key of a config and every option of a method, read from the schema and the docstrings.

python -m segkd.training.reference > docs/configuration.md
"""

import re
from collections.abc import Iterator
from typing import Any

from pydantic import TypeAdapter

from segkd.registry import KINDS, Thing, things
from segkd.training.docstrings import arguments
from segkd.training.options import about, as_yaml, hints
from segkd.training.tasks import config_type

INTRODUCTION = """\
<!-- Written by `python -m segkd.training.reference > docs/configuration.md`: change the schema, not this file. -->

# Configuration

A config is a YAML file. `segkd train CONFIG` takes its path, or the name of a shipped one (`segkd configs` lists them).

```yaml
base: _base_/camvid_distilled.yaml
name: my_run
seed: 1
distill:
  terms:
    kd: {loss: pixel_kd, temperature: 2.0, weight: 0.5}
trainer: {max_steps: 300, threads: 2}
```

- `base` is a file or a list of files, relative to this one, or the name of a shipped config (`base: camvid_icsd`).
  Later ones win, this file last. The run goes to `runs/my_run`.
- Blocks are merged key by key; a list replaces a list. `null` takes out what a base names: a term (`kd: null`), the
  teacher (`teacher: null`), all that is distilled (`distill: null`). `{}` empties a block: `student: {options: {}}`.
  What belongs to a choice goes with it: another `arch` leaves the base's `options` out, another `loss` its loss's.
- A data set that is a file (`dataset: my_set.yaml`) is looked for beside the config that names it, then in the working
  directory. Other paths are of the working directory.
- On the command line a change is `key.path=value`, the value written as in YAML: `optimizer.lr=0.01`,
  `data.crop=[256,512]`, `"distill.schedule={alw: {rise: [task], fall: [kd]}}"`.
- `${...}` refers to another key, `${oc.env:NAME,default}` to the environment (OmegaConf's interpolation).
- A key that does not exist, or a value that does not fit, is an error of one line that names the file, the key and the
  nearest valid one.
- `stages: [{steps: 2000, task: 0, distill: {...}}, {steps: 4000}]` trains one stage after the other: first represent,
  then learn the task. A stage without `distill` has the config's, and `trainer.max_steps` is their sum. Schedules, ALW,
  RDD's switch and the learning rate's course run anew in each stage, the optimiser's state goes on, and each stage ends
  with a validation.
- A run directory keeps the whole config, every default written out, as `config.yaml`.
- `segkd train --resume runs/my_run trainer.max_steps=600` goes further, also with a finished run, without stages.
  It takes besides what changes nothing that is learnt (`trainer.accelerator`, `devices`, `threads`, `log_every`,
  `checkpoint_every`; `validation.every`, `batch_size`, `pictures`; `data.root`, `workers`, `max_pixels`); any other
  key is refused. With another number of steps the learning rate, the schedules of the terms and ALW go on as at
  that step of a run of the new length: a rate that had decayed rises again, so the result is not that of a run
  which was so long from its start. With another number of devices a step sees another number of images:
  `batch_size` is of each.

Below, **required** keys have no default. The tables of a block hold the keys of both tasks first, then those that only
segmentation or only detection has, or has otherwise.
"""
METHODS = """\
## Methods

The options of losses, schedules and pixel weightings are in [methods.md](methods.md), with what they do and when to use
which; `segkd methods` prints them too. In place of a name `package.module:Name` is one of your own, see
[custom-models.md](custom-models.md#a-loss-of-your-own).
"""

Schema = dict[str, Any]
"""JSON schema, as pydantic writes it."""
Row = tuple[str, str, str, str]
"""Key, type, default and meaning."""

ROOT = "config"
SECTIONED = ("loss", "weighting", "schedule")
"""The kinds whose options are in their sections on the page of methods."""
TASKS = list(things("task"))[::-1]
NOUNS = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false", "null": "null"}


def configuration_reference() -> str:
    """Return the page: each block's keys, then each method's options, with type, default and meaning."""
    sections: dict[str, dict[str, Schema]] = {}
    for task in TASKS:
        schema = config_type({"task": task}).model_json_schema()
        for path, block in _blocks(ROOT, schema, schema["$defs"]):
            sections.setdefault(path, {}).setdefault(task, block)
    paths: dict[str, str] = {}  # the first place that has a block, where it is described
    for path, of_task in sections.items():
        for block in of_task.values():
            paths.setdefault(block["title"], path)

    lines = [INTRODUCTION]
    for path in dict.fromkeys(paths.values()):
        lines += _section(path, sections[path], paths)
    lines.append(METHODS)
    for kind, of_kind in KINDS.items():
        if of_kind.given and things(kind) and kind not in SECTIONED:
            lines += [f"### {of_kind.plural}: {of_kind.key}", ""]
            for thing in things(kind).values():
                said = {label: text for label, text in about(thing).items() if label != "options"}
                text = "; ".join(f"{label} {text}" for label, text in said.items())
                text = re.sub(r"arXiv (\S+)", r"[\g<0>](https://arxiv.org/abs/\1)", text.replace("*", r"\*"))
                lines += [f"#### {thing.name}", "", f"{thing.title}{'; ' * bool(text)}{text}.", ""]
                lines += table(options_of(thing))
    return "\n".join(lines).rstrip() + "\n"


def _section(path: str, of_task: dict[str, Schema], paths: dict[str, str]) -> list[str]:
    """Return one block: the keys that tasks have in common, then each task's own."""
    rows = {task: _rows(block, paths) for task, block in of_task.items()}
    first, *others = rows.values()
    shared = [row for row in first if all(row in other for other in others)] if len(rows) == len(TASKS) else []
    texts = {task: block["description"].replace("``", "`") for task, block in of_task.items()}
    common = next(iter(texts.values())) if len(set(texts.values())) == 1 else ""
    lines = [f"## {path}", "", *([common, ""] if common else []), *table(shared)]
    for task in rows:
        own = [row for row in rows[task] if row not in shared]
        lines += [f"In {task}:{'' if common else ' ' + texts[task]}", "", *table(own)] if own else []
    return lines


def _blocks(path: str, block: Schema, defined: dict[str, Schema]) -> Iterator[tuple[str, Schema]]:
    """Yield a block and the blocks in it, each with its dotted path in a config."""
    yield path, block
    for key, schema in block["properties"].items():
        for inner, name in _references(key if path == ROOT else f"{path}.{key}", schema):
            yield from _blocks(inner, defined[name], defined)


def _references(path: str, schema: Schema) -> Iterator[tuple[str, str]]:
    """Yield the blocks that a key's value may be, or may hold under names that the user chooses."""
    if "$ref" in schema:
        yield path, schema["$ref"].rpartition("/")[2]
    for choice in (*schema.get("anyOf", ()), *([schema["items"]] if "items" in schema else [])):
        yield from _references(path, choice)
    if isinstance(schema.get("additionalProperties"), dict):
        yield from _references(f"{path}.NAME", schema["additionalProperties"])


def _rows(block: Schema, paths: dict[str, str]) -> list[Row]:
    """Return a block's keys."""
    rows = []
    for key, schema in block["properties"].items():
        block_path = next((paths[name] for _, name in _references("", schema)), "")
        # JSON schema leaves out defaults that are made anew each time: here they are empty.
        default = schema.get("default", [] if schema.get("type") == "array" else {})
        shown = "see there" if default and isinstance(default, dict) else f"`{as_yaml(default)}`"
        meaning = [schema["description"]] if "description" in schema else []
        # A heading is called so in a link, on GitHub and elsewhere.
        meaning += [f"see [{block_path}](#{block_path.lower().replace('.', '')})"] if block_path else []
        is_required = key in block.get("required", [])
        rows.append((f"`{key}`", _type(schema), "**required**" if is_required else shown, "; ".join(meaning)))
    return rows


def options_of(thing: Thing) -> list[Row]:
    """Return the options of a method, explained by its docstring."""
    types, meanings = hints(thing.header), arguments(thing.load())
    rows = []
    for key, option in thing.options().items():
        default = "**required**" if option.default is option.empty else f"`{as_yaml(option.default)}`"
        rows.append((f"`{key}`", _type(TypeAdapter(types[key]).json_schema()), default, meanings[key]))
    return rows


def _type(schema: Schema) -> str:
    """Return a type in plain words."""
    if "anyOf" in schema:
        choices = list(map(_type, schema["anyOf"]))
        return (", or " if any(" or " in choice for choice in choices) else " or ").join(choices)
    if "$ref" in schema:
        return "block"
    if "const" in schema or "enum" in schema:
        return ", ".join(f"`{as_yaml(value)}`" for value in schema.get("enum", [schema.get("const")]))
    if schema["type"] == "object":
        return "blocks by name" if list(_references("", schema)) else "block"
    if schema["type"] == "array":
        items = schema["prefixItems"][0] if "prefixItems" in schema else schema["items"]
        count = f"{schema['minItems']} " if "minItems" in schema else ""
        return f"list of {count}" + re.sub("(text|number|null|block)", r"\1s", _type(items))
    noun = NOUNS[schema["type"]]
    if schema.get("minimum") == 0 and schema.get("maximum", 1e9) <= 1:
        return f"{noun} from 0 to {schema['maximum']:g}"
    if "minimum" in schema:
        return f"{noun} ≥ {schema['minimum']:g}"
    return f"{noun} > {schema['exclusiveMinimum']:g}" if "exclusiveMinimum" in schema else noun


def table(rows: list[Row]) -> list[str]:
    """Return a table in Markdown and an empty line; nothing for no rows."""
    head: list[Row] = [("key", "type", "default", "meaning"), ("---",) * 4]
    return [*(f"| {' | '.join(row)} |" for row in head + rows), ""] if rows else []


if __name__ == "__main__":
    print(configuration_reference(), end="")
