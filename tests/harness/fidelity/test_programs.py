"""Programs are written by each arm, judged, kept, resumed and counted."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.cli import run_command
from harness.errors import RunFormatError, UsageError
from harness.fidelity.program_records import ProgramRecord, append_programs, keep_programs, read_programs
from harness.fidelity.program_table import rebuild_programs
from harness.fidelity.programs import ProgramOptions, Writer, code_of, evaluate_programs, prompt_ids
from meswitch.families.pocket.generation import greedy_tokens
from meswitch.families.smollm2.tasks import Pair

END = 23
PROBLEMS = (
    Pair("one", "def one(): return 1", ("assert one() == 1",)),
    Pair("two, longer", "def two(): return 2", ("assert two() == 2", "assert two() > 1")),
)
SPECS = ("rtn:bits=2,step=unbiased", "sparse-sign:group=4")


class Letters:
    """Each character a token; what is decoded is the text that `written` says of the tokens."""

    def __init__(self) -> None:
        self.decoded: list[list[int]] = []

    def __call__(self, texts: list[str], **_: Any) -> dict[str, list[list[int]]]:
        return {"input_ids": [[ord(letter) % END for letter in text] for text in texts]}

    def convert_tokens_to_ids(self, token: str) -> int:
        assert token == "<|im_end|>"
        return END

    def decode(self, ids: list[int]) -> str:
        self.decoded.append(ids)
        # the first problem is solved by every model, the second by none
        return "def one(): return 1"


@pytest.fixture
def family(tiny_family: Callable[..., Any]) -> Any:
    found = tiny_family()
    found.tokenizer = Letters()
    return found


def options(output: Path, **changes: Any) -> ProgramOptions:
    settings: dict[str, Any] = {"experts": (("mbpp", 0), ("mbpp", 1)), "specs": SPECS, "max_tokens": 4, **changes}
    return ProgramOptions(output=output, **settings)


def test_every_arm_writes_and_its_programs_are_judged(family: Any, tmp_path: Path) -> None:
    assert evaluate_programs(family, {"mbpp": PROBLEMS}, options(tmp_path), lambda _: None)
    records = read_programs(tmp_path)
    assert [record.arm for record in records if record.seed == 0] == ["reference", "base", "expert", *SPECS]
    own = next(record for record in records if record.arm == "reference")
    # what belongs to the data is judged and not kept
    assert (own.outcomes, own.answers) == (("passed", "passed"), ())
    others = [record for record in records if record.arm != "reference"]
    assert {record.outcomes for record in others} == {("passed", "error")}
    assert others[0].details[1] == "NameError: name 'two' is not defined"
    assert {record.bits_per_weight is None for record in others if record.arm in SPECS} == {False}


def test_answers_are_the_greedy_tokens_of_the_arms_own_weights(family: Any, tmp_path: Path) -> None:
    subject = family.subject("mbpp", 0)
    writer = Writer(family.tokenizer, subject, PROBLEMS, options(tmp_path, rows=1))
    found = {}
    for arm in ("base", "expert", SPECS[0]):
        family.tokenizer.decoded.clear()
        list(writer.answers(arm))
        found[arm] = [list(ids) for ids in family.tokenizer.decoded]
        linear = "model.layers.0.mlp.up_proj.weight"
        held = dict(subject.model.named_parameters())[linear].detach()
        # what is in the model is the arm, and what was decoded is what it generates
        distance = float((held - subject.base[linear]).norm() / (subject.expert[linear] - subject.base[linear]).norm())
        assert distance == pytest.approx({"base": 0.0, "expert": 1.0}.get(arm, 1.06), abs=0.1)
        prompts = prompt_ids(family.tokenizer, PROBLEMS)
        assert found[arm] == greedy_tokens(subject.model, prompts, max_tokens=4, end=END)
    assert found["base"] != found["expert"]


def test_prompts_end_where_answers_begin() -> None:
    letters = Letters()
    text = "<|im_start|>user\none<|im_end|>\n<|im_start|>assistant\n"
    assert prompt_ids(letters, PROBLEMS[:1]) == [tuple(letters([text])["input_ids"][0])]


def test_what_is_judged_is_not_judged_again_unless_the_expert_or_the_problems_changed(
    family: Any, tmp_path: Path
) -> None:
    said: list[str] = []
    one = options(tmp_path, experts=(("mbpp", 0),), specs=SPECS[:1])
    evaluate_programs(family, {"mbpp": PROBLEMS}, one, said.append)
    assert said == [f"mbpp, seed 0: {arm}" for arm in ("reference", "base", "expert", SPECS[0])]
    said.clear()
    evaluate_programs(family, {"mbpp": PROBLEMS}, options(tmp_path, experts=(("mbpp", 0),)), said.append)
    assert said == [f"mbpp, seed 0: {SPECS[1]}"]
    path = tmp_path / "programs" / "mbpp-0.jsonl"
    assert len(keep_programs(path, "hash-0", 2)) == 5
    assert keep_programs(path, "hash-0", 3) == []
    assert path.read_bytes() == b""


def test_nothing_is_begun_after_the_deadline(family: Any, tmp_path: Path) -> None:
    # asked before the expert, and before each of its arms: two of them
    times = iter([0.0, 0.0, 0.0, 9.0])
    done = evaluate_programs(
        family, {"mbpp": PROBLEMS}, options(tmp_path, deadline_s=5.0), lambda _: None, lambda: next(times)
    )
    assert not done
    assert [record.arm for record in read_programs(tmp_path)] == ["reference", "base"]


def test_problems_without_tests_are_refused(family: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="which task gsm8k has not for all of its problems"):
        evaluate_programs(family, {"gsm8k": (Pair("q", "a"),)}, options(tmp_path), lambda _: None)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("def f(): pass", "def f(): pass"),
        ("Here it is:\n```python\ndef f(): pass\n```\nIt works.", "def f(): pass\n"),
        ("```\nx = 1\n```\n```\ny = 2\n```", "x = 1\n"),
        # cut off before its end
        ("```Python \nx = 1", "x = 1"),
        ("s = '```'", "s = '```'"),
    ],
)
def test_code_is_taken_out_of_markdown(answer: str, code: str) -> None:
    assert code_of(answer) == code


def record(arm: str, outcomes: str, *, seed: int = 0) -> ProgramRecord:
    """A letter for each outcome."""
    words = {"p": "passed", "f": "failed", "t": "timeout", "m": "memory", "e": "error"}
    named: Any = tuple(words[letter] for letter in outcomes)
    return ProgramRecord(
        family="smollm2",
        task="mbpp",
        seed=seed,
        expert_hash=f"h{seed}",
        arm=arm,
        bits_per_weight=2.0 if ":" in arm else None,
        expert_bytes=1000 if ":" in arm else None,
        seconds=10.0,
        memory_bytes=1 << 29,
        isolated=True,
        outcomes=named,
        details=("",) * len(named),
        answers=("",) * len(named),
    )


def keep(output: Path) -> None:
    """Two seeds of four problems: the expert passes 3 and 2 of them, the codec 2 and 2."""
    for seed, expert, codec in ((0, "pppf", "ppft"), (1, "ppee", "ppme")):
        path = output / "programs" / f"mbpp-{seed}.jsonl"
        for arm, outcomes in (("base", "ffff"), ("expert", expert), (SPECS[0], codec)):
            append_programs(path, record(arm, outcomes, seed=seed))


def test_pass_at_1_is_the_share_of_programs_that_pass(tmp_path: Path) -> None:
    keep(tmp_path)
    means = {mean.arm: mean for mean in rebuild_programs(tmp_path)}
    # 5 and 4 of 8 programs
    assert (means["expert"].pass_at_1.value, means[SPECS[0]].pass_at_1.value) == (0.625, 0.5)
    assert means[SPECS[0]].lost.value == 0.125
    assert means[SPECS[0]].outcomes == {"passed": 4, "failed": 1, "timeout": 1, "memory": 1, "error": 1}
    # the same problems and seeds are drawn for both: where neither differs nothing is lost, and never less than that
    assert means[SPECS[0]].lost.low == 0.0
    assert means["expert"].lost == means["expert"].lost.__class__(value=0.0, low=0.0, high=0.0)
    assert means["base"].pass_at_1.high == 0.0
    rows = json.loads((tmp_path / "programs.json").read_text())
    assert [row["pass_at_1"] for row in rows] == [0.0, 0.75, 0.5, 0.0, 0.5, 0.5]
    assert rows[2] | {"options": None} == {
        "family": "smollm2",
        "task": "mbpp",
        "seed": 0,
        "codec": "rtn",
        "options": None,
        "bits_per_weight": 2.0,
        "expert_bytes": 1000,
        "pass_base": 0.0,
        "pass_expert": 0.75,
        "pass_at_1": 0.5,
        "passed": 2,
        "failed": 1,
        "timeout": 1,
        "memory": 0,
        "error": 0,
        "n": 4,
        "isolated": True,
    }
    text = (tmp_path / "programs.md").read_text()
    assert f"| mbpp | `{SPECS[0]}` | 2.000 | 50.0 [" in text
    assert "| 1 | 1 | 1 | 1 | 2 × 4 |" in text


def test_records_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "programs" / "mbpp-0.jsonl"
    append_programs(path, record("expert", "pp"))
    with pytest.raises(RunFormatError, match="the programs of base are missing for mbpp-0"):
        rebuild_programs(tmp_path)
    append_programs(path, record("base", "ppp"))
    with pytest.raises(RunFormatError, match="asked different numbers of problems"):
        rebuild_programs(tmp_path)


def test_a_torn_line_is_ignored_and_a_damaged_one_named(tmp_path: Path) -> None:
    path = tmp_path / "programs" / "mbpp-0.jsonl"
    append_programs(path, record("base", "p"))
    with path.open("ab") as file:
        file.write(b'{"schema": "har')
    append_programs(path, record("expert", "p"))
    assert [found.arm for found in read_programs(tmp_path)] == ["base", "expert"]
    path.write_bytes(b"{}\n")
    with pytest.raises(RunFormatError, match="line 1: Field required"):
        read_programs(tmp_path)


def test_the_command_makes_tables_from_records_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keep(tmp_path)
    command = ["quality", "smollm2", "--generate", "--rebuild", "--output", str(tmp_path)]
    assert run_command(command) == 0
    assert "mbpp expert" in capsys.readouterr().out
    assert run_command([*command, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pocket", "--generate"], "which only smollm2's task mbpp has, got pocket"),
        (["smollm2", "--generate", "--task", "sql"], "which only smollm2's task mbpp has, got sql"),
        (["smollm2", "--generate"], "smollm2 needs its tasks' files; give their directory with --data"),
        (["smollm2", "--generate", "--data", "x", "--codec", "rtnn"], "rtnn"),
        (["smollm2", "--generate", "--rebuild"], "no programs are kept in"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("MESWITCH_HOME", str(tmp_path / "home"))
    assert run_command(["quality", *arguments, "--output", str(tmp_path / "out")]) == 1
    assert message in capsys.readouterr().err.splitlines()[-1]
