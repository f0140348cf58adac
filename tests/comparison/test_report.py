import base64
import dataclasses
import io
import json
import math
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from experiments import refused, segkd, write
from PIL import Image
from rich.console import Console

from segkd.comparison.records import Method, group, read_records
from segkd.comparison.report import ranked, write_report
from segkd.comparison.work import Workplace

METHODS = ("tiny", "distilled", "kd")


@pytest.fixture
def html(compared: Path) -> str:
    return (compared / "out" / "report.html").read_text()


@pytest.fixture
def copied(compared: Path, tmp_path: Path) -> Path:
    """The runs of the comparison, elsewhere, without its report."""
    for name in METHODS:
        for seed in (0, 1):
            shutil.copytree(compared / "out" / f"{name}_seed{seed}", tmp_path / "runs" / f"{name}_seed{seed}")
    return tmp_path / "runs"


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.cells: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img", "br", "wbr"):
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1] += data


def cells(markdown: str) -> list[str]:
    rows = [line for line in markdown.splitlines() if line.startswith("|") and not line.startswith("|---")]
    return [cell.strip().strip("*") for row in rows for cell in row.strip("|").split("|")]


class TestHtml:
    def test_opens_by_itself(self, html: str):
        page = Page(html)
        assert page.open == []
        assert page.links
        assert all(link.startswith("data:image/") for link in page.links)
        assert "http" not in re.sub(r"base64,[A-Za-z0-9+/=]+", "", html)
        assert re.findall("<script.*?>", html) == ["<script>"]  # which reads nothing from elsewhere

    def test_says_what_the_markdown_says(self, compared: Path, html: str):
        assert Page(html).cells == cells((compared / "out" / "report.md").read_text())

    def test_shows_the_same_images_under_each_method(self, html: str):
        strips = html.split('<div class="strip">')[1:]
        assert len(strips) == 3
        for strip in strips:
            captions = [text.split(":")[0] for text in re.findall("<figcaption>(.*?)</figcaption>", strip)]
            assert captions == ["image", "label", "teacher", "tiny", "distilled", "kd"]

    def test_labels_have_the_colours_of_the_data_set(self, compared: Path, html: str):
        found = re.search(r'src="data:image/png;base64,([^"]+)" alt="label"', html)
        assert found
        with Image.open(io.BytesIO(base64.b64decode(found[1]))) as image:
            colors = {color for _, color in image.convert("RGB").getcolors()}
        assert {(128, 128, 128), (128, 0, 0)} <= colors  # sky and building of CamVid
        assert len(colors) <= 12

    def test_is_readable_on_a_phone(self, html: str):
        assert 'name="viewport" content="width=device-width' in html
        assert html.count('<div class="wide"><table') == html.count("<table")


class TestMarkdown:
    def test_its_plots_lie_beside_it(self, compared: Path):
        links = re.findall(r"!\[.*?\]\((.*?)\)", (compared / "out" / "report.md").read_text())
        names = ("gain.svg", "difference.svg", "steps.svg", "minutes.svg", "pictures.jpg")
        assert links == [f"plots/{name}" for name in names]
        assert all((compared / "out" / link).is_file() for link in links)

    def test_says_what_was_compared(self, compared: Path):
        text = (compared / "out" / "report.md").read_text()
        assert text.startswith("# camvid: tiny, distilled, kd\n")
        assert "- budget: 4 steps of batch 2\n" in text
        assert "- runs: 6, of 3 methods\n" in text
        assert f"- command: segkd compare {compared}/tiny.yaml " in text


class TestTeachers:
    @pytest.fixture
    def methods(self, compared: Path) -> list[Method]:
        return group(read_records([compared / "out"], Console(quiet=True)))

    def with_teachers(self, method: Method, off: float, name: str) -> Method:
        records = {}
        for seed, record in method.records.items():
            teacher = {**record.result["teacher"], "miou": record.result["teacher"]["miou"] + off}
            records[seed] = dataclasses.replace(record, result={**record.result, "teacher": teacher})
        return Method(name, records)

    def printed(self, methods: list[Method], folder: Path) -> list[str]:
        out = io.StringIO()
        write_report(methods, methods[-1], folder, Console(file=out, width=80), {}, 0)
        return out.getvalue().splitlines()

    def test_that_differ_by_a_few_pixels_are_one(self, methods: list[Method], tmp_path: Path):
        kd = self.with_teachers(methods[1], 1e-6, "kd")
        assert [line.split()[0] for line in self.printed([methods[0], kd, methods[2]], tmp_path)[1:5]] == [
            "teacher", "tiny", "distilled", "kd",
        ]  # fmt: skip
        assert "teacher of" not in (tmp_path / "report.md").read_text()

    def test_of_many_methods_leave_room_for_the_figures(self, methods: list[Method], tmp_path: Path):
        taught = [self.with_teachers(methods[1], 0, f"a_method_with_a_long_name_{n}") for n in range(4)]
        lines = self.printed([methods[0], *taught, methods[2]], tmp_path)
        other = self.printed([self.with_teachers(methods[0], 0.1, "other"), *taught, methods[2]], tmp_path)
        assert lines[1].startswith("teacher ")
        assert other[1].startswith("teacher of other")
        assert other[2].startswith("teacher of a_method_with")
        for line in (*lines[1:7], *other[1:8]):
            assert re.search(r"\d\.\d\d", line), line


class TestReportOnly:
    def test_of_a_comparison_writes_the_same(self, compared: Path, tmp_path: Path):
        shutil.copytree(compared / "out", tmp_path / "out")
        (tmp_path / "out" / "report.md").unlink()
        assert segkd("compare", "--report-only", tmp_path / "out").status == 0
        first, second = (folder / "out" / "report.md" for folder in (compared, tmp_path))
        assert cells(first.read_text()) == cells(second.read_text())

    def test_of_runs_by_name(self, copied: Path):
        outcome = segkd("compare", "--report-only", copied / "tiny_seed0", copied / "kd_seed0")
        assert outcome.status == 0, outcome.err
        text = (copied / "comparison" / "report.md").read_text()
        assert "# camvid: tiny, kd" in text
        assert "> One seed only: tiny, kd." in text
        assert "distilled" not in text

    def test_open_runs_are_in_the_title(self, copied: Path, tmp_path: Path):
        (next(copied.glob("*_seed1")) / "result.json").unlink()
        out = tmp_path / "open"
        assert segkd("compare", "--report-only", copied, "--out", out, "--pictures", 0).status == 0
        assert (out / "report.md").read_text().splitlines()[0].endswith("(1 run open)")

    def test_while_the_same_time_is_not_counted_yet(self, compared: Path, tmp_path: Path):
        out = shutil.copytree(compared / "out", tmp_path / "out")
        content = json.loads((out / "comparison.json").read_text())
        write(out / "comparison.json", json.dumps({**content, "same_time": {"rounds": [{"tiny": [0.1, 0.0]}]}}))
        outcome = segkd("compare", "--report-only", out, "--pictures", 0)
        assert outcome.status == 0, outcome.err
        assert "same time" not in (out / "report.md").read_text()

    def test_with_another_baseline_and_elsewhere(self, copied: Path, tmp_path: Path):
        out = tmp_path / "elsewhere"
        outcome = segkd("compare", "--report-only", copied, "--baseline", "kd", "--out", out, "--pictures", 0)
        assert outcome.status == 0, outcome.err
        assert "mIoU to kd" in (out / "report.md").read_text()
        assert 'class="strip"' not in (out / "report.html").read_text()
        assert {path.name for path in out.iterdir()} == {
            ".locks", "comparison.json", "plots", "report.html", "report.md",
        }  # fmt: skip

    def test_without_the_data_set_there_are_no_pictures(self, copied: Path, tmp_path: Path):
        for config in copied.glob("*/config.yaml"):
            config.write_text(config.read_text().replace("root: null", f"root: {tmp_path}/gone"))
        outcome = segkd("compare", "--report-only", copied)
        assert outcome.status == 0, outcome.err
        assert "the report has no pictures" in outcome.out
        assert 'class="strip"' not in (copied / "comparison" / "report.html").read_text()

    def test_without_a_student_there_are_no_pictures(self, copied: Path):
        shutil.rmtree(copied / "kd_seed0" / "student")
        outcome = segkd("compare", "--report-only", copied)
        assert outcome.status == 0, outcome.err
        assert "the report has no pictures" in outcome.out
        assert "kd_seed0" in outcome.out
        assert 'class="strip"' not in (copied / "comparison" / "report.html").read_text()

    def test_a_comparisons_budget_is_not_that_of_other_runs(self, compared: Path, copied: Path, tmp_path: Path):
        place = Workplace(tmp_path / "place")
        place.agree({"command": "segkd compare others", "budget": "12 minutes"})
        runs = [copied / "tiny_seed0", copied / "kd_seed0"]
        assert segkd("compare", "--report-only", *runs, "--out", tmp_path / "place", "--pictures", 0).status == 0
        text = (tmp_path / "place" / "report.md").read_text()
        assert "- budget: 4 steps of batch 2\n" in text
        assert "others" not in text
        assert place.agreed()["budget"] == "12 minutes"

    def test_nothing_is_written_of_runs_that_do_not_go_together(self, copied: Path, tmp_path: Path):
        out = tmp_path / "report"
        arguments = ["compare", "--report-only", "--out", out, copied]
        refused(segkd(*arguments, copied / "kd_seed0"), "are the same config with the same seed 0")
        refused(segkd(*arguments, "--baseline", "plain"), "--baseline 'plain' is none of the methods")
        assert not out.exists()

    def test_a_second_time(self, copied: Path):
        for _ in range(2):
            assert segkd("compare", "--report-only", copied, "--pictures", 0).status == 0

    def test_of_detectors(self, detectors: Path, tmp_path: Path):
        outcome = segkd("compare", "--report-only", detectors / "out", "--out", tmp_path / "report")
        assert outcome.status == 0, outcome.err
        text = (tmp_path / "report" / "report.md").read_text()
        assert "| method | seeds | AP | AP to tiny | AP50 | AP75 | AP, last step |" in text
        assert "distill.terms.box.loss" in text
        kinds = re.findall(r'src="data:image/(\w+);', (tmp_path / "report" / "report.html").read_text())
        assert set(kinds) == {"jpeg"}  # boxes are drawn on photographs
        assert (tmp_path / "report" / "report.html").read_text().count('class="strip"') == 3


def test_of_many_methods_the_best_stands_first(compared: Path):
    methods = group(read_records([compared / "out"], Console(quiet=True)))
    changed = []
    for number, score in enumerate((0.3, math.nan, 0.5, 0.4)):
        records = {
            seed: dataclasses.replace(one, result={**one.result, "student": {**one.result["student"], "miou": score}})
            for seed, one in methods[0].records.items()
        }
        changed.append(Method(f"method_{number}", records))
    assert [method.name for method in ranked(changed)] == ["method_2", "method_3", "method_0", "method_1"]
