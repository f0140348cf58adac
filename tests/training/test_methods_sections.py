"""A method's section says what its docstring says, once."""

import re
from dataclasses import replace

import pytest

from segkd.errors import SegkdError
from segkd.losses import CWD
from segkd.registry import Thing, things
from segkd.training import methods_table
from segkd.training.methods_table import methods, sections

PAGE = "\n".join(sections())
SECTIONS = {part.partition("\n")[0]: part for part in PAGE.split("\n### ")}
"""Each section by its heading."""


def test_a_section():
    assert "Pixel weightings\n\n### RelativeDifficulty\n" in PAGE
    lines = SECTIONS["CWD"].splitlines()
    assert lines[2].startswith("Channel-wise distillation: each channel, softened over its h \\* w positions")
    assert lines[4] == "```text"
    assert "- `segkd.losses.CWD`, in a config `cwd`; reads logits or features." in lines
    assert "- **Weight** 3: T^2 \\* sum of KL / (B \\* C), on logits; 50 on features." in lines
    assert "[arXiv 2011.13256](https://arxiv.org/abs/2011.13256)" in SECTIONS["CWD"]
    assert "| `temperature` | number | `4.0` | divides the activations, above 0 |" in lines
    assert "    cwd: {loss: cwd, temperature: 4.0, weight: 3.0}" in lines
    assert "In place of [`ICSD`](#icsd)" in SECTIONS["CWD"]


def test_several_configs_are_blocks_of_their_own():
    assert SECTIONS["PKD"].count("```yaml") == 2
    assert "---\n" not in SECTIONS["PKD"].partition("```yaml")[2]


def test_what_two_methods_share_stands_once_before_them():
    shared, first = PAGE.index("### CrossKD\n"), PAGE.index("### CrossKDBox\n")
    assert shared < first
    assert "| `per_process` |" in SECTIONS["CrossKD"]
    assert "| `per_process` |" not in SECTIONS["CrossKDClass"]


@pytest.mark.parametrize("method", methods(), ids=lambda method: method.name)
def test_every_option_stands_in_one_table_with_its_default(method: Thing):
    owners = [owner.__name__ for owner in method.load().__mro__ if owner.__name__ in SECTIONS]
    rows = [
        row for owner in owners for row in re.findall(r"^\| `(\w+)` \| .+ \| (.+) \| .+ \|$", SECTIONS[owner], re.M)
    ]
    options = method.options()
    assert sorted(key for key, _ in rows) == sorted(options)
    assert {key for key, default in rows if default == "**required**"} == {
        key for key, option in options.items() if option.default is option.empty
    }


def test_refuses_a_method_without_example(monkeypatch: pytest.MonkeyPatch):
    cwd = things("loss")["cwd"]
    monkeypatch.setattr(methods_table, "methods", lambda: [replace(cwd, name="other")])
    monkeypatch.setattr(CWD, "__doc__", "Channel-wise distillation.\n\nArgs:\n    temperature: T.")
    with pytest.raises(SegkdError, match="the docstring of the loss 'other' has no example of a config"):
        sections()
