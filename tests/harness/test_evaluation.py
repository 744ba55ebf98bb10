"""Which units are answered, and which are kept; the answers themselves are faked."""

import multiprocessing
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from harness import evaluation
from harness.errors import RunFormatError, UsageError
from harness.evaluation import QualityOptions, evaluate, rebuild_quality
from harness.prepared import DeltaSize, Prepared
from harness.quality import Item, Unit, write_unit

SIZE = DeltaSize(whole=10, linears=6, full_model=50, bits_per_weight=2.0, bits_per_weight_whole=3.0, dense=90)


@pytest.fixture
def answered(monkeypatch):
    """The units that were answered, as (model, codec, expert)."""
    seen = []

    def prepare(request, **_):
        names = ("a", "b")
        places = {name: Path(name) for name in names}
        return Prepared(
            family="made",
            base=Path("base"),
            checkpoints=places,
            deltas=places,
            router=Path("router"),
            domains=dict.fromkeys(names, ""),
            tasks={name: f"task-{name}" for name in names},
            model_bytes=100,
            router_bytes=70,
            sizes=dict.fromkeys(names, SIZE),
            codec=request.codec,
            codec_name=request.codec.partition(":")[0],
            codec_options={},
            weights_hash=request.family + "-weights",
            vocabulary=256,
        )

    def answer_unit(job):
        header = job.header
        seen.append((header.model, header.codec, header.expert))
        right = {"base": 1, "expert": 9, "codec": 8}[header.model]
        items = tuple(Item(index=i, prompt=str(i), expected="x", output="", correct=i < right) for i in range(header.n))
        job.output.parent.mkdir(parents=True, exist_ok=True)
        write_unit(job.output, Unit(header, items))

    monkeypatch.setattr(evaluation, "prepare", prepare)
    monkeypatch.setattr(evaluation, "answer_unit", answer_unit)
    monkeypatch.setattr(
        evaluation, "ProcessPoolExecutor", lambda jobs, mp_context, initializer: ThreadPoolExecutor(jobs)
    )
    return seen


def options(folder, *codecs, n=10):
    return QualityOptions(family="made", output=folder, codecs=codecs or ("rtn:bits=2", "bitdelta"), n=n)


def test_base_and_expert_answer_once_and_every_codec_answers(answered, tmp_path):
    report = evaluate(options(tmp_path))
    assert sorted(answered, key=str) == sorted(
        [
            (model, codec, expert)
            for expert in ("a", "b")
            for model, codec in (("base", None), ("expert", None), ("codec", "rtn:bits=2"), ("codec", "bitdelta"))
        ],
        key=str,
    )
    assert [(row.codec, row.task) for row in report.rows] == [
        ("bitdelta", "task-a"),
        ("bitdelta", "task-b"),
        ("rtn:bits=2", "task-a"),
        ("rtn:bits=2", "task-b"),
    ]
    assert report.means[0].difference.value == pytest.approx(-0.1)


def test_what_has_answers_is_not_answered_again(answered, tmp_path):
    evaluate(options(tmp_path))
    answered.clear()
    seen = []
    evaluate(options(tmp_path), progress=lambda done, total, name: seen.append((done, total)))
    assert answered == []
    assert seen == [(8, 8)]


def test_a_missing_or_damaged_unit_is_answered_again(answered, tmp_path):
    evaluate(options(tmp_path))
    answered.clear()
    (tmp_path / "answers" / "bitdelta" / "a.jsonl.gz").write_bytes(b"damaged")
    evaluate(options(tmp_path))
    assert answered == [("codec", "bitdelta", "a")]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n": 20}, r"answers holds records of 10 problems a task, this call asks for 20; give --output"),
        ({"seed": 1}, "holds records of seed 0, this call asks for 1; give --output"),
        ({"codecs": ("bitdelta",)}, "holds records of rtn:bits=2, which this call leaves out; give --output"),
    ],
)
def test_other_configurations_are_refused_before_anything_is_made(answered, tmp_path, monkeypatch, changes, message):
    evaluate(options(tmp_path))
    kept = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    monkeypatch.setattr(evaluation, "prepare", lambda request, **_: pytest.fail("something was made"))
    with pytest.raises(UsageError, match=message):
        evaluate(replace(options(tmp_path), **changes))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == kept


def test_another_family_is_refused_before_anything_is_answered(answered, tmp_path, monkeypatch):
    evaluate(options(tmp_path))
    answered.clear()
    made = evaluation.prepare
    monkeypatch.setattr(evaluation, "prepare", lambda request, **_: replace(made(request), family="another"))
    with pytest.raises(UsageError, match="holds records of family made, this call asks for another; give --output"):
        evaluate(options(tmp_path))
    assert answered == []


def test_a_codec_in_other_words_is_the_same(answered, tmp_path):
    evaluate(options(tmp_path, "bitdelta", "salient:bits=2,channels=8"))
    answered.clear()
    evaluate(options(tmp_path, "salient:channels=8,bits=2", "bitdelta", "rtn:bits=2"))
    assert ("codec", "rtn:bits=2", "a") in answered


def test_the_report_says_who_gave_the_answers(answered, tmp_path):
    first = evaluate(options(tmp_path, "bitdelta"))
    (entry,) = first.evaluations
    assert len(entry.keys) == len(set(entry.keys)) == 6
    assert (entry.config["n"], entry.config["seed"], entry.config["codecs"]) == (10, 0, ["bitdelta"])
    assert {"git", "machine", "versions", "python"} <= set(entry.provenance)
    assert first.weights_hash == "made-weights"
    # what is added later is of a later evaluation, and the first keeps what it gave
    second = evaluate(options(tmp_path))
    assert [len(e.keys) for e in second.evaluations] == [6, 2]
    assert second.evaluations[0] == entry


def test_the_log_names_the_commit_that_a_user_says(answered, tmp_path):
    report = evaluate(replace(options(tmp_path), commit="c0ffee"))
    assert [entry.provenance["git"] for entry in report.evaluations] == [{"commit": "c0ffee", "dirty": None}]


def test_a_rebuild_keeps_who_gave_the_answers(answered, tmp_path):
    evaluate(options(tmp_path))
    before = (tmp_path / "quality.json").read_bytes()
    rebuild_quality(tmp_path)
    assert (tmp_path / "quality.json").read_bytes() == before


def test_a_unit_that_was_answered_again_is_of_the_last_evaluation(answered, tmp_path):
    evaluate(options(tmp_path))
    (tmp_path / "answers" / "bitdelta" / "a.jsonl.gz").unlink()
    assert [len(e.keys) for e in evaluate(options(tmp_path)).evaluations] == [7, 1]


def test_an_evaluation_without_anything_to_answer_is_none(answered, tmp_path):
    evaluate(options(tmp_path))
    assert len(evaluate(options(tmp_path)).evaluations) == 1


def test_answers_of_other_weights_are_not_put_into_one_table(answered, tmp_path, monkeypatch):
    evaluate(options(tmp_path))
    made = evaluation.prepare
    monkeypatch.setattr(evaluation, "prepare", lambda request, **_: replace(made(request), weights_hash="other"))
    old = tmp_path / "answers" / "rtn-bits-2" / "a.jsonl.gz"
    answers = old.read_bytes()
    assert evaluate(options(tmp_path)).weights_hash == "other"
    old.write_bytes(answers)
    with pytest.raises(RunFormatError, match="several versions"):
        rebuild_quality(tmp_path)


def test_a_damaged_log_is_named(answered, tmp_path):
    evaluate(options(tmp_path))
    (tmp_path / "answers" / "evaluations.json").write_text('[{"started": 1}]')
    with pytest.raises(RunFormatError, match=r"evaluations\.json, field 0"):
        rebuild_quality(tmp_path)


def test_after_an_error_what_has_not_begun_is_left_alone(answered, tmp_path, monkeypatch):
    def fail(job):
        answered.append(job.header.key)
        raise RuntimeError("broken")

    monkeypatch.setattr(evaluation, "answer_unit", fail)
    # one worker: the error of the first unit is seen while at most a few more have begun
    monkeypatch.setattr(
        evaluation, "ProcessPoolExecutor", lambda jobs, mp_context, initializer: LazyPool(max_workers=1)
    )
    with pytest.raises(RuntimeError, match="broken"):
        evaluate(options(tmp_path))
    assert len(answered) == 1


def test_an_interruption_ends_the_workers_at_once_and_in_silence(monkeypatch, capfd):
    def interrupt(futures):
        raise KeyboardInterrupt

    # two of the jobs run, and the third waits
    monkeypatch.setattr(evaluation, "answer_unit", time.sleep)
    monkeypatch.setattr(evaluation, "as_completed", interrupt)
    with pytest.raises(KeyboardInterrupt):
        evaluation._answer([600, 601, 602], 3, 2, lambda done, total, name: None)
    assert multiprocessing.active_children() == []
    assert capfd.readouterr().err == ""


class LazyPool(ThreadPoolExecutor):
    """Runs the first job only; the others wait for ever, or until they are cancelled."""

    def submit(self, function, *arguments):
        if not hasattr(self, "first"):
            self.first = super().submit(function, *arguments)
            return self.first
        return Future()
