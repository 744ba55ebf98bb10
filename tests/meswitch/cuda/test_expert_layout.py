"""Slots are alike, so experts that store differently are refused by name before an engine starts."""

from dataclasses import replace
from pathlib import Path

import pytest

from meswitch.cuda.decoder_shape import DecoderShape
from meswitch.cuda.expert_layout import layout_of
from meswitch.cuda.slot_layout import CodeShape, MatrixPart, slot_layout
from meswitch.errors import UnsupportedModelError
from tests.meswitch.cuda.delta_experts import make_base, make_delta, opened, shape_of


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base") / "base", num_hidden_layers=1)


def test_experts_of_equal_bits_and_channels_share_a_layout(base: Path, tmp_path: Path) -> None:
    experts = {
        "rounded": make_delta(base, tmp_path / "rounded", linear="rtn:bits=2", embedding="rtn:bits=8"),
        "solved": make_delta(base, tmp_path / "solved", linear="gptq:bits=2", embedding="rtn:bits=8,step=mse"),
        "plain": make_delta(base, tmp_path / "plain", linear="salient:bits=2,channels=0", embedding="gptq:bits=8"),
    }
    layout = layout_of({name: opened(path) for name, path in experts.items()}, shape_of(base))
    assert layout.linear_code == CodeShape(bits=2, salient=0)
    assert layout.embedding.code == CodeShape(bits=8, salient=0)
    assert layout.head is not None
    assert layout.head.code == CodeShape(bits=8, salient=0)


def test_signs_are_codes_of_one_bit(base: Path, tmp_path: Path) -> None:
    delta = make_delta(base, tmp_path / "signs", linear="bitdelta", embedding="bitdelta", head="bitdelta")
    layout = layout_of({"signs": opened(delta)}, shape_of(base))
    assert layout.linear_code == CodeShape(bits=1, salient=0)


def test_an_engine_without_experts_has_the_smallest_slots(base: Path) -> None:
    assert layout_of({}, shape_of(base)).linear_code == CodeShape(bits=1, salient=0)


def test_an_expert_that_stores_otherwise_is_named_with_what_to_do(base: Path, tmp_path: Path) -> None:
    first = opened(make_delta(base, tmp_path / "first", linear="salient:bits=2,channels=8"))
    other = opened(make_delta(base, tmp_path / "other", linear="salient:bits=2,channels=4"))
    with pytest.raises(UnsupportedModelError) as error:
        layout_of({"first": first, "other": other}, shape_of(base))
    assert "first has --linear salient:bits=2,channels=8" in str(error.value)
    assert "other has salient:bits=2,channels=4" in str(error.value)
    assert "compress other again with --linear salient:bits=2,channels=8" in str(error.value)


def test_a_codec_that_no_kernel_covers_is_named_with_its_parameter(base: Path, tmp_path: Path) -> None:
    dense = opened(make_delta(base, tmp_path / "dense", embedding="dense"))
    message = "dense: model.embed_tokens.weight: on CUDA a codec of embedding must be .*, got dense; .* --embedding"
    with pytest.raises(UnsupportedModelError, match=message):
        layout_of({"dense": dense}, shape_of(base))


def test_only_linears_may_come_in_two_planes(base: Path, tmp_path: Path) -> None:
    planes = opened(make_delta(base, tmp_path / "planes", linear="nested"))
    layout = layout_of({"planes": planes}, shape_of(base))
    assert layout.linear_code == CodeShape(bits=1, salient=0, planes=2)
    tables = opened(make_delta(base, tmp_path / "tables", linear="nested", head="nested"))
    with pytest.raises(UnsupportedModelError, match=r"tables: lm_head.weight: on CUDA a codec of head .* got nested"):
        layout_of({"tables": tables}, shape_of(base))


def test_signed_positions_describe_linears_and_heads_but_no_tables(base: Path, tmp_path: Path) -> None:
    two = "sparse-sign:group=4,keep=2"
    layout = layout_of(
        {"e": opened(make_delta(base, tmp_path / "e", linear="sparse-sign:group=8", head=two))}, shape_of(base)
    )
    assert layout.linear_code == CodeShape(bits=0.5, salient=0, group=8)
    assert layout.head_part.code == CodeShape(bits=0.75, salient=0, group=4, keep=2)
    table = opened(make_delta(base, tmp_path / "table", embedding="sparse-sign"))
    with pytest.raises(UnsupportedModelError, match=r"on CUDA a codec of embedding must be .* got sparse-sign"):
        layout_of({"table": table}, shape_of(base))
    large = opened(make_delta(base, tmp_path / "large", linear="sparse-sign:group=16"))
    with pytest.raises(UnsupportedModelError, match="groups of sparse-sign must be 4 or 8, got group=16"):
        layout_of({"large": large}, shape_of(base))


def test_signs_that_lie_apart_have_a_place_behind_their_codes() -> None:
    shape = DecoderShape(
        layers=1, K=128, heads=8, kv_heads=8, head_dim=16, F=256, vocabulary=100, eps=1e-5, activation="silu",
        qkv_bias=False, qk_norm=False, window=None, tied=False,
    )  # fmt: skip
    table = CodeShape(bits=4, salient=0)
    code = CodeShape(bits=0.75, salient=0, group=4)
    layer = slot_layout(shape, linear=code, embedding=table, head=table).layers[0]
    stacked = layer["qkv"]
    assert isinstance(stacked, MatrixPart)
    # 384 rows of two blocks: a word and a unit of 16 bits each
    assert (stacked.signs - stacked.codes, stacked.steps - stacked.signs) == (384 * 8, 384 * 4)
    places = [where for _, where in stacked.places()]
    assert [where["codes"][0].offset - stacked.codes for where in places] == [0, 128 * 8, 256 * 8]
    assert [where["signs"][0].offset - stacked.signs for where in places] == [0, 128 * 4, 256 * 4]
    two = slot_layout(shape, linear=replace(code, keep=2), embedding=table, head=table).layers[0]
    assert {"q", "k", "v", "gate", "up"} < two.keys()


def test_an_expert_with_more_tokens_than_the_base_is_refused(base: Path, tmp_path: Path) -> None:
    grown = opened(make_delta(base, tmp_path / "grown", expert={"vocabulary": 42}))
    with pytest.raises(UnsupportedModelError, match=r"grown: .* model.embed_tokens.weight has 2 rows more"):
        layout_of({"grown": grown}, shape_of(base))


def test_an_expert_with_a_head_of_its_own_is_refused_where_the_base_has_none(base: Path, tmp_path: Path) -> None:
    delta = opened(make_delta(base, tmp_path / "own"))
    with pytest.raises(
        UnsupportedModelError, match=r"own: .* the expert has a head of its own, the base's head is tied"
    ):
        layout_of({"own": delta}, shape_of(base, tied=True))


def test_an_expert_with_a_tied_head_is_refused_where_the_base_has_its_own(tmp_path: Path) -> None:
    base = make_base(tmp_path / "tied", num_hidden_layers=1, tie_word_embeddings=True)
    delta = opened(make_delta(base, tmp_path / "expert"))
    with pytest.raises(
        UnsupportedModelError, match=r"expert: .* its head tied to its embedding, the base's head is not"
    ):
        layout_of({"expert": delta}, shape_of(base, tied=False))
