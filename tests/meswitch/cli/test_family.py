"""`meswitch family`: what it prints, and one line for each mistake."""

import json
from pathlib import Path

import pytest

from meswitch.cli.app import run
from meswitch.families.pocket.trainer import TrainConfig


def test_list_shows_the_shipped_family(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["family", "list"]) == 0
    printed = capsys.readouterr().out
    assert "pocket" in printed
    assert "trained where needed" in next(line for line in printed.splitlines() if "smollm2" in line)


def test_train_runs_the_recipe_and_the_result_exports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MESWITCH_HOME", str(tmp_path / "home"))
    step = (TrainConfig(steps=1, batch=1, learning_rate=1e-3),)
    stages = {"base": step, "router": step, "velm": step}
    monkeypatch.setattr("meswitch.families.pocket.recipe.default_stages", lambda scale, batch: stages)
    short = ["--rows", "64", "--workers", "0"]
    assert run(["family", "train", "pocket", "--out", str(tmp_path / "family"), *short]) == 0
    assert "velm: 1 steps, loss" in capsys.readouterr().err
    assert run(["family", "export", str(tmp_path / "family"), "--out", str(tmp_path / "plain")]) == 0
    assert (tmp_path / "plain" / "experts" / "velm" / "config.json").is_file()
    assert run(["family", "export", str(tmp_path / "family"), "--out", str(tmp_path / "plain")]) == 1
    assert "must not exist yet" in capsys.readouterr().err


def test_published_figures_print_as_markdown_without_a_measurement(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = {
        "answers": [{"model": "base", "task": "velm", "value": 0.5}],
        "confusion": [{"domain": "velm", "chosen": "velm", "count": 3}],
    }
    evaluate = ["family", "evaluate", "--markdown", "--output", str(tmp_path)]
    assert run(evaluate) == 1
    assert "cannot read it" in capsys.readouterr().err
    (tmp_path / "family.json").write_text(json.dumps(figures))
    assert run(evaluate) == 0
    assert "| `base` | 50 |\n" in capsys.readouterr().out
    (tmp_path / "family.json").write_text("[]")
    assert run(evaluate) == 1
    assert "must hold what meswitch family evaluate writes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "giant", "--out", "x"], "recipes for the families pocket and smollm2, got 'giant'"),
        (["train", "pocket"], "a family needs a directory; give one with --out"),
        (["train", "smollm2", "--task", "sql"], "give --task and --data"),
        (["train", "smollm2", "--task", "sql", "--data", "none"], "task sql needs none/wikisql/train.jsonl.gz"),
        (["train", "pocket", "--out", "x", "--device", "tpu"], "device must be cpu or cuda, got 'tpu'"),
        (["evaluate", "nobody"], "unknown family 'nobody'"),
        (["export", "nobody", "--out", "x"], "unknown family 'nobody'"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert run(["family", *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_directory_of_the_user_is_never_replaced_by_a_family(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("meswitch.families.pocket.recipe.default_stages", lambda *_: pytest.fail("it trained"))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("meow")
    assert run(["family", "train", "pocket", "--out", str(tmp_path / "photos")]) == 1
    assert "must be a new directory or a family to replace" in capsys.readouterr().err
    assert (tmp_path / "photos" / "cat.jpg").read_text() == "meow"
