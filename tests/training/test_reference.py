"""The page says what the schema says, and lies in docs/ as it is printed."""

import inspect
import re
import runpy
from pathlib import Path

import pytest
import yaml

from segkd.registry import KINDS, things
from segkd.training.distill import TermBlock
from segkd.training.reference import SECTIONED, TASKS, configuration_reference
from segkd.training.schema import Block
from segkd.training.tasks import config_type

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


@pytest.fixture(scope="module")
def sections() -> dict[str, list[list[str]]]:
    """The rows of each section's tables by its heading, the tables' heads left out."""
    found: dict[str, list[list[str]]] = {}
    for line in configuration_reference().splitlines():
        if heading := re.fullmatch(r"#{2,4} (.+)", line):
            found[heading[1]] = []
        elif line.startswith("| `"):
            found[list(found)[-1]].append(line.removeprefix("| ").removesuffix(" |").split(" | "))
    return found


def test_the_page_in_docs_is_what_the_command_prints(capsys: pytest.CaptureFixture[str]):
    with pytest.warns(RuntimeWarning, match="prior to execution"):  # it is imported above
        runpy.run_module("segkd.training.reference", run_name="__main__")
    assert capsys.readouterr().out == PAGE.read_text(), "python -m segkd.training.reference > docs/configuration.md"


def test_every_row_is_whole(sections: dict[str, list[list[str]]]):
    assert sum(map(len, sections.values())) > 100
    for section, rows in sections.items():
        for row in rows:
            assert len(row) == 4, (section, row)
            assert all(row), (section, row)


def blocks(annotation: object) -> list[type[Block]]:
    """Return the blocks that a type holds, and those in them."""
    if inspect.isclass(annotation) and issubclass(annotation, Block):
        inside = [found for field in annotation.model_fields.values() for found in blocks(field.annotation)]
        return [annotation, *inside]
    return [found for argument in getattr(annotation, "__args__", ()) for found in blocks(argument)]


def plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


@pytest.mark.parametrize("task", TASKS)
def test_every_key_of_every_block_stands_in_one_section_with_its_default(
    task: str, sections: dict[str, list[list[str]]]
):
    found = blocks(config_type({"task": task}))
    assert len(found) >= 9
    for block in found:
        if not block.model_fields:  # of names that are the user's
            continue
        keys = {f"`{key}`" for key in block.model_fields}
        (rows,) = [rows for rows in sections.values() if keys <= {key for key, *_ in rows}]
        for key, field in block.model_fields.items():
            written = [default for of_key, _, default, _ in rows if of_key == f"`{key}`"]
            default = field.get_default(call_default_factory=True)
            if field.is_required():
                assert "**required**" in written, (block, key)
            elif isinstance(default, Block):
                assert written == ["see there"], (block, key)
            else:
                values = [yaml.safe_load(text.strip("`")) for text in written if text.startswith("`")]
                assert plain(default) in values, (block, key)


METHODS = [thing for kind in KINDS if KINDS[kind].given and kind not in SECTIONED for thing in things(kind).values()]


def test_every_option_of_every_method(sections: dict[str, list[list[str]]]):
    for method in METHODS:
        rows = {key.strip("`"): default for key, _, default, _ in sections[method.name]}
        assert list(rows) == list(method.options())
        for key, option in method.options().items():
            if option.default is option.empty:
                assert rows[key] == "**required**"
            else:
                assert yaml.safe_load(rows[key].strip("`")) == plain(option.default)


@pytest.mark.parametrize(
    ("section", "row"),
    [
        ("data", "`flip` | number from 0 to 1 | `0.5` | probability of a horizontal flip"),
        ("data", "`crop` | list of 2 whole numbers ≥ 1 | **required** | [height, width] of what the student trains on"),
        (
            "data",
            "`crop` | list of 2 whole numbers ≥ 1 or null | `null` | [height, width] of a random crop; default none",
        ),
        ("config", "`task` | `detection` | **required** | what is trained"),
        ("config", "`teacher` | block or null | `null` | see [teacher](#teacher)"),
        ("optimizer", "`name` | `sgd`, `adamw` | `sgd` | SGD with momentum, or AdamW"),
        ("mlp", "`hidden` | whole number or null | `null` | channels between the two; `null` for the teacher's"),
        ("ohem", "`threshold` | number | `0.7` | on the probability, in [0, 1]"),
    ],
)
def test_rows(sections: dict[str, list[list[str]]], section: str, row: str):
    assert row.split(" | ") in sections[section]


def test_what_tasks_share_stands_once(sections: dict[str, list[list[str]]]):
    keys = [key for key, *_ in sections["data"]]
    assert keys.count("`dataset`") == 1
    assert keys.count("`scale`") == 2  # with another default


def test_no_option_is_hidden_by_a_terms_own_key():
    for method in things("loss").values():
        assert not TermBlock.model_fields.keys() & method.options().keys()
