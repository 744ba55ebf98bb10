import csv
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from harness.cli import run_command
from harness.sweep.results import SweepDirectory
from harness.sweep.rows import SweepRow
from reports.figures.scaling import draw_hit_rates, draw_scaling
from reports.figures.theme import ROLES, drawing
from reports.sweep.answer import caveats, sweep_sentences
from reports.sweep.build import build_sweep_report
from reports.sweep.source import read_sweep

Make = Callable[..., Path]


def test_the_page_holds_figures_tables_and_data_and_asks_the_network_for_nothing(make_sweep: Make) -> None:
    page = build_sweep_report(make_sweep(popularities=("uniform", "zipf:1"))).read_text()
    assert page.count("<svg") == 3
    assert "mistral-7b: up to 64 experts, 24 cells" in page
    assert not re.findall(r'(?:src|href)="https?:', page)
    assert "<script" not in page


def test_the_same_directory_gives_the_same_bytes(make_sweep: Make) -> None:
    path = make_sweep()
    first = build_sweep_report(path).read_bytes()
    svg = next((path / "figures").glob("scaling*.svg")).read_bytes()
    assert build_sweep_report(path).read_bytes() == first
    assert next((path / "figures").glob("scaling*.svg")).read_bytes() == svg


def test_every_cell_is_a_row_of_the_table(make_sweep: Make) -> None:
    path = make_sweep()
    build_sweep_report(path)
    rows = list(csv.DictReader((path / "tables" / "sweep.csv").read_text().splitlines()))
    assert len(rows) == 12
    lost = [row for row in rows if row["outcome"] == "does-not-fit"]
    assert [(row["arm"], row["experts"]) for row in lost] == [("all-resident", "16"), ("all-resident", "64")]


def test_the_answer_compares_with_the_best_swap_and_says_what_does_not_fit(make_sweep: Make) -> None:
    source = read_sweep(make_sweep())
    sentences = sweep_sentences(source)
    # 15 tokens in 100 ms against 15 in 700 ms: seven times as many. Ours misses half of 64 on 16 slots
    assert sentences[0].startswith("uniform, 16 in flight, lru, 76.0 GiB: with 64 experts, output tokens/s against")
    assert "full-swap-host: 7" in sentences[0]
    assert sentences[0].endswith("× more, intervals apart")
    assert sentences[1] == "all-resident does not hold 16 experts within 76.0 GiB"


def test_shapes_and_shared_memory_are_said_before_any_figure(make_sweep: Make) -> None:
    found = caveats(read_sweep(make_sweep()))
    assert found[0] == "mistral-7b: shapes only; random weights"
    # 64 experts, 32 places
    assert found[1].startswith("shared host buffers: up to 32 experts share their place in host memory")


def drawn(make_sweep: Make) -> Figure:
    source = read_sweep(make_sweep())
    with drawing():
        figure = draw_scaling(next(iter(source.slices)).rows, treatment=source.treatment)
    assert figure is not None
    return figure


def test_ours_is_solid_and_coloured_and_every_baseline_dashed_and_grey(make_sweep: Make) -> None:
    legend = drawn(make_sweep).legends[0]
    styles = {line.get_label(): (line.get_linestyle(), line.get_color()) for line in legend.get_lines()}
    assert styles["meswitch"] == ("-", ROLES["treatment"][0])
    greys = {ROLES["baseline"][0], ROLES["baseline-2"][0]}
    for arm in ("full-swap-host", "all-resident"):
        style, colour = styles[arm]
        assert style != "-"
        assert colour in greys
    assert "all-resident: does not fit" in styles


def test_cells_that_memory_does_not_hold_are_crosses_in_every_panel(make_sweep: Make) -> None:
    for ax in drawn(make_sweep).axes:
        crosses = [line for line in ax.get_lines() if line.get_marker() == "x"]
        assert [list(line.get_xdata()) for line in crosses] == [[16, 64]]


def test_the_memory_panel_shows_the_budget(make_sweep: Make) -> None:
    ax = drawn(make_sweep).axes[3]
    assert any(list(line.get_ydata()) == [76.0, 76.0] for line in ax.get_lines())
    assert ax.get_ylim()[1] > 76


def on_a_cpu(make_sweep: Make) -> list[SweepRow]:
    """Rows without a GPU's figures, their memory in MiB."""
    rows = next(iter(read_sweep(make_sweep()).slices)).rows
    return [
        replace(row, nvml_bytes=None, belady_hit_rate=None, copy_mean_s=None, slots=None, weight_bytes=5 << 20)
        for row in rows
    ]


def test_memory_is_in_mib_where_nothing_takes_a_gib(make_sweep: Make) -> None:
    rows = on_a_cpu(make_sweep)
    with drawing():
        small = draw_scaling(rows, treatment="meswitch")
        large = draw_scaling([*rows[:1], *(replace(row, weight_bytes=2 << 30) for row in rows[1:])], treatment="x")
    assert small is not None
    assert large is not None
    assert small.axes[3].get_ylabel() == "memory, MiB"
    assert {y for line in small.axes[3].get_lines() for y in line.get_ydata() if line.get_marker() == "o"} == {5.0}
    assert large.axes[3].get_ylabel() == "memory, GiB"


def test_belady_is_in_the_legend_where_its_line_is_drawn(make_sweep: Make) -> None:
    labels = []
    for rows in (next(iter(read_sweep(make_sweep()).slices)).rows, on_a_cpu(make_sweep)):
        with drawing():
            figure = draw_hit_rates([row for row in rows if row.arm == "meswitch"])
        assert figure is not None
        # as wide as the figures beside it, so that a page shows its type at their size
        assert figure.get_figwidth() == drawn(make_sweep).get_figwidth()
        legend = figure.axes[0].get_legend()
        assert legend is not None
        labels.append([text.get_text() for text in legend.get_texts()])
    assert labels == [["uniform, lru", "Belady's bound"], ["uniform, lru"]]


def test_without_one_measured_cell_there_is_nothing_to_draw() -> None:
    assert draw_scaling([], treatment="meswitch") is None
    assert draw_hit_rates([]) is None


def test_report_rebuilds_a_sweep_from_its_raw_records(make_sweep: Make, capsys: pytest.CaptureFixture[str]) -> None:
    path = make_sweep()
    assert run_command(["report", str(path)]) == 0
    assert "report.html" in capsys.readouterr().out
    first = (path / "sweep.json").read_bytes()
    (path / "sweep.json").unlink()
    assert run_command(["report", str(path)]) == 0
    assert (path / "sweep.json").read_bytes() == first
    assert (path / "fit.json").exists()


def test_a_damaged_cell_is_named(make_sweep: Make, capsys: pytest.CaptureFixture[str]) -> None:
    path = make_sweep()
    next((path / "cells").glob("*.requests.jsonl.gz")).write_bytes(b"x")
    assert run_command(["report", str(path)]) == 1
    assert "requests.jsonl.gz: cannot be read" in capsys.readouterr().err


def test_cells_of_another_configuration_are_left_out_and_counted(make_sweep: Make) -> None:
    path = make_sweep()
    directory = SweepDirectory(path)
    other = next(directory.read_cells())
    directory.write_cell(
        replace(other, configuration="d", codec="rtn:bits=4"), directory.cells.read_requests(other.key)
    )
    source = read_sweep(path)
    assert (len(source.rows), source.left_out) == (11, 1)
    assert "1 cell of another family, codec, workload or engine left out" in " ".join(caveats(source))


def test_cells_of_more_than_one_card_or_commit_are_said_with_how_many_there_are(make_sweep: Make) -> None:
    path = make_sweep()
    directory = SweepDirectory(path)
    assert "more than one" not in " ".join(caveats(read_sweep(path)))
    other = next(directory.read_cells())
    requests = directory.cells.read_requests(other.key)
    directory.write_cell(replace(other, gpu="NVIDIA Other", commit="f00"), requests)
    found = caveats(read_sweep(path))
    # the records that name no card are of the manifest's
    assert "cells of more than one card are compared here: NVIDIA Example (11 cells), NVIDIA Other (1 cell)" in found
    assert "cells of more than one commit are compared here: f00 (1 cell), unknown (11 cells)" in found
    assert "NVIDIA Other (1 cell)" in build_sweep_report(path).read_text()


def test_found_resident_has_a_line_for_each_budget(make_sweep: Make) -> None:
    rows = [row for row in read_sweep(make_sweep()).rows if row.arm == "meswitch"]
    halved = [replace(row, memory_budget_bytes=20 << 30, hit_rate=0.1) for row in rows]
    with drawing():
        both, one = draw_hit_rates([*rows, *halved]), draw_hit_rates(rows)
    assert both is not None
    assert one is not None
    labels = [text.get_text() for text in both.axes[0].get_legend().get_texts()]  # type: ignore[union-attr]
    assert labels[:2] == ["uniform, lru, 20 GiB", "uniform, lru, 76 GiB"]
    drawn = {line.get_label(): list(line.get_xdata()) for line in both.axes[0].lines}  # type: ignore[arg-type]
    assert all(drawn[label] == sorted(set(drawn[label])) for label in labels[:2])
    assert one.axes[0].get_legend().get_texts()[0].get_text() == "uniform, lru"  # type: ignore[union-attr]
