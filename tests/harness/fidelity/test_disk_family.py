import json
from pathlib import Path

import pytest

from harness.cli import run_command


@pytest.mark.slow
def test_bundled_experts_answer_their_own_items_and_codecs_move_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MESWITCH_HOME", str(tmp_path / "home"))
    command = ["quality", "pocket", "--likelihood", "--task", "sql", "--codec", "rtn:bits=1", "--n", "10", "--json"]
    assert run_command([*command, "--output", str(tmp_path / "out")]) == 0
    rows = {(row["arm"], row["gain_matched"]): row for row in json.loads(capsys.readouterr().out)}
    assert set(rows) == {("base", False), ("expert", False), ("rtn:bits=1", False), ("rtn:bits=1", True)}
    coded = rows["rtn:bits=1", False]
    assert (coded["accuracy_expert"], coded["accuracy_base"], coded["n"]) == (1.0, 0.0, 10)
    assert 0 < coded["kl"] < rows["base", False]["kl"]
    assert not list((tmp_path / "out" / "records").glob("*.jsonl"))
    assert list((tmp_path / "out" / "records").glob("*.jsonl.gz"))
