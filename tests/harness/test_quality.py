import pytest

from harness.errors import RunFormatError, UsageError
from harness.evaluation import QualityOptions, rebuild_quality
from harness.quality import Item, Unit, UnitHeader, quality_report, read_header, read_units, write_unit

CODEC = {
    "codec": "rtn:bits=2",
    "codec_name": "rtn",
    "options": {"bits": 2},
    "bits_per_weight": 2.25,
    "bits_per_weight_whole": 3.0,
    "expert_bytes": 1000,
    "expert_bytes_linears": 600,
    "model_bytes": 8000,
}


def unit(model, correct, *, expert="a", **codec):
    header = UnitHeader(
        key=f"{model}-{expert}",
        family="pocket",
        expert=expert,
        task=f"task-{expert}",
        seed=0,
        n=len(correct),
        model=model,
        **codec,
    )
    items = tuple(
        Item(index=i, prompt=f"p{i}", expected="x", output="x" if right else "y", correct=right)
        for i, right in enumerate(correct)
    )
    return Unit(header, items)


def right(n, of=20):
    return [i < n for i in range(of)]


def test_a_row_compares_a_codec_with_base_and_expert_on_the_same_problems():
    report = quality_report([unit("base", right(2)), unit("expert", right(18)), unit("codec", right(17), **CODEC)])
    row = report.rows[0]
    assert row.accuracy_base.value == pytest.approx(0.10)
    assert row.accuracy_expert.value == pytest.approx(0.90)
    assert row.accuracy.value == pytest.approx(0.85)
    # one problem of twenty was lost, and no other changed
    assert row.difference.value == pytest.approx(-0.05)
    assert row.difference.low < row.difference.value <= row.difference.high <= 0
    assert (row.bits_per_weight, row.expert_bytes, row.n) == (2.25, 1000, 20)


def test_equal_answers_have_no_difference_and_are_not_proof_of_none():
    report = quality_report([unit("expert", right(18)), unit("codec", right(18), **CODEC)])
    assert report.rows[0].accuracy_base is None
    difference = report.rows[0].difference
    # Wilson's upper bound of 0 in 20: 1.96^2 / (20 + 1.96^2)
    assert (difference.value, difference.high) == (0, pytest.approx(3.8415 / 23.8415, abs=1e-4))
    assert difference.low == -difference.high


def test_means_count_every_problem_alike():
    units = [
        unit("base", right(0)),
        unit("expert", right(20)),
        unit("codec", right(20), **CODEC),
        unit("base", right(4), expert="b"),
        unit("expert", right(20), expert="b"),
        unit("codec", right(16), expert="b", **CODEC),
    ]
    mean = quality_report(units).means[0]
    assert (mean.tasks, mean.n) == (2, 40)
    assert mean.accuracy_base == pytest.approx(0.10)
    assert mean.accuracy == pytest.approx(36 / 40)
    assert mean.difference.value == pytest.approx(-4 / 40)
    assert mean.difference.low < -0.1 < mean.difference.high < 0


def test_a_task_with_more_problems_weighs_more_in_every_mean():
    units = [
        unit("base", right(0, of=10)),
        unit("expert", right(5, of=10)),
        unit("codec", right(5, of=10), **CODEC),
        unit("base", right(30, of=30), expert="b"),
        unit("expert", right(30, of=30), expert="b"),
        unit("codec", right(30, of=30), expert="b", **CODEC),
    ]
    mean = quality_report(units).means[0]
    assert (mean.accuracy_base, mean.accuracy_expert, mean.accuracy) == (30 / 40, 35 / 40, 35 / 40)


def test_a_codec_without_its_expert_is_refused():
    with pytest.raises(RunFormatError, match="uncompressed expert a are missing"):
        quality_report([unit("codec", right(3), **CODEC)])


def test_the_table_is_rebuilt_from_the_answers_byte_for_byte(tmp_path):
    for made in (unit("base", right(2)), unit("expert", right(18)), unit("codec", right(17), **CODEC)):
        path = tmp_path / "answers" / made.header.model / "a.jsonl.gz"
        path.parent.mkdir(parents=True)
        write_unit(path, made)
    rebuild_quality(tmp_path)
    first = (tmp_path / "quality.json").read_bytes()
    rebuild_quality(tmp_path)
    assert (tmp_path / "quality.json").read_bytes() == first
    assert read_units(tmp_path / "answers")[0] == unit("base", right(2))


def test_equal_units_give_equal_files(tmp_path):
    for name in ("one", "two"):
        write_unit(tmp_path / name, unit("base", right(2)))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_damaged_unit_counts_as_missing_and_is_named_when_read(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    write_unit(path, unit("base", right(2)))
    assert read_header(path) == unit("base", right(2)).header
    path.write_bytes(path.read_bytes()[:40])
    assert read_header(path) is None
    with pytest.raises(RunFormatError, match=r"a.jsonl.gz: not a unit of answers"):
        read_units(tmp_path)


def test_without_kept_answers_there_is_nothing_to_rebuild(tmp_path):
    with pytest.raises(UsageError, match="no answers are kept"):
        rebuild_quality(tmp_path)


def test_too_few_problems_are_refused(tmp_path):
    with pytest.raises(UsageError, match="--n must be at least 10"):
        QualityOptions(family="pocket", output=tmp_path, n=5)
