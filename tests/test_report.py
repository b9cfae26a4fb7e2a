"""The report: one file, no network, what it says, and how it behaves in a browser."""

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from test_analysis_study import record, spec, write_run, write_study
from test_cells import NB201, S1

from analysis import _html, report
from analysis.typeset import Cell, Sheet, statement

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


class Page(HTMLParser):
    """What a page loads, its ids, and whether its elements close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in {"meta", "link", "input", "use", "path", "br"}:
            self.open.append(tag)
        for name, value in attrs:
            if name in {"src", "href", "xlink:href"} and not (value or "").startswith(("#", "data:")):
                self.loads.append(f"{tag} {value}")
            if name == "id":
                self.ids.append(str(value))

    def handle_endtag(self, tag: str) -> None:
        if tag not in {"path", "use"}:
            assert self.open.pop() == tag


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of two spaces, with a miss, a warning, an unfinished run and a method that needs escaping."""
    results = tmp_path_factory.mktemp("study")
    write_run(results, spec("s1", "darts", 0), [record(0, genotype=S1), record(1, genotype=S1, test=0.8)])
    write_run(
        results, spec("s1", "darts", 1), [record(0, genotype=S1), record(1, genotype=S1, miss=True, test=None)], False
    )
    folder = write_run(results, spec("nb201", "a<b&c", 0), [record(0, genotype=NB201), record(1, genotype=NB201)])
    with (folder / "records.jsonl").open("a") as file:
        file.write("torn")
    (folder / "environment.json").write_text('{"device": "cpu", "versions": {"torch": "2.6"}, "revision": "abc"}')
    assert report.main(["--results", str(results), "--out", str(results / "out")]) == 0
    return results / "out" / "report.html"


def test_the_page_is_whole_and_loads_nothing(written: Path) -> None:
    page = Page(written.read_text())
    assert page.loads == []
    assert page.open == []
    named = {"filter", "space", "shown", "figures", "tables", "runs", "environment", "accuracy-s1", "all-runs"}
    assert named <= set(page.ids)
    assert len(set(page.ids)) == len(page.ids)
    text = written.read_text()
    assert set(re.findall(r'(?:url\(|href=")#([^")]+)', text)) <= set(page.ids)


def test_what_a_reader_must_know_stands_in_it(written: Path) -> None:
    text = written.read_text()
    for part in (
        "n = 2 seeds a method (a&lt;b&amp;c on nb201: 1), 3 epochs, dataset digits",
        "dominant eigenvalue, signed",
        "1 of 3 runs have not finished: darts on s1, seed 1.",
        "1 of 3 runs selected a cell at some epoch that is not in the table (a miss): darts on s1, seed 1.",
        "records.jsonl:3: not a JSON object, left out",
        "The runs come from 2 revisions of the code",
        "Not drawn: no method has runs with several values of a numeric setting",
        "a&lt;b&amp;c", "torch 2.6", "best cell of the table",
    ):  # fmt: skip
        assert part in text
    assert "a<b&c" not in text
    assert text.count("<svg") == 12  # six figures on two spaces


@pytest.mark.slow
def test_equal_records_give_equal_bytes(written: Path, tmp_path: Path) -> None:
    results = str(written.parent.parent)
    assert report.main(["--results", results, "--out", str(tmp_path), "--space", "s1"]) == 0
    first = (tmp_path / "report.html").read_bytes()
    assert report.main(["--results", results, "--out", str(tmp_path), "--space", "s1"]) == 0
    assert (tmp_path / "report.html").read_bytes() == first


def test_a_cell_is_sorted_by_its_number_and_a_missing_one_by_nothing() -> None:
    rows = ((Cell("b"), statement([0.25], "{:.1f}".format, bold=True)), (Cell("a"), statement([], "{:.1f}".format)))
    text = _html.table(Sheet("t", ("method", "x"), rows, ""), "t")
    assert '<td data-value="0.25"><strong>0.2</strong></td>' in text
    assert '<td class="text" data-value="a">a</td><td data-value="">–</td>' in text


def test_the_last_digits_of_a_coordinate_do_not_count() -> None:
    svg = '<?xml?><svg viewBox="0 0 1 1"><path d="M 1.000012 2.5" transform="scale(0.015625)" id="a_1"/></svg>'
    near = svg.replace("1.000012", "1.000013")
    assert _html.inline(svg, "x") == _html.inline(near, "x")
    assert 'd="M 1.000 2.5" transform="scale(0.015625)"/>' in _html.inline(svg, "x")


def test_no_runs_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main(["--results", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith("analysis.report: no runs with records under")
    assert not (tmp_path / "out").exists()


def browse(page: Path, fragment: str, *arguments: str) -> tuple[str, str]:
    """Return the document after the script has run, and what the browser logged."""
    assert CHROMIUM is not None
    done = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
         f"--user-data-dir={page.parent / 'profile'}", *arguments, f"file://{page}#{fragment}"],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    return done.stdout, done.stderr


def visible_rows(document: str, name: str) -> list[str]:
    body = re.search(rf'id="{name}".*?<tbody>(.*?)</tbody>', document, re.DOTALL)
    assert body is not None
    rows = re.findall(r"<tr([^>]*)>(.*?)</tr>", body[1], re.DOTALL)
    return [re.sub("<[^>]*>", " ", row).split()[0] for attributes, row in rows if "hidden" not in attributes]


@pytest.mark.slow
@needs_chromium
def test_in_a_browser_tables_filter_and_sort_without_an_error(tmp_path: Path) -> None:
    write_study(tmp_path / "results")
    assert report.main(["--results", str(tmp_path / "results"), "--out", str(tmp_path)]) == 0
    page = tmp_path / "report.html"
    document, log = browse(page, "", "--dump-dom")
    assert "CONSOLE" not in log
    assert visible_rows(document, "accuracy-s1") == ["darts", "gdas", "random_ws", "random", "best"]
    document, log = browse(page, "filter=ws+nb201", "--dump-dom")
    assert visible_rows(document, "all-runs") == []
    document, _ = browse(page, "filter=random_ws&space=s1", "--dump-dom")
    assert visible_rows(document, "accuracy-s1") == ["random_ws"]
    assert len(visible_rows(document, "all-runs")) == 3
    assert re.search(r'<section data-space="nb201" hidden', document)
    document, log = browse(page, "table=accuracy-s1&column=4", "--dump-dom")
    assert visible_rows(document, "accuracy-s1") == ["gdas", "darts", "random_ws", "random", "best"]
    assert "CONSOLE" not in log


@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_window(written: Path, tmp_path: Path, width: int) -> None:
    """Tables and wide figures scroll inside their own box; the page itself never does."""
    probe = "<script>document.title = 'overflow ' + (document.documentElement.scrollWidth - innerWidth)</script></body>"
    page = tmp_path / "probe.html"
    page.write_text(written.read_text().replace("</body>", probe))
    document, _ = browse(page, "", "--dump-dom", f"--window-size={width},900")
    (overflow,) = re.findall(r"<title>overflow (-?\d+)</title>", document)
    assert int(overflow) <= 0
