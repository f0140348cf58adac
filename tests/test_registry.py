"""Names and what they stand for: this package's own, found in its files, and the user's, imported."""

import importlib
import inspect
import pkgutil
from pathlib import Path
from typing import get_type_hints

import pytest

import segkd.losses
from segkd.declared import declared
from segkd.errors import SegkdError
from segkd.losses import CWD, Loss
from segkd.registry import KINDS, Thing, find, look_in, thing, things

ALL = [found for kind in KINDS for found in things(kind).values()]


def label(found: Thing) -> str:
    return f"{found.kind}-{found.name}"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that holds the working directory, ``cwd``."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    return tmp_path


class TestOfThePackage:
    def test_by_name(self):
        assert find("loss", "cwd") is CWD
        assert thing("loss", "cwd").place == "segkd.losses.cwd:CWD"
        assert thing("loss", "cwd").title == "Channel-wise distillation"

    def test_those_of_version_0_1_are_there(self):
        assert {"icsd", "pixel_kd", "cwd", "pkd", "crosskd_class", "crosskd_box"} <= things("loss").keys()
        assert {"conv1x1", "mlp"} <= things("connector").keys()
        assert {"alw", "linear"} <= things("schedule").keys()
        assert {"rdd"} <= things("weighting").keys()

    @pytest.mark.parametrize("found", ALL, ids=label)
    def test_what_the_source_says_is_what_is_imported(self, found: Thing):
        loaded = found.load()
        assert inspect.isclass(loaded)
        file = loaded.__module__.rpartition(".")[2]
        assert found.name == (file if found.kind == "format" else loaded.name)
        assert found.title
        assert all(getattr(loaded, key) == value for key, value in found.says.items() if key != "__slots__")
        if found.header is not None:
            ours = inspect.signature(found.header).parameters
            assert list(ours) == list(inspect.signature(loaded).parameters)
            assert [p.default for p in ours.values()] == [
                p.default for p in inspect.signature(loaded).parameters.values()
            ]
            hints = {key: hint for key, hint in get_type_hints(found.header).items() if key != "return"}
            assert hints.items() <= get_type_hints(loaded.__init__).items()

    def test_every_loss_of_the_folder_has_a_name(self):
        modules = [
            importlib.import_module(f"segkd.losses.{file.name}") for file in pkgutil.iter_modules(segkd.losses.__path__)
        ]
        classes = {value for module in modules for value in vars(module).values() if inspect.isclass(value)}
        losses = {value for value in classes if issubclass(value, Loss) and hasattr(value, "name")}
        assert losses
        assert losses <= {found.load() for found in things("loss").values()}

    @pytest.mark.parametrize(
        ("kind", "name", "text"),
        [
            ("loss", "icds", "there is no loss 'icds', did you mean 'icsd'?"),
            ("weighting", "rdx", "there is no pixel weighting 'rdx', did you mean 'rdd'?"),
            ("connector", "conv", "there is no connector 'conv', did you mean 'conv1x1'?"),
        ],
    )
    def test_none_names_the_nearest(self, kind: str, name: str, text: str):
        with pytest.raises(SegkdError) as raised:
            find(kind, name)
        assert str(raised.value) == text

    def test_parameters_are_those_of_bases_too(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("segkd.declared.PACKAGE", tmp_path / "segkd")
        (tmp_path / "segkd/losses").mkdir(parents=True)
        (tmp_path / "segkd/losses/base.py").write_text(
            'class Base:\n    paper, reads = "a", "b"\n    temperature: float = 1.0\n'
        )
        path = tmp_path / "segkd/losses/new.py"
        path.write_text(
            "from typing import ClassVar, Literal\nfrom segkd.losses.base import Base\n"
            'Way = Literal["up", "down"]\n'
            'class New(Base):\n    name: ClassVar[str] = "new"\n    paper = "c"\n    way: Way = "up"\n'
            'class Made(New):\n    name = "made"\n    def __init__(self, depth: int = 3): ...\n'
            "class Other(New): ...\n"
        )
        found = declared(path)
        assert list(found) == ["new", "made"]
        place, says, header = found["new"]
        assert place == "segkd.losses.new:New"
        assert (says["paper"], says["reads"]) == ("c", "b")
        assert str(inspect.signature(header)) == "(temperature: 'float' = 1.0, way: 'Way' = 'up') -> 'None'"
        assert str(get_type_hints(header)["way"]) == "typing.Literal['up', 'down']"
        assert list(inspect.signature(found["made"][2]).parameters) == ["depth"]


class TestOwn:
    def test_is_found_in_the_working_directory_and_in_the_folders_of_configs(self, here: Path):
        (here / "cwd/mine_a.py").write_text("class A: ...\n")
        (here / "elsewhere/mine_b").mkdir(parents=True)
        (here / "elsewhere/mine_b/__init__.py").write_text("")
        (here / "elsewhere/mine_b/deep.py").write_text("reads = 1\n\n\ndef b(student, teacher, target): ...\n")
        assert find("loss", "mine_a:A").__name__ == "A"
        with pytest.raises(SegkdError, match="there is no module 'mine_b'"):
            find("loss", "mine_b.deep:b")
        look_in(here / "elsewhere")
        assert find("loss", "mine_b.deep:b").__name__ == "b"
        assert thing("loss", "mine_b.deep:b").is_own

    def test_says_what_it_has_of_the_attributes(self, here: Path):
        (here / "cwd/mine_c.py").write_text('class C:\n    reads, needs_step, other = "aux", True, 1\n')
        assert thing("loss", "mine_c:C").says == {"reads": "aux", "needs_step": True}

    @pytest.mark.parametrize(
        ("name", "texts"),
        [
            ("mine_d:", ("'mine_d:'", "package.module:Name")),
            (":D", ("package.module:Name",)),
            ("mine/d:D", ("package.module:Name",)),
            ("mine_d:D:E", ("package.module:Name",)),
            ("os.path; x:D", ("package.module:Name",)),
            ("mine_e:D", ("there is no module 'mine_e' in ", "cwd", "nor installed", "did you mean 'mine_d'?")),
            ("mine_d.deep:D", ("there is no module 'mine_d.deep'",)),
            ("mine_d:d", ("mine_d has no 'd', did you mean 'D'?",)),
            ("mine_d:LIMIT", ("'mine_d:LIMIT' is of type int: neither a class nor a function",)),
            ("mine_syntax:D", ("importing mine_syntax ended with SyntaxError", "line 1")),
            ("mine_missing:D", ("ended with ModuleNotFoundError: No module named 'nowhere_at_all'",)),
            ("mine_exits:D", ("ended with SystemExit: 3",)),
        ],
    )
    def test_what_cannot_be_had(self, here: Path, name: str, texts: tuple[str, ...]):
        (here / "cwd/mine_d.py").write_text("LIMIT = 3\n\n\nclass D: ...\n")
        (here / "cwd/mine_syntax.py").write_text("class D(\n")
        (here / "cwd/mine_missing.py").write_text("import nowhere_at_all\n")
        (here / "cwd/mine_exits.py").write_text("raise SystemExit(3)\n")
        with pytest.raises(SegkdError) as raised:
            find("loss", name)
        assert "\n" not in str(raised.value)
        assert str(raised.value).startswith("the loss ")
        for text in texts:
            assert text in str(raised.value), raised.value
