import json
from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.planning import RunOptions, describe_family, plan_run
from harness.prepare import prepare_here
from harness.prepared import PrepareRequest
from harness.shapes import is_shape_family
from harness.telemetry import NullGpu
from tests.harness.shape_families import prepared_shapes

CODEC = "salient:bits=2,channels=8,step=unbiased"


def request(**fields) -> PrepareRequest:
    return PrepareRequest(
        **{
            "family": "mistral-7b",
            "codec": CODEC,
            "home": Path("none"),
            "dtype": "bfloat16",
            "experts": ("a",),
            **fields,
        }
    )


def test_a_shape_goes_by_name_or_is_a_config_without_a_family(tmp_path):
    assert is_shape_family("mistral-7b")
    assert not is_shape_family("pocket")
    assert not is_shape_family(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mistral"}))
    assert is_shape_family(str(tmp_path))
    assert is_shape_family(str(tmp_path / "config.json"))
    (tmp_path / "family.json").write_text("{}")
    assert not is_shape_family(str(tmp_path))


def test_an_experts_bytes_are_counted_before_anything_is_made():
    prepared = prepare_here(request(experts=("maths", "law")))
    # of each of 32 layers: q and o, k and v, gate and up, down
    layers = 2 * [(4096, 4096)] + 2 * [(1024, 4096)] + 2 * [(14336, 4096)] + [(4096, 14336)]
    weights = 32 * sum(rows * columns for rows, columns in layers)
    rows = 32 * sum(rows for rows, _ in layers)
    # two bits a weight, a float32 step a row, eight float16 values a row; indices are a few kilobytes more
    linears = weights // 4 + 4 * rows + 16 * rows
    size = prepared.sizes["law"]
    assert size.linears == pytest.approx(linears, rel=1e-4)
    # embedding and head of 32,000 x 4,096 at 4 bits, with their steps
    assert size.whole == pytest.approx(linears + 32000 * 4096 + 2 * 4 * 32000, rel=1e-3)
    # 7.24 billion parameters in two bytes
    assert prepared.model_bytes == pytest.approx(14.48e9, rel=1e-3)
    assert (prepared.has_text, prepared.router, prepared.vocabulary) == (False, None, 32000)
    assert list(prepared.checkpoints) == ["maths", "law"]


def test_other_codecs_and_types_are_other_bytes_and_other_weights():
    first, again, other, double = (
        prepare_here(request(**fields)) for fields in ({}, {}, {"codec": "nested"}, {"dtype": "float32"})
    )
    assert first.weights_hash == again.weights_hash != other.weights_hash
    # two planes of one bit, and no salient channels
    assert other.sizes["a"].linears < first.sizes["a"].linears
    assert double.model_bytes == pytest.approx(2 * first.model_bytes, rel=1e-3)


def test_a_shape_has_no_experts_of_its_own():
    with pytest.raises(UsageError, match="has no experts of its own; name them with --experts"):
        prepare_here(request(experts=None))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cpu"}, "random ones are made on a GPU: give --device cuda"),
        ({"experts": ","}, "the trace or --experts must name them"),
        ({"router": "llm"}, "mistral-7b is a shape and has no router; use --router tag"),
    ],
)
def test_what_a_shape_cannot_do_is_said_before_anything_is_made(options, message):
    asked = RunOptions(**{"trace": "mixed.jsonl", "family": "mistral-7b", "device": "cuda", **options})
    with pytest.raises(UsageError, match=message):
        plan_run(asked, gpu=NullGpu())


def test_what_a_family_is_good_for_depends_on_what_is_asked_of_it() -> None:
    shapes, trained = prepared_shapes(["a"]), prepared_shapes(["a"], has_text=True)
    for checks_answers in (True, False):
        assert "nothing about answers" in str(describe_family(shapes, checks_answers=checks_answers)["note"])
    assert "exact verifiers" in str(describe_family(trained, checks_answers=True)["note"])
    assert "answers are not looked at" in str(describe_family(trained, checks_answers=False)["note"])
