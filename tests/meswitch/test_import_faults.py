"""kill -9 at random moments of an import over an existing expert: what is there is the old one or the new one.

`make faults TRIALS=1000` runs as many as that and writes down what came of them.
"""

import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from harness.provenance import collect_provenance
from harness.results import write_atomic
from harness.telemetry.gpu import NullGpu
from meswitch.compress import CompressConfig, compress_expert
from tests.meswitch.checkpoints import fine_tune, save_model, tiny_config
from tests.meswitch.import_killer import CODEC, LEFT, judge

ROOT = Path(__file__).parents[2]
SEED = 0


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    base = save_model(root / "base", tiny_config(num_hidden_layers=1))
    return {
        "base": base,
        "ada": fine_tune(base, root / "ada", seed=1),
        "bob": fine_tune(base, root / "bob", seed=2),
    }


@pytest.mark.slow
def test_an_import_killed_at_any_moment_leaves_the_old_expert_or_the_new_one(
    models: dict[str, Path], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    wanted = request.config.getoption("--trials")
    command = [sys.executable, "-W", "ignore", "-m", "tests.meswitch.import_killer", *map(str, models.values())]
    ended = subprocess.run(
        [*command, str(tmp_path), str(wanted), str(SEED)], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    )
    trials = [json.loads(line) for line in ended.stdout.splitlines()]
    left = Counter(trial["left"] for trial in trials)
    if record := request.config.getoption("--trials-out"):
        write_record(record, trials, wanted)
    assert set(left) <= {"old", "new", "nothing"}
    killed = Counter(trial["left"] for trial in trials if trial["killed"])
    assert killed.total() == wanted
    # kills that all came too early, or all too late, would show nothing
    assert killed["old"] >= wanted // 10
    assert sum(trial["killed"] and trial["aim"] == "publication" for trial in trials) >= wanted // 10
    assert sum(trial["killed"] and trial["partial"] for trial in trials) >= wanted // 4


def write_record(path: Path, trials: list[dict[str, object]], wanted: int) -> None:
    killed = [trial for trial in trials if trial["killed"]]
    content = {
        "schema": "import-kill9/1",
        "command": f"make faults TRIALS={wanted}",
        "provenance": collect_provenance(NullGpu()),
        "seed": SEED,
        "killed": len(killed),
        "ended_before_the_kill": len(trials) - len(killed),
        "killed_during_publication": sum(trial["aim"] == "publication" for trial in killed),
        "killed_leaving_unfinished_work": sum(bool(trial["partial"]) for trial in killed),
        "left_by_the_killed": {left: sum(trial["left"] == left for trial in killed) for left in LEFT},
        "left_by_the_ended": {
            left: sum(trial["left"] == left for trial in trials if not trial["killed"]) for left in LEFT
        },
    }
    # a line for each trial, below the summary
    head = json.dumps(content, indent=1).removesuffix("\n}")
    lines = ",\n".join("  " + json.dumps(trial) for trial in trials)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, f'{head},\n "records": [\n{lines}\n ]\n}}\n'.encode())


def test_the_judge_tells_old_new_nothing_damage_and_another_expert_apart(
    models: dict[str, Path], tmp_path: Path
) -> None:
    references = {name: tmp_path / name for name in ("ada", "bob")}
    for name, place in references.items():
        config = CompressConfig(base=models["base"], expert=models[name], output=place, name=name, linear=CODEC)
        compress_expert(config)
    names = {"before": "ada", "writing": "bob"}
    assert judge(references["ada"], references, **names) == "old"
    assert judge(references["bob"], references, **names) == "new"
    assert judge(tmp_path / "none", references, **names) == "nothing"
    # an expert that opens, but is neither
    assert judge(references["ada"], references, before="carl", writing="bob") == "wrong"
    assert judge(references["bob"], {"bob": references["ada"]}, before="ada", writing="bob") == "wrong"
    damaged = shutil.copytree(references["bob"], tmp_path / "damaged")
    with (damaged / "delta.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\xff")
    assert judge(damaged, references, **names) == "unreadable"
