"""The search for codecs: its measure against whole models of transformers, and the command that uses it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM

from meswitch.allocation import (
    OWN,
    EvolutionConfig,
    alike_within,
    allocate,
    assign_linears,
    choices_of,
    measure,
    measure_linears,
    search,
    search_linears,
)
from meswitch.allocation.search import Divergence
from meswitch.architecture import ParameterKind
from meswitch.calibration_stream import CalibrationStream
from meswitch.cli.app import run
from meswitch.codecs import parse_codec
from meswitch.errors import CapacityError
from meswitch.merge import merge
from meswitch.pair import Pair, open_pair
from tests.meswitch.checkpoints import edit_json, fine_tune, save_model, tensors_of, tiny_config
from tests.meswitch.test_adapter import save_adapter

CANDIDATES = ("rtn:bits=1", "rtn:bits=2", "rtn:bits=4")
CODECS = {
    ParameterKind.LINEAR: parse_codec("rtn"),
    ParameterKind.EMBEDDING: parse_codec("rtn:bits=8"),
    ParameterKind.HEAD: parse_codec("rtn:bits=8"),
}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("models")
    base = save_model(root / "base", tiny_config())
    return base, fine_tune(base, root / "expert", size=0.05)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("hello\nabcdefgh\nzyxw\n")
    return path


def prepared(models: tuple[Path, Path], texts: Path) -> tuple[Pair, Any, Any, Any]:
    pair = open_pair(*models)
    plan = pair.plan(CODECS)
    stream = CalibrationStream(pair, texts)
    candidates = [parse_codec(spec) for spec in CANDIDATES]
    return pair, plan, choices_of(pair, plan, candidates, calibration=stream, keep=True), stream.texts


def divergence_of_files(models: tuple[Path, Path], delta: Path, tmp_path: Path, ids: Any) -> float:
    """KL of a token between the expert and what the delta is merged to, by models that transformers loads."""
    merge(models[0], delta, tmp_path / "merged")
    expert, merged = (AutoModelForCausalLM.from_pretrained(path) for path in (models[1], tmp_path / "merged"))
    linears = {name for name in tensors_of(models[1]) if "proj" in name}
    # only the linears: tables are the expert's own in a search
    state = {n: (merged if n in linears else expert).get_parameter(n).detach().clone() for n in tensors_of(models[1])}
    merged.load_state_dict(state, strict=False)
    total = tokens = 0.0
    for row in ids:
        with torch.no_grad():
            wanted, found = (F.log_softmax(m(torch.tensor([row])).logits[0].double(), -1) for m in (expert, merged))
        total += float(F.kl_div(found, wanted, log_target=True, reduction="sum"))
        tokens += len(row)
    return total / tokens


def test_the_expert_itself_is_at_no_distance_and_more_bits_are_nearer(models: tuple[Path, Path], texts: Path) -> None:
    pair, plan, choices, ids = prepared(models, texts)
    parameters = {p.name: p for p in plan if p.name in choices}
    divergence = Divergence(pair, parameters, choices, ids, samples=(1, 3), device=CPU)
    found = [divergence((number,) * len(choices), 3) for number in range(3)]
    assert found[0] > 4 * found[1] > 16 * found[2] > 0
    # the same again, whatever stood there before
    assert divergence((1,) * len(choices), 3) == found[1]
    # a sample is a text
    assert divergence((1,) * len(choices), 1) != found[1]


def narrowed(base: Path, root: Path) -> Path:
    """An expert of float32 weights whose config asks for less."""
    expert = fine_tune(base, root, size=0.05)
    edit_json(expert / "config.json", dtype="bfloat16")
    return expert


def adapted(base: Path, root: Path) -> Path:
    save_adapter(base, root, r=2, target_modules=["q_proj", "down_proj"])
    return root


# peft's own calls, not ours
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("make", [narrowed, adapted])
def test_what_is_not_described_is_the_experts_own(make: Any, models: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("hello\nabcdefgh\nzyxw\n")
    pair, plan, choices, ids = prepared((models[0], make(models[0], tmp_path / "other")), tmp_path / "texts.txt")
    parameters = {p.name: p for p in plan if p.name in choices}
    divergence = Divergence(pair, parameters, choices, ids, samples=(3,), device=CPU)
    described = divergence((0,) * 14, 3)
    assert described > 0
    # taken back from a model in which all were described, to the last bit
    assert divergence((OWN,) * 14, 3) == 0
    alone = [divergence(tuple(0 if i == place else OWN for i in range(14)), 3) for place in range(14)]
    # a linear that the adapter leaves alone has no delta, and costs nothing
    assert all(0 <= kl < described for kl in alone)
    assert max(alone) > 0
    assert divergence((0,) * 14, 3) == described


def test_it_makes_no_difference_how_texts_are_batched(
    models: tuple[Path, Path], texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair, plan, choices, ids = prepared(models, texts)
    parameters = {p.name: p for p in plan if p.name in choices}
    found = []
    # alone; the two shorter ones together; all together
    for tokens in (1, 10, 24):
        monkeypatch.setattr(search, "BATCH_TOKENS", tokens)
        divergence = Divergence(pair, parameters, choices, ids, samples=(3,), device=CPU)
        found.append(divergence((1,) * len(choices), 3))
    assert found[1:] == pytest.approx(found[:1] * 2, rel=1e-5)


def test_a_search_finds_what_is_no_worse_within_the_budget(models: tuple[Path, Path], texts: Path) -> None:
    pair, plan, choices, ids = prepared(models, texts)
    budget = sum(row[1].nbytes for row in choices.values())
    config = EvolutionConfig(generations=8, offspring=6, survivors=(2, 1), samples=(1, 3))
    found = search_linears(pair, plan, choices, ids, budget, config)
    assert found.found < found.start
    assert found.allocation.nbytes <= budget == found.allocation.budget_bytes
    assert found.allocation.error >= found.allocation.least_error
    again = search_linears(pair, plan, choices, ids, budget, config)
    assert again == found
    with pytest.raises(CapacityError, match="what the cheapest candidates take"):
        search_linears(pair, plan, choices, ids, 10, config)


def test_one_command_searches_and_its_record_is_what_the_expert_does(
    models: tuple[Path, Path], texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["compress", "--base", str(models[0]), "--expert", str(models[1]), "--output", str(tmp_path / "delta")]
    command += ["--name", "e", "--allocate", "5bits", "--calibration", str(texts), "--search", "4", "--json"]
    for spec in CANDIDATES:
        command += ["--candidate", spec]
    assert run(command) == 0
    record = json.loads(capsys.readouterr().out)["allocation"]
    assert (record["search"]["generations"], record["search"]["texts"]) == (4, 3)
    assert 0 < record["search"]["found"] <= record["search"]["start"]
    assert sum(record["linears"].values()) == 14
    ids = CalibrationStream(open_pair(*models), texts).texts
    expected = divergence_of_files(models, tmp_path / "delta", tmp_path, ids)
    assert record["search"]["found"] == pytest.approx(expected, rel=1e-3)


def test_a_search_begins_no_worse_than_any_codec_for_all_linears(models: tuple[Path, Path], texts: Path) -> None:
    pair, plan, choices, ids = prepared(models, texts)
    # two bits for all, and a quarter more
    budget = sum(row[1].nbytes for row in choices.values()) * 5 // 4
    assert alike_within(choices, budget) == [(0,) * len(choices), (1,) * len(choices)]
    parameters = {p.name: p for p in plan if p.name in choices}
    divergence = Divergence(pair, parameters, choices, ids, samples=(3,), device=CPU)
    found = search_linears(pair, plan, choices, ids, budget, EvolutionConfig(generations=0))
    knapsacks = [assign_linears(choices, budget, weighted=weighted) for weighted in (True, False)]
    knapsacks.append(measured_by(divergence, choices, budget, 3))
    assert found.found == found.start == min(divergence(a, 3) for a in ((0,) * 14, (1,) * 14, *knapsacks))


def measured_by(divergence: Divergence, choices: Any, budget: int, samples: int) -> tuple[int, ...]:
    """The measured knapsack, with one bit, which takes the fewest bytes, for all single linears."""
    errors = [[choice.error for choice in row] for row in choices.values()]
    kl = measure(errors, lambda numbers: divergence(numbers, samples), reference=0)
    return allocate([[choice.nbytes for choice in row] for row in choices.values()], kl, budget)


def test_measuring_takes_the_knapsack_over_kl_itself(models: tuple[Path, Path], texts: Path) -> None:
    pair, plan, choices, ids = prepared(models, texts)
    budget = sum(row[1].nbytes for row in choices.values()) * 5 // 4
    # in another order it is still the cheapest candidate that linears are measured with
    turned = {name: row[::-1] for name, row in choices.items()}
    seen: list[tuple[int, int]] = []
    config = EvolutionConfig(generations=0, samples=(2, 3))
    found = measure_linears(
        pair, plan, turned, ids, budget, config, measuring=lambda done, scorings: seen.append((done, scorings))
    )
    # 14 linears and 3 candidates
    assert seen == [(done, 17) for done in range(1, 18)]
    parameters = {p.name: p for p in plan if p.name in choices}
    divergence = Divergence(pair, parameters, choices, ids, samples=(2, 3), device=CPU)
    numbers = measured_by(divergence, choices, budget, 2)
    assert list(found.allocation.codecs.values()) == [
        row[j].codec for row, j in zip(choices.values(), numbers, strict=True)
    ]
    assert found.allocation.nbytes <= budget
    assert found.found == found.start == pytest.approx(divergence(numbers, 3), rel=1e-5)
    assert found.texts == 3


def test_measuring_is_no_choice_between_starts(
    models: tuple[Path, Path], texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair, plan, choices, ids = prepared(models, texts)
    # as if KL had said that fewer bits are nearer
    monkeypatch.setattr(search, "measure", lambda *_, **__: [[c.nbytes for c in row] for row in choices.values()])
    budget = sum(row[1].nbytes for row in choices.values())
    measured = measure_linears(pair, plan, choices, ids, budget, EvolutionConfig(generations=0))
    assert measured.allocation.codecs == {name: row[0].codec for name, row in choices.items()}
    fittest = search_linears(pair, plan, choices, ids, budget, EvolutionConfig(generations=0))
    assert fittest.found < measured.found


def test_one_codec_for_all_linears_is_taken_where_errors_lie(
    models: tuple[Path, Path], texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair, plan, choices, ids = prepared(models, texts)
    # what the knapsacks believe: fewer bits are nearer
    choices = {n: tuple(replace(c, error=c.nbytes, plain_error=c.nbytes) for c in row) for n, row in choices.items()}
    monkeypatch.setattr(search, "measure", lambda errors, *_, **__: errors)
    budget = sum(row[1].nbytes for row in choices.values())
    found = search_linears(pair, plan, choices, ids, budget, EvolutionConfig(generations=0))
    assert found.allocation.codecs == {name: row[1].codec for name, row in choices.items()}


def measured_expert(models: tuple[Path, Path], output: Path, texts: Path, *arguments: str) -> list[str]:
    command = ["compress", "--base", str(models[0]), "--expert", str(models[1]), "--output", str(output)]
    command += ["--name", "e", "--allocate", "5bits", "--calibration", str(texts), "--json", *arguments]
    for spec in CANDIDATES:
        command += ["--candidate", spec]
    return command


def test_one_command_measures_and_its_record_is_what_the_expert_does(
    models: tuple[Path, Path], texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(measured_expert(models, tmp_path / "delta", texts, "--measure")) == 0
    record = json.loads(capsys.readouterr().out)["allocation"]
    assert (record["search"]["generations"], record["search"]["texts"]) == (0, 3)
    assert sum(record["linears"].values()) == 14
    ids = CalibrationStream(open_pair(*models), texts).texts
    expected = divergence_of_files(models, tmp_path / "delta", tmp_path, ids)
    assert record["search"]["found"] == record["search"]["start"] == pytest.approx(expected, rel=1e-3)


def test_a_search_measures_whether_it_is_asked_to_or_not(
    models: tuple[Path, Path], texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records: list[Any] = []
    for arguments in (["--search", "2"], ["--search", "2", "--measure"], ["--measure"]):
        output = tmp_path / str(len(records))
        assert run(measured_expert(models, output, texts, *arguments)) == 0
        records.append(json.loads(capsys.readouterr().out)["allocation"])
    assert records[0] == records[1]
    assert records[0]["search"]["start"] <= records[2]["search"]["found"]


@pytest.mark.parametrize(
    ("arguments", "missing"),
    [
        ([], "--allocate and --calibration"),
        (["--allocate", "2bits"], "--calibration"),
        (["--calibration", "TEXTS"], "--allocate"),
    ],
)
def test_measuring_without_budget_or_texts_is_refused(
    arguments: list[str],
    missing: str,
    models: tuple[Path, Path],
    texts: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["compress", "--base", str(models[0]), "--expert", str(models[1]), "--output", str(tmp_path / "delta")]
    command += [str(texts) if word == "TEXTS" else word for word in arguments]
    assert run([*command, "--measure"]) == 1
    said = capsys.readouterr().err
    assert "measuring needs a budget and calibration texts" in said
    assert f"got --measure without {missing};" in said
    assert not (tmp_path / "delta").exists()


@pytest.mark.parametrize("arguments", [["--search", "3"], ["--search", "3", "--allocate", "2bits"], ["--search", "-1"]])
def test_a_search_without_budget_or_texts_is_refused(
    arguments: list[str], models: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # before anything is read: there is no such base
    nowhere = str(tmp_path / "base")
    command = ["compress", "--base", nowhere, "--expert", str(models[1]), "--output", str(tmp_path / "delta")]
    assert run([*command, *arguments]) == 1
    assert "a search needs generations, a budget and calibration texts" in capsys.readouterr().err
    assert not (tmp_path / "delta").exists()
