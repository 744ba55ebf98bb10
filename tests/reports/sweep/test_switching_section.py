"""What a sweep's page says of switches alone, of each baseline, and of another card."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.cli import run_command
from harness.errors import UsageError
from harness.records import RequestRecord, SwitchRecord
from harness.sweep.results import SweepDirectory
from harness.switching.results import SettingRecord, SwitchingDirectory, SwitchingManifest
from reports.figures.switches import draw_switches
from reports.figures.theme import ROLES, drawing
from reports.sweep.build import build_sweep_report
from reports.sweep.projection import projection_cells
from reports.sweep.source import read_sweep
from reports.sweep.switching import CASES
from reports.sweep.versus import versus_cells

Make = Callable[..., Path]
MS = 1_000_000
H100 = "NVIDIA H100 80GB HBM3"


def pair(arm: str, number: int, copy_ms: int) -> list[RequestRecord]:
    start_ns = number * 1000 * MS
    span = SwitchRecord(expert="e", source="host", decided_ns=0, ready_ns=copy_ms * MS, moved_bytes=10)
    found = []
    for task, extra_ms in (("miss", copy_ms), ("hit", 0), ("still", 0)):
        first_ns = start_ns + (20 + extra_ms) * MS
        fields: dict[str, Any] = {"residency": "host", "switch": span} if task == "miss" else {"residency": "resident"}
        found.append(
            RequestRecord(
                arm=arm,
                index=number,
                request_id=f"{task}{number}",
                expert_wanted="e",
                scheduled_ns=start_ns,
                sent_ns=start_ns,
                first_token_ns=first_ns,
                last_token_ns=first_ns + 10 * MS,
                finished_ns=first_ns + 10 * MS,
                chunks=((first_ns, 1), (first_ns + 10 * MS, 1)),
                output_tokens=2,
                outcome="ok",
                repeat=number,
                task=task,
                **fields,
            )
        )
    return found


def make_switching(path: Path, *, family: str = "mistral-7b") -> Path:
    directory = SwitchingDirectory(path)
    directory.write_manifest(
        SwitchingManifest(
            measurement="m",
            created="2026-11-22T04:00:00+00:00",
            command=("harness", "switching"),
            provenance={"gpu": H100},
            config={"codec": "rtn:bits=2"},
            family={"name": family},
            host_to_device_bytes_per_s=50e9,
            settings=("meswitch_host", "full-swap-host_host"),
        )
    )
    for arm, copy_ms, nbytes in (("meswitch", 40, 1_900_000_000), ("full-swap-host", 280, 14_000_000_000)):
        record = SettingRecord(
            name=f"{arm}_host",
            measurement="m",
            family=family,
            arm=arm,
            case="host",
            expert_bytes=nbytes,
            outcome="ok",
            copies_ms=(float(copy_ms),) * 12,
            shared_images=8 if arm == "meswitch" else 0,
        )
        directory.write_setting(record, [request for n in range(12) for request in pair(arm, n, copy_ms)])
    return path


def texts(rows: Any) -> list[tuple[str, ...]]:
    return [tuple(cell.value for cell in row) for row in rows]


def test_switches_beside_the_sweep_have_a_figure_and_tables_on_its_page(make_sweep: Make, tmp_path: Path) -> None:
    path = make_sweep()
    assert "What one switch costs" not in build_sweep_report(path).read_text()
    make_switching(tmp_path / "switching")
    page = build_sweep_report(path).read_text()
    assert "What one switch costs" in page
    assert 'id="figure-switches"' in page
    assert f"Measured on {H100}, 2026-11-22T04:00:00+00:00, rtn:bits=2." in page
    assert "Shared host buffers: up to 8 experts share their place in host memory with another." in page
    # 1.9 GB at 50 GB/s take 38 ms, and a whole model's copy seven times as long as ours
    assert "<td>38</td>" in page.replace("38.0", "38")
    assert "<td>7.0×</td>" in page
    # a hit after a switch is as fast as where nothing switches
    assert "first token, median, switch before" in page
    assert (path / "tables" / "switching.csv").read_text().count("\n") == 5
    assert "in host memory" in (path / "report.md").read_text()


def test_switches_of_another_family_are_not_taken_unless_they_are_named(make_sweep: Make, tmp_path: Path) -> None:
    path = make_sweep()
    other = make_switching(tmp_path / "switching", family="other")
    assert read_sweep(path).switching is None
    assert read_sweep(path, switching=other).switching is not None
    with pytest.raises(UsageError, match="--switching must be a directory of harness switching, got"):
        read_sweep(path, switching=tmp_path)


def test_the_command_takes_switches_for_a_sweep_only(
    make_sweep: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, switching = make_sweep(), make_switching(tmp_path / "elsewhere")
    assert run_command(["report", str(path), "--switching", str(switching)]) == 0
    assert "What one switch costs" in (path / "report.html").read_text()
    assert run_command(["report", str(switching), "--switching", str(switching)]) == 1
    assert "--switching is for the report of a sweep" in capsys.readouterr().err


def test_every_baseline_has_its_ratio_at_the_largest_number_of_experts_of_both(make_sweep: Make) -> None:
    rows = texts(versus_cells(read_sweep(make_sweep())))
    # whole models stay up to four experts only; ours and theirs take 100 ms there
    assert [(row[0], row[3], row[6]) for row in rows] == [
        ("all-resident", "4", "1.0×"),
        ("full-swap-host", "64", "7.0×"),
    ]
    assert rows[0][7] == "no significant difference: intervals overlap"


def measured(make_sweep: Make, gpu: str | None) -> Path:
    path = make_sweep()
    directory = SweepDirectory(path)
    manifest = directory.read_manifest()
    sizes = {"model_bytes": 14_500_000_000, "delta_bytes": 3_800_000_000, "experts": 2}
    directory.write_manifest(replace(manifest, provenance={"gpu": gpu}, family={**manifest.family, **sizes}))
    return path


def test_another_card_is_projected_from_bandwidth_and_labelled_so(make_sweep: Make, tmp_path: Path) -> None:
    path = measured(make_sweep, H100)
    make_switching(tmp_path / "switching")
    rows = texts(projection_cells(read_sweep(path)))
    # 1.9 GB and 14.5 GB at 25 GB/s
    assert rows[:2] == [
        ("copy of one compressed expert from pinned host memory", "40.0 ms", "76.0 ms"),
        ("copy of one whole model from pinned host memory", "280 ms", "580 ms"),
    ]
    # fifteen tokens, five milliseconds apart; 3.35 TB/s against 2.04 TB/s
    assert rows[2] == ("time per token, 1 expert, uniform, 16 in flight", "5.00 ms", "8.21 ms")
    # of 64 experts on 16 slots many have to come: no time of reading weights alone
    assert [row[0].split(", ")[1] for row in rows[2:]] == ["1 expert", "4 experts", "16 experts"]
    page = build_sweep_report(path).read_text()
    assert "Projected from bandwidth alone, never measured" in page
    assert "all of it scaled by the ratio" in page
    # arithmetic on what reading takes bounds nothing else that a token takes
    assert '<th scope="col">A100 80GB SXM, projected</th>' in page


@pytest.mark.parametrize("gpu", [None, "no GPU", "no GPU (Driver Not Loaded)"])
def test_without_a_card_there_is_no_projection(make_sweep: Make, gpu: str | None) -> None:
    path = measured(make_sweep, gpu)
    assert projection_cells(read_sweep(path)) == []
    assert "never measured" not in build_sweep_report(path).read_text()


def test_a_card_whose_bandwidth_is_not_known_has_copies_only(make_sweep: Make) -> None:
    assert len(projection_cells(read_sweep(measured(make_sweep, "NVIDIA Example")))) == 2


def test_ours_is_coloured_and_a_swap_grey_among_the_switches(make_sweep: Make, tmp_path: Path) -> None:
    make_switching(tmp_path / "switching")
    source = read_sweep(make_sweep()).switching
    assert source is not None
    with drawing():
        figure = draw_switches(source.tables.rows, cases=CASES)
        assert draw_switches([], cases=CASES) is None
    assert figure is not None
    dots = [line for line in figure.axes[0].get_lines() if line.get_marker() == "o"]
    assert [(list(line.get_xdata()), line.get_color()) for line in dots] == [
        ([0.04], ROLES["treatment"][0]),
        ([0.28], ROLES["baseline"][0]),
    ]
    # a label that only a typesetter of formulas could read has no place on an axis
    figure.canvas.draw()
    ticks = [*figure.axes[0].get_xticklabels(), *figure.axes[0].get_xticklabels(minor=True)]
    assert not [tick.get_text() for tick in ticks if "$" in tick.get_text()]
    strokes = [line.get_linestyle() for line in figure.axes[0].get_lines() if len(line.get_xdata()) == 2]
    assert strokes == ["-", "--"]
