"""Every block and every command in README and docs does what it says, on tiny data in the true layouts."""

import re
import shlex
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from experiments import make_experiment, segkd
from pages import PAGES, ROOT, Block, anchors, blocks, cases, code_spans, commands, links, prose
from PIL import Image
from shell import Shelf, Shell

from segkd import Distiller
from segkd.deployment.formats import FORMATS
from segkd.models.smp import build_model
from segkd.training.config import find_config

COMMANDS = ("", "bash")
LANGUAGES = {*COMMANDS, "python", "yaml", "math", "text"}


class TestPages:
    def test_every_block_is_of_a_kind_that_is_checked(self):
        assert {"", "python", "yaml", "math"} <= {block.language for block in blocks()} <= LANGUAGES

    @pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
    def test_fences_are_closed_and_none_is_overlooked(self, page: Path):
        fences = [line for line in page.read_text().splitlines() if line.lstrip().startswith(("```", "~~~"))]
        assert len(fences) == 2 * len([block for block in blocks() if block.page == page])

    def test_code_is_narrow_enough_to_be_read_without_scrolling(self):
        for block in blocks():
            if block.language not in ("math", "text"):
                assert max(map(len, block.text.splitlines())) <= 96, block

    @pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
    def test_links_lead_somewhere(self, page: Path):
        for link in links(page):
            if link.startswith("https://"):
                continue
            path, _, anchor = link.partition("#")
            target = (page.parent / path).resolve() if path else page
            assert target.exists(), f"{page.name} links to {link}"
            assert not anchor or anchor in anchors(target), f"{page.name} links to {link}"

    @pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
    def test_nothing_is_taken_for_a_tag(self, page: Path):
        """A <name> outside of code is not shown."""
        shown = re.sub(r"`[^`]*`", "", prose(page))
        assert set(re.findall(r"</?(\w+)", shown)) <= {"p", "img", "picture", "source", "a", "br", "sub"}

    @pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
    def test_commands_in_running_text_exist(self, page: Path):
        for span in code_spans(page):
            if re.match(r"segkd [a-z]", span):
                words = shlex.split(span)[1:]
                options = [word.partition("=")[0] for word in words if word.startswith("--")]
                command = words[: 2 if words[0] == "data" else 1]
                shown = segkd(*command, "--help")
                assert shown.status == 0, f"{page.name}: {span}"
                assert all(option in shown.out for option in options), f"{page.name}: {span}"
                for word in words[len(command) :]:
                    if word.islower() and not word.startswith(("--", "runs/")) and "=" not in word:
                        assert find_config(word), f"{page.name}: {span}"


@pytest.mark.parametrize("block", cases(blocks("math")))
def test_formulas_are_balanced(block: Block):
    assert block.text.count("{") == block.text.count("}")
    assert block.text.count(r"\left") == block.text.count(r"\right")
    assert re.findall(r"\\begin{(\w+)}", block.text) == re.findall(r"\\end{(\w+)}", block.text)


@pytest.mark.parametrize("block", cases(blocks("text")))
def test_text_holds_no_commands(block: Block):
    assert not any(re.match(r"(\$|segkd|pip|python|export) ", line) for line in block.text.splitlines())


@pytest.mark.parametrize("block", [pytest.param(block, id=str(block)) for block in blocks(*COMMANDS)])
def test_a_block_can_be_pasted_alone(block: Block):
    """A variable that it uses is set in it, above, so that nothing hangs on which blocks were run before."""
    set_so_far: set[str] = set()
    for line in commands(block.text):
        assert set(re.findall(r"\$(\w+)", line)) <= set_so_far, line
        set_so_far |= set(re.findall(r"^(\w+)=\"", line))


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    return Shelf(tmp_path_factory.mktemp("shelf"))


@pytest.fixture
def desk(shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that a reader works in, with what the pages say is the reader's own."""
    make_experiment(tmp_path)
    (tmp_path / "tiny.yaml").rename(tmp_path / "my_config.yaml")
    for folder in ("photos", "frames"):
        (tmp_path / folder).mkdir()
        for index in range(2):
            pixels = np.random.default_rng(index).integers(0, 256, (64, 96, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / folder / f"{index}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_python(page: Path, slow: bool, shelf: Shelf, folder: Path) -> dict[str, Any]:
    """Execute a page's blocks in one namespace, in their order, and return it."""
    found = [block for block in blocks("python") if block.page == page and (slow or not block.slow)]
    for run in {run for block in found for run in re.findall(r"runs/(\w+)", block.text)}:
        shelf.run(run, folder)
        for name, written in FORMATS.items():
            if any(f'runs/{run}/export/student{written.suffix}"' in block.text for block in found):
                assert segkd("export", f"runs/{run}", "--format", name).status == 0
    torch.manual_seed(0)
    batch = (torch.randn(2, 3, 64, 64), torch.randint(0, 11, (2, 64, 64)))
    namespace: dict[str, Any] = {
        "student": build_model("DeepLabV3Plus", "tu-test_resnet", 11),
        "teacher": build_model("DeepLabV3Plus", "resnet18", 11),
        "loader": [batch, batch],
        "image": Image.new("RGB", (96, 64)),
    }
    for block in found:
        # The empty lines make a traceback name the page's own lines.
        exec(compile("\n" * (block.line - 1) + block.text, str(page), "exec"), namespace)
    return namespace


@pytest.fixture
def torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment that torchrun gives a single process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, value in {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": 0, "WORLD_SIZE": 1}.items():
        monkeypatch.setenv(name, str(value))


@pytest.mark.usefixtures("torchrun")
@pytest.mark.parametrize(
    ("page", "slow"),
    [
        pytest.param(page, slow, id=f"{page.name}{' and what takes long' * slow}", marks=[pytest.mark.slow] * slow)
        for page, slow in sorted({(block.page, block.slow) for block in blocks("python")})
        if page.name != "README.md"  # see below
    ],
)
def test_python(page: Path, slow: bool, shelf: Shelf, desk: Path):
    assert run_python(page, slow, shelf, desk)


def test_the_loop_of_the_readme_is_short_and_distils(shelf: Shelf, desk: Path):
    first = blocks("python")[0]
    assert first.page == ROOT / "README.md"
    assert "distiller = Distiller(" in first.text
    assert len([line for line in first.text.splitlines() if line.strip()]) <= 15
    names = run_python(first.page, False, shelf, desk)
    assert names["out"].weights == {"task": 0.5, "icsd": 0.01, "kd": 0.5}
    written = torch.load("student.pth", weights_only=True)
    assert written.keys() == names["student"].state_dict().keys()
    student = build_model("DeepLabV3Plus", "resnet34", 11)  # other channels in some stages, the teacher's in this one
    distiller = Distiller(student, names["teacher"], names["terms"], names["cross_entropy"])
    assert set(distiller.terms) == {"icsd", "kd", "pkd"}
    assert distiller.connectors["pkd"].weight.shape == (512, 512, 1, 1)
    assert names["labels"].shape == (64, 96)


@pytest.mark.filterwarnings("ignore:html5lib:DeprecationWarning")  # in what TensorBoard imports
@pytest.mark.parametrize("block", cases(blocks(*COMMANDS)))
def test_commands(block: Block, shelf: Shelf, desk: Path):
    shell = Shell(shelf, desk)
    lines = commands(block.text)
    assert lines
    for line in lines:
        shell(line)


class TestShell:
    """What these tests cannot pass over."""

    @pytest.mark.parametrize(
        ("line", "says"),
        [
            ("make quickstart", "does not know how to check 'make quickstart'"),
            ("segkd trian quickstart", "No such command 'trian'"),
            ("segkd data check my_config.yaml data.root=/nowhere", "/nowhere"),
            ("segkd configs --seeds 3", "--seeds"),
            ("pip install -e .[exprot]", "exprot"),
            ("pip uninstall segkd", "uninstall"),
            ("pytest --fast", "--fast"),
            ("tensorboard --logdir runs", "events"),
            ("export SEGKD_DAAT=/data", "SEGKD_DAAT"),
            ("SEGKD_DAAT=/data segkd configs", "SEGKD_DAAT"),
        ],
    )
    @pytest.mark.filterwarnings("ignore:html5lib:DeprecationWarning")
    def test_refuses(self, line: str, says: str, shelf: Shelf, desk: Path):
        with pytest.raises(AssertionError) as raised:
            Shell(shelf, desk)(line)
        assert says in str(raised.value)

    def test_variables_stand_for_several_words(self, shelf: Shelf, desk: Path):
        shell = Shell(shelf, desk)
        shell('O="--count 2 --split val"')
        shell("segkd data show my_config.yaml $O --out shown.png")
        assert (desk / "shown.png").exists()

    def test_lines_are_joined_split_and_rid_of_comments(self):
        text = "# first\npip install -e . && \\\n  segkd train a  # why\n\nsegkd eval runs/a\n"
        assert commands(text) == ["pip install -e .", "segkd train a", "segkd eval runs/a"]
