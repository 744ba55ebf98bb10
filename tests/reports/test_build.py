"""The whole report: what is in it, that it is rebuilt identically, and that no run breaks it."""

import base64
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from harness.errors import RunFormatError
from harness.records import RequestRecord
from reports.build import build_report

MakeRun = Callable[..., Path]
Records = Sequence[RequestRecord]
VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """The tags of a page with their attributes, and whether all of them are closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory, both_arms: Records, write: MakeRun) -> Path:
    folder = write(tmp_path_factory.mktemp("report") / "run", both_arms)
    build_report(folder)
    return folder


@pytest.fixture(scope="module")
def page(run_dir: Path) -> str:
    return (run_dir / "report.html").read_text(encoding="utf-8")


def test_page_asks_the_network_for_nothing(page: str) -> None:
    assert "http://" not in page
    assert "https://" not in page
    for tag, attributes in Page(page).tags:
        assert tag not in {"script", "iframe", "object"}
        for name in ("src", "href"):
            target = attributes.get(name) or ""
            assert target == "" or target.startswith(("#", "data:")), (tag, target)
    assert not re.search(r"url\((?!#)", page)
    assert "@import" not in page


def test_page_is_well_formed_and_no_id_occurs_twice(page: str) -> None:
    parsed = Page(page)
    assert parsed.open == []
    ids = Counter(attributes["id"] for _, attributes in parsed.tags if "id" in attributes)
    assert [name for name, count in ids.items() if count > 1] == []


def test_every_reference_inside_the_page_has_a_target(page: str) -> None:
    ids = {attributes.get("id") for _, attributes in Page(page).tags}
    targets = set(re.findall(r'(?:href="#|url\(#)([^")]+)', page))
    assert targets <= ids


def test_answer_comes_before_everything_else(page: str) -> None:
    order = [page.index(mark) for mark in ("<h1>", 'class="verdict', 'id="answer-memory"', 'id="provenance"')]
    assert order == sorted(order)
    for key in ("memory", "ttft", "switch", "correct"):
        assert f'id="answer-{key}"' in page
    assert "timings on a CPU say nothing about a GPU" in page


def test_every_figure_says_in_words_what_it_shows(page: str) -> None:
    figures = [attributes for tag, attributes in Page(page).tags if tag == "svg"]
    assert len(figures) >= 12
    for attributes in figures:
        assert attributes["role"] == "img"
        assert len(attributes["aria-label"] or "") > 20


def test_colours_follow_the_readers_preference(page: str) -> None:
    assert "@media (prefers-color-scheme: dark)" in page
    inline = page[page.index("<svg") :]
    assert "var(--treatment)" in inline
    # colours left as they are would vanish on one of the two backgrounds
    left = set(re.findall(r"#[0-9a-f]{6}", " ".join(re.findall(r"<(?:path|g|use|text|rect)\b[^>]*>", inline))))
    assert left == set()


def test_same_run_gives_the_same_bytes(run_dir: Path) -> None:
    def contents() -> dict[str, bytes]:
        return {str(path.relative_to(run_dir)): path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}

    before = contents()
    build_report(run_dir)
    assert contents() == before


def test_tables_and_figures_lie_beside_the_page(run_dir: Path) -> None:
    assert {"requests.csv", "switches.csv", "experts.csv"} <= {path.name for path in (run_dir / "tables").iterdir()}
    stems = {path.stem for path in (run_dir / "figures").glob("*.svg")}
    assert stems == {path.stem for path in (run_dir / "figures").glob("*.png")}
    assert {"ttft-by-arm", "switch-times", "weight-memory", "lanes", "routing-0"} <= stems
    assert (run_dir / "report.md").read_text(encoding="utf-8").count("\n| ") == 10


def test_embedded_data_is_the_table_on_disk(run_dir: Path, page: str) -> None:
    match = re.search(r'download="[^"]*requests\.csv" href="data:text/csv;charset=utf-8;base64,([^"]+)"', page)
    assert match is not None
    assert base64.b64decode(match[1]) == (run_dir / "tables" / "requests.csv").read_bytes()


def test_text_from_outside_is_shown_and_never_run(make_run: MakeRun, both_arms: Records) -> None:
    evil = '<script>alert(1)</script><img src=x onerror="y">$x_{1}$'
    records = [
        replace(r, output=evil, answer=evil, expert_wanted=evil, expert_chosen=evil, correct=False)
        for r in both_arms
        if r.arm == "meswitch" and r.index < 20
    ]
    run = make_run("hostile", records, note=evil, experts=(evil,))
    page = build_report(run).read_text(encoding="utf-8")
    tags = Page(page).tags
    assert not any(tag in {"script", "img"} for tag, _ in tags)
    assert not any(name.startswith("on") for _, attributes in tags for name in attributes)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<script" not in (run / "report.md").read_text(encoding="utf-8")


def test_invalid_run_is_marked_and_claims_nothing(make_run: MakeRun, both_arms: Records) -> None:
    records = [r for r in both_arms if r.arm == "meswitch" and r.index < 30]
    late = [replace(r, sent_ns=r.scheduled_ns + 5_000_000_000) for r in records]
    run = make_run("late", late)
    page = build_report(run).read_text(encoding="utf-8")
    assert "<strong>INVALID</strong>" in page
    assert "send lag" in page[: page.index('id="answer-memory"')]
    assert "No answer: this run is not valid" in page
    assert 'class="claim' not in page
    markdown = (run / "report.md").read_text(encoding="utf-8")
    assert "INVALID" in markdown
    assert "less than" not in markdown


def test_partial_run_is_marked(make_run: MakeRun, both_arms: Records) -> None:
    records = [r for r in both_arms if r.arm == "meswitch" and r.index < 25]
    page = build_report(make_run("partial", records, status="partial")).read_text(encoding="utf-8")
    assert "<strong>PARTIAL, INVALID</strong>" in page
    assert "interrupted" in page


def test_single_arm_without_switches_or_samples_is_a_report(make_run: MakeRun, both_arms: Records) -> None:
    records = [replace(r, switch=None, residency="resident") for r in both_arms if r.arm == "meswitch" and r.index < 40]
    run = make_run("single", records, samples=False)
    (run / "figures").mkdir()
    (run / "figures" / "switch-times.svg").write_text("of an earlier build")
    page = build_report(run).read_text(encoding="utf-8")
    assert "no request waited for a switch" in page
    assert "no baseline" in page
    assert not (run / "figures" / "switch-times.svg").exists()


def test_run_in_which_everything_failed_is_a_report_of_dashes(
    make_run: MakeRun, both_arms: Records, fail: Callable[[RequestRecord], RequestRecord]
) -> None:
    run = make_run("failed", [fail(r) for r in both_arms if r.index < 30])
    page = build_report(run).read_text(encoding="utf-8")
    assert "<strong>INVALID</strong>" in page
    assert '<span class="figure-value">–</span>' in page
    assert "No request has a first token" in page
    assert "the engine stopped" in page


def test_run_without_any_arm_is_a_report(make_run: MakeRun) -> None:
    page = build_report(make_run("empty", [], status="partial", samples=False)).read_text(encoding="utf-8")
    assert "No answer: no arm ran" in page
    assert "nothing to compare" in page


def test_directory_that_is_not_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunFormatError, match=re.escape(str(tmp_path))):
        build_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_has_a_time_axis_shows_the_first_time_of_an_arm_that_ran_twice(
    run_dir: Path, make_run: Callable[..., Path], both_arms: Sequence[RequestRecord]
) -> None:
    records = [*both_arms, *(replace(record, repeat=1) for record in both_arms)]
    twice = make_run("twice", records)
    build_report(twice)
    for name in ("timeline-0.svg", "moved.svg", "lanes.svg"):
        assert (run_dir / "figures" / name).read_bytes() == (twice / "figures" / name).read_bytes()
    assert len((twice / "tables" / "requests.csv").read_text().splitlines()) == 1 + len(records)
