from dataclasses import MISSING, fields, replace

import pytest

from harness.cli import run_command
from harness.cli.sweep import cell_columns
from harness.prepared import DeltaSize
from harness.sweep.presets import PRESETS, SweepChoices, choose
from harness.sweep.results import CellRecord, SweepDirectory
from harness.sweep.rows import SweepRow
from harness.telemetry import NullGpu
from tests.harness.shape_families import prepared_shapes

GB = 10**9


@pytest.fixture
def make_row():
    """A cell's figures, all of them undefined that are not given."""
    required = {field.name for field in fields(SweepRow) if field.default is MISSING}
    shared = {**dict.fromkeys(required, None), "arm": "meswitch", "popularity": "uniform", "in_flight": 2}
    return lambda **given: SweepRow(**{**shared, "experts": 2, "outcome": "ok", "valid": True, **given})


@pytest.fixture
def prepared(monkeypatch):
    """Mistral-7B's bytes, without the seconds that counting them takes."""

    def prepare(request, *, report):
        size = DeltaSize(
            whole=1_904_781_312,
            linears=1_772_388_352,
            full_model=14_483_996_672,
            bits_per_weight=2.03,
            bits_per_weight_whole=2.1,
            dense=0,
        )
        return prepared_shapes(
            request.experts,
            size=size,
            family=request.family,
            model_bytes=14_483_996_672,
            codec=request.codec,
            codec_name="salient",
            codec_options={},
            vocabulary=32000,
        )

    monkeypatch.setattr("harness.sweep.plan.prepare", prepare)
    monkeypatch.setattr("harness.sweep.plan._kv_bytes", lambda plan: 0)
    monkeypatch.setattr("harness.cli.sweep.open_gpu", lambda: NullGpu("NVIDIA One"))


def test_a_dry_run_prints_cells_and_time_and_writes_nothing(prepared, tmp_path, capsys):
    out = tmp_path / "sweep"
    assert run_command(["sweep", "--out", str(out), "--dry-run"]) == 0
    shown = capsys.readouterr().out
    # 6 numbers of experts, 4 arms, 2 popularities
    assert "48 cells to measure: about" in shown
    assert "meswitch_e128_lru_zipf-1_n16_76GiB" in shown
    assert "process_s_cuda = 17" in shown
    assert not out.exists()


def test_what_is_given_takes_the_place_of_the_presets(prepared, tmp_path, capsys):
    arguments = ["--arms", "meswitch", "--experts", "2", "--rate", "3", "--memory-budget", "24GiB,40GiB"]
    assert run_command(["sweep", "--out", str(tmp_path / "x"), "--dry-run", *arguments]) == 0
    shown = capsys.readouterr().out
    assert "4 cells to measure" in shown
    # a rate alone asks for no closed loop
    assert "meswitch_e002_lru_uniform_r3_24GiB" in shown
    assert "_n16_" not in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "huge"], "--preset must be one of full, headline, quick, another, policies, pocket, got 'huge'"),
        (["--arms", "vllm"], "no arm is called 'vllm'"),
        (["--policies", "fifo"], "got 'fifo'"),
        (["--popularity", "normal"], "got 'normal'"),
        (["--experts", "x"], "--experts must be a list with commas, got 'x'"),
        (["--memory-budget", "14GiB"], "meswitch needs 15.3 GiB, got 14.0 GiB"),
        (["--slots", "1", "--pin", "expert-000,expert-001"], "2 are pinned, got 1"),
        (["--slots", "40"], "meswitch needs 84.4 GiB, got 76.0 GiB"),
        (["--pin", "expert-999"], "--pin names expert-999, which no engine serves; there are base, expert-000, "),
        (["--seconds-per-cell", "nan"], "--seconds-per-cell must be positive"),
        (["--seconds-per-cell", "0"], "--seconds-per-cell must be positive"),
        (["--prompt-tokens", "0"], "--prompt-tokens and --output-tokens must be at least 1, got 0, 64"),
        (["--output-tokens", "0"], "--prompt-tokens and --output-tokens must be at least 1, got 512, 0"),
        (
            ["--max-rows", "0"],
            "--max-rows and --max-context must be at least 1, and --kv-tokens at least one a row, got 0",
        ),
        (["--prompt-tokens", "9999"], "9999 + 64 are more than 2048"),
        (["--device", "cpu"], "random ones are made on a GPU: give --device cuda"),
    ],
)
def test_a_mistake_is_one_line_with_the_numbers_before_anything_starts(prepared, tmp_path, capsys, arguments, message):
    out = tmp_path / "sweep"
    assert run_command(["sweep", "--out", str(out), *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_presets_are_whole_and_are_sweeps_of_the_numbers_that_are_published():
    for name in PRESETS:
        choices = choose(name, SweepChoices())
        assert None not in {choices.family, choices.experts, choices.arms, choices.budgets, choices.seconds}
    assert PRESETS["full"].experts == "1,2,4,8,16,24,32,48,64,96,128"
    assert PRESETS["full"].budgets == "24GiB,40GiB,76GiB"
    assert choose("quick", replace(SweepChoices(), seconds=9.0)).seconds == 9.0


def test_without_a_gpu_a_sweep_on_one_is_refused_before_anything_is_made_ready(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("harness.cli.sweep.open_gpu", NullGpu)
    monkeypatch.setattr("harness.cli.sweep.plan_sweep", lambda *given, **options: pytest.fail("a plan was made"))
    assert run_command(["sweep", "--out", str(tmp_path / "sweep")]) == 1
    assert capsys.readouterr().err == (
        "harness: device cuda needs an NVIDIA GPU and its driver, and NVML sees none; check nvidia-smi\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_is_no_directory_is_called_by_the_option_that_named_it(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert run_command(["sweep", "--out", str(tmp_path / "file")]) == 1
    error = capsys.readouterr().err
    assert "--out must be a directory that can be written to" in error
    assert "--runs-dir" not in error


def test_memory_is_that_of_the_weights_where_no_driver_counts_it(make_row):
    nvml = make_row(nvml_bytes=3 << 20, weight_bytes=2 << 20)
    assert cell_columns(nvml)[-1] == "3.0 MiB"
    assert cell_columns(make_row(nvml_bytes=None, weight_bytes=2 << 20))[-1] == "2.0 MiB"
    assert cell_columns(make_row(nvml_bytes=None, weight_bytes=None))[-1] == "–"


def test_an_interruption_before_the_first_cell_leaves_nothing(prepared, tmp_path, capsys, monkeypatch):
    def interrupt(self):
        raise KeyboardInterrupt

    monkeypatch.setattr("harness.drivers.local.LocalDriver.start", interrupt)
    assert run_command(["sweep", "--out", str(tmp_path / "sweep")]) == 130
    assert "nothing is kept" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_beside_cells_of_another_card_is_refused_as_the_sweep_would_be(
    prepared, tmp_path, capsys, monkeypatch
):
    plans = []
    monkeypatch.setattr("harness.cli.sweep._print_plan", lambda plan, directory: plans.append(plan))
    command = ["sweep", "--out", str(tmp_path), "--dry-run"]
    assert run_command(command) == 0
    (plan,) = plans
    cell = next(plan.grid.cells())
    record = dict.fromkeys(("config_hash", "family", "codec", "started"), "x")
    record |= {"configuration": plan.configuration, "prompt_tokens": 1, "output_tokens": 1, "config": {}}
    SweepDirectory(tmp_path).write_cell(CellRecord(key=cell.key, cell=cell, outcome="ok", gpu="NVIDIA One", **record))
    assert run_command(command) == 0
    monkeypatch.setattr("harness.cli.sweep.open_gpu", lambda: NullGpu("NVIDIA Two"))
    assert run_command(command) == 1
    assert "was on NVIDIA One, and this one is NVIDIA Two" in capsys.readouterr().err
