"""Compression from real checkpoints: what comes out, what is refused, what is held in memory."""

import re
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from meswitch import compress
from meswitch.checkpoint import Checkpoint
from meswitch.codecs import decompress, parse_codec
from meswitch.compress import CompressConfig, compress_expert
from meswitch.errors import (
    CheckpointError,
    CodecOptionError,
    ExpertNameError,
    MissingShardError,
    ShapeMismatchError,
    UnknownCodecError,
    UnsupportedModelError,
    WrongParentError,
)
from meswitch.format import Manifest, load_expert, open_delta
from meswitch.identity import base_identity
from meswitch.merge import merge
from tests.meswitch.checkpoints import (
    ARCHITECTURES,
    edit_json,
    edit_tensors,
    fine_tune,
    logits_of,
    save_model,
    tensors_of,
    tiny_config,
)

DENSE = {"linear": "dense", "embedding": "dense", "head": "dense"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("base") / "base", tiny_config())


@pytest.fixture(scope="module")
def expert(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fine_tune(base, tmp_path_factory.mktemp("expert") / "math")


def compressed(base: Path, expert: Path, output: Path, **options: Any) -> Manifest:
    return compress_expert(CompressConfig(base=base, expert=expert, output=output, name="math", **options))


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_dense_delta_merges_back_to_the_expert_for_every_architecture(kind: str, tmp_path: Path) -> None:
    base = save_model(tmp_path / "base", tiny_config(kind))
    expert = fine_tune(base, tmp_path / "expert", max_shard_size="20KB")
    assert len(list(expert.glob("*.safetensors"))) > 1
    compressed(base, expert, tmp_path / "delta", **DENSE)
    merge(base, tmp_path / "delta", tmp_path / "merged")
    want = logits_of(expert)
    torch.testing.assert_close(logits_of(tmp_path / "merged"), want, rtol=0, atol=1e-5)
    # the test can tell them apart: the base answers differently
    assert float((logits_of(base) - want).abs().max()) > 1e-2


@pytest.mark.parametrize("kind", ["llama", "gemma"])
@pytest.mark.parametrize(
    "linear", ["rtn:bits=4", "salient:bits=2,channels=8,step=unbiased", "bitdelta", "sparse-sign:group=8"]
)
def test_merged_weights_are_base_plus_decompressed_delta(kind: str, linear: str, tmp_path: Path) -> None:
    base = save_model(tmp_path / "base", tiny_config(kind), dtype=torch.bfloat16)
    expert = fine_tune(base, tmp_path / "expert", size=0.02)
    compressed(base, expert, tmp_path / "delta", linear=linear)
    merge(base, tmp_path / "delta", tmp_path / "merged")
    ours, theirs, codec = tensors_of(base), tensors_of(expert), parse_codec(linear)
    merged = tensors_of(tmp_path / "merged")
    assert merged.keys() == theirs.keys()
    linears = [name for name in merged if name.endswith("proj.weight")]
    assert len(linears) == 14
    for name in linears:
        delta = theirs[name].float() - ours[name].float()
        described = decompress(codec.compress(delta))
        assert torch.equal(merged[name], (ours[name].float() + described).bfloat16()), name
    for name in (n for n in merged if "norm" in n):
        assert torch.equal(merged[name], theirs[name]), name


@pytest.mark.parametrize("base_tied", [True, False])
@pytest.mark.parametrize("expert_tied", [True, False])
def test_tied_and_untied_heads_survive_in_all_combinations(base_tied: bool, expert_tied: bool, tmp_path: Path) -> None:
    base = save_model(tmp_path / "base", tiny_config(tie_word_embeddings=base_tied))
    expert = fine_tune(base, tmp_path / "expert")
    tie_or_untie(expert, tied=expert_tied)
    manifest = compressed(base, expert, tmp_path / "delta", **DENSE)
    delta = load_expert(tmp_path / "delta", base_identity=None)
    assert ("lm_head.weight" in delta.matrices) is not expert_tied
    assert (manifest.base.tied_head, manifest.expert.tied_head) == (base_tied, expert_tied)
    if not expert_tied:
        origin = "model.embed_tokens.weight" if base_tied else "lm_head.weight"
        want = tensors_of(expert)["lm_head.weight"] - tensors_of(base)[origin]
        assert torch.equal(decompress(delta.matrices["lm_head.weight"]), want)
    merge(base, tmp_path / "delta", tmp_path / "merged")
    torch.testing.assert_close(logits_of(tmp_path / "merged"), logits_of(expert), rtol=0, atol=1e-5)


def tie_or_untie(root: Path, *, tied: bool) -> None:
    def edit(tensors: dict[str, torch.Tensor]) -> None:
        table = tensors["model.embed_tokens.weight"]
        tensors.pop("lm_head.weight", None)
        if not tied:
            tensors["lm_head.weight"] = table.flip(0) * 0.9 + 0.1 * table

    edit_tensors(root, edit)
    edit_json(root / "config.json", tie_word_embeddings=tied)


def test_two_different_tables_count_although_the_config_says_tied(base: Path, tmp_path: Path) -> None:
    expert = fine_tune(base, tmp_path / "expert")
    edit_json(expert / "config.json", tie_word_embeddings=True)
    assert compressed(base, expert, tmp_path / "delta", **DENSE).expert.tied_head is False
    merge(base, tmp_path / "delta", tmp_path / "merged")
    torch.testing.assert_close(logits_of(tmp_path / "merged"), logits_of(expert), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "gemma", "phi"])
def test_added_rows_of_a_grown_vocabulary_are_kept_exactly(kind: str, tmp_path: Path) -> None:
    base = save_model(tmp_path / "base", tiny_config(kind))
    expert = fine_tune(base, tmp_path / "expert", vocabulary=43)
    manifest = compressed(base, expert, tmp_path / "delta", linear="dense")
    theirs = tensors_of(expert)
    delta = load_expert(tmp_path / "delta", base_identity=base_identity(base))
    tables = [name for name in theirs if name in ("model.embed_tokens.weight", "lm_head.weight")]
    assert sorted(delta.added_rows) == sorted(tables)
    for name in tables:
        assert torch.equal(delta.added_rows[name], theirs[name][40:])
        assert delta.matrices[name].shape == (40, 32)
    assert manifest.nbytes.added_rows == len(tables) * 3 * 32 * 4
    assert manifest.expert.vocabulary_rows == 43
    merge(base, tmp_path / "delta", tmp_path / "merged")
    assert logits_of(tmp_path / "merged").shape == (2, 12, 43)


def test_expert_with_its_own_ends_dtype_and_generation_config_keeps_them(base: Path, tmp_path: Path) -> None:
    expert = fine_tune(base, tmp_path / "expert", dtype=torch.bfloat16)
    edit_json(expert / "config.json", eos_token_id=7, max_position_embeddings=128)
    edit_json(expert / "generation_config.json", eos_token_id=[7, 9])
    compressed(base, expert, tmp_path / "delta", **DENSE)
    merge(base, tmp_path / "delta", tmp_path / "merged")
    for name in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "merged" / name).read_bytes()
    assert '"eos_token_id": 7' in (tmp_path / "merged" / "config.json").read_text()
    assert (tmp_path / "merged" / "generation_config.json").read_text() == (
        expert / "generation_config.json"
    ).read_text()
    # base in float32 and expert in bfloat16: the merged checkpoint is the expert, bit for bit
    merged, theirs = tensors_of(tmp_path / "merged"), tensors_of(expert)
    assert all(torch.equal(merged[name], theirs[name]) for name in theirs)


def test_byte_counts_follow_from_the_written_formulas(base: Path, expert: Path, tmp_path: Path) -> None:
    manifest = compressed(base, expert, tmp_path / "delta", linear="rtn:bits=4", embedding="rtn:bits=8", head="dense")
    # [N, K] of q, k, v, o, gate, up, down; K is padded to blocks of 64, 4 bits each, and a float32 step per row
    linears = [(32, 32), (16, 32), (16, 32), (32, 32), (48, 32), (48, 32), (32, 48)]
    expected = 2 * sum(rows * (64 * 4 // 8 + 4) for rows, _ in linears)
    weights = 2 * sum(rows * width for rows, width in linears)
    assert manifest.nbytes.linears == expected
    assert manifest.nbytes.embedding == 40 * (64 + 4)
    assert manifest.nbytes.head == 40 * 32 * 4
    assert manifest.nbytes.exact == 5 * 32 * 4
    whole = expected + 40 * 68 + 40 * 32 * 4 + 5 * 32 * 4
    assert manifest.nbytes.whole == whole
    assert manifest.nbytes.full_model == 4 * (weights + 2 * 40 * 32 + 5 * 32)
    assert manifest.bits_per_weight["linears"] == pytest.approx(8 * expected / weights)
    assert load_expert(tmp_path / "delta", base_identity=None).nbytes == whole
    assert open_delta(tmp_path / "delta").read_bytes == (tmp_path / "delta" / "delta.safetensors").stat().st_size


def test_relative_norm_is_that_of_the_deltas(base: Path, expert: Path, tmp_path: Path) -> None:
    manifest = compressed(base, expert, tmp_path / "delta", linear="rtn:bits=4")
    ours, theirs = tensors_of(base), tensors_of(expert)
    names = [name for name in ours if name.endswith("proj.weight")]
    delta = torch.cat([(theirs[n] - ours[n]).flatten() for n in names]).norm()
    weights = torch.cat([ours[n].flatten() for n in names]).norm()
    assert manifest.relative_delta_norm["linear"] == pytest.approx(float(delta / weights), rel=1e-5)


def test_manifest_says_where_everything_came_from(base: Path, expert: Path, tmp_path: Path) -> None:
    (expert / "README.md").write_text("---\nlanguage: en\nlicense: mit\n---\n# Math\n")
    (expert / "LICENSE.txt").write_text("...")
    manifest = compressed(base, expert, tmp_path / "delta")
    assert manifest.base.identity == base_identity(base)
    assert manifest.base.name == "base"
    assert (manifest.expert.kind, manifest.expert.name) == ("checkpoint", "math")
    assert manifest.expert.licence.name == "mit"
    assert manifest.expert.licence.notices == ("LICENSE.txt",)
    assert manifest.base.licence.name is None
    assert manifest.calibration is None
    assert "no calibration texts" in manifest.selection
    assert manifest.layout == "interleaved-64/1"
    assert manifest.codecs["linear"].options["channels"] == 8


def test_codecs_that_pack_in_another_way_are_named_in_the_layout(base: Path, expert: Path, tmp_path: Path) -> None:
    manifest = compressed(base, expert, tmp_path / "delta", linear="sparse-sign:group=8")
    assert manifest.layout == "interleaved-64/1, sparse-sign-64/1"


def test_never_more_than_a_few_tensors_are_held(
    base: Path, expert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, peak = 0, 0
    read = Checkpoint.read

    def measured(self: Checkpoint, name: str) -> torch.Tensor:
        nonlocal held, peak
        tensor = read(self, name)
        size = tensor.untyped_storage().nbytes()
        held += size
        peak = max(peak, held)
        weakref.finalize(tensor.untyped_storage(), freed, size)
        return tensor

    def freed(size: int) -> None:
        nonlocal held
        held -= size

    monkeypatch.setattr(Checkpoint, "read", measured)
    compressed(base, expert, tmp_path / "delta")
    largest = max(t.numel() * t.element_size() for t in tensors_of(base).values())
    # one of the base and one of the expert
    assert largest <= peak <= 2 * largest
    assert peak < sum(t.numel() * t.element_size() for t in tensors_of(base).values()) / 4


def test_unrelated_model_is_refused_unless_forced(base: Path, tmp_path: Path) -> None:
    stranger = save_model(tmp_path / "stranger", tiny_config(), seed=5)
    with pytest.raises(WrongParentError, match=r"must be at most 0.7, got 1\.\d"):
        compressed(base, stranger, tmp_path / "delta")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["stranger"]
    manifest = compressed(base, stranger, tmp_path / "delta", force=True)
    assert manifest.relative_delta_norm["linear"] > 1


@pytest.mark.parametrize("force", [False, True])
def test_expert_with_the_weights_of_the_base_is_refused(base: Path, tmp_path: Path, force: bool) -> None:
    # the same tensors, in other files
    copy = tmp_path / "copy"
    AutoModelForCausalLM.from_pretrained(base).save_pretrained(copy, max_shard_size="20KB")
    for expert in (base, copy):
        with pytest.raises(CheckpointError, match=rf"the same weights as the base: .* got {re.escape(str(expert))}$"):
            compressed(base, expert, tmp_path / "delta", force=force)
    assert [p.name for p in tmp_path.iterdir()] == ["copy"]


def test_what_is_not_there_is_named_before_any_weight_is_read(
    base: Path, expert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compress, "open_pair", lambda *_, **__: pytest.fail("a checkpoint was opened"))
    nowhere = tmp_path / "nope"
    with pytest.raises(CheckpointError, match=r"^--base must be a directory on this machine, got .*nope$"):
        compressed(nowhere, expert, tmp_path / "delta")
    with pytest.raises(CheckpointError, match=r"^--expert must be a directory on this machine, got .*nope$"):
        compressed(base, nowhere, tmp_path / "delta")
    with pytest.raises(CheckpointError, match=r"nope cannot be read: no such file$"):
        compressed(base, expert, tmp_path / "delta", calibration=nowhere)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "error", "field"),
    [
        ({"rope_parameters": {"rope_theta": 5000.0, "rope_type": "default"}}, UnsupportedModelError, "rope_parameters"),
        ({"rms_norm_eps": 0.1}, UnsupportedModelError, "rms_norm_eps"),
        ({"hidden_act": "gelu"}, UnsupportedModelError, "hidden_act"),
        ({"hidden_size": 64}, ShapeMismatchError, "hidden_size"),
        ({"num_hidden_layers": 3}, ShapeMismatchError, "num_hidden_layers"),
        ({"model_type": "mistral"}, UnsupportedModelError, "model_type"),
        ({"model_type": "nonsense"}, UnsupportedModelError, "nonsense"),
        ({"quantization_config": {"quant_method": "gptq"}}, UnsupportedModelError, "quantised"),
    ],
)
def test_config_that_cannot_share_a_batch_is_refused_by_name(
    changes: dict[str, Any], error: type[Exception], field: str, base: Path, expert: Path, tmp_path: Path
) -> None:
    copy = fine_tune(base, tmp_path / "expert")
    edit_json(copy / "config.json", **changes)
    with pytest.raises(error, match=field):
        compressed(base, copy, tmp_path / "delta")
    assert not (tmp_path / "delta").exists()


def test_tensor_of_another_shape_is_refused_by_name(base: Path, tmp_path: Path) -> None:
    expert = fine_tune(base, tmp_path / "expert")
    name = "model.layers.1.mlp.up_proj.weight"
    edit_tensors(expert, lambda tensors: tensors.update({name: torch.zeros(48, 31)}))
    with pytest.raises(ShapeMismatchError, match=r"layers\.1\.mlp\.up_proj.* \[48, 32\], got \[48, 31\]"):
        compressed(base, expert, tmp_path / "delta")


def test_shrunk_vocabulary_is_refused(base: Path, tmp_path: Path) -> None:
    expert = fine_tune(base, tmp_path / "expert", vocabulary=39)
    with pytest.raises(ShapeMismatchError, match="embed_tokens"):
        compressed(base, expert, tmp_path / "delta")


def test_lost_shard_is_named(base: Path, tmp_path: Path) -> None:
    expert = fine_tune(base, tmp_path / "expert", max_shard_size="20KB")
    lost = sorted(expert.glob("*.safetensors"))[1]
    lost.unlink()
    with pytest.raises(MissingShardError, match=lost.name):
        compressed(base, expert, tmp_path / "delta")


def test_integer_weights_are_refused_as_quantised(base: Path, tmp_path: Path) -> None:
    expert = fine_tune(base, tmp_path / "expert")
    name = "model.layers.0.mlp.up_proj.weight"
    edit_tensors(expert, lambda tensors: tensors.update({name: torch.zeros(48, 32, dtype=torch.int8)}))
    with pytest.raises(UnsupportedModelError, match="already quantised"):
        compressed(base, expert, tmp_path / "delta")


def test_unknown_tensor_is_refused_by_name(base: Path, tmp_path: Path) -> None:
    expert = fine_tune(base, tmp_path / "expert")
    edit_tensors(expert, lambda tensors: tensors.update({"model.layers.0.adapter.weight": torch.zeros(2)}))
    with pytest.raises(UnsupportedModelError, match=r"layers\.0\.adapter"):
        compressed(base, expert, tmp_path / "delta")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(value: float, base: Path, tmp_path: Path) -> None:
    expert = fine_tune(base, tmp_path / "expert")
    name = "model.layers.1.mlp.down_proj.weight"
    edit_tensors(expert, lambda tensors: tensors[name].view(-1)[5:6].fill_(value))
    with pytest.raises(CheckpointError, match=name):
        compressed(base, expert, tmp_path / "delta", force=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["expert"]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"linear": "zip"}, UnknownCodecError),
        ({"linear": "rtn:bits=3"}, CodecOptionError),
        ({"embedding": "rtn:wings=2"}, CodecOptionError),
    ],
)
def test_wrong_codec_is_refused_before_any_file_is_read(
    options: dict[str, str], error: type[Exception], tmp_path: Path
) -> None:
    with pytest.raises(error):
        compressed(tmp_path / "none", tmp_path / "none", tmp_path / "delta", **options)


def test_existing_expert_is_replaced_only_when_asked(base: Path, expert: Path, tmp_path: Path) -> None:
    compressed(base, expert, tmp_path / "delta", linear="rtn:bits=4")
    with pytest.raises(ExpertNameError, match="exists"):
        compressed(base, expert, tmp_path / "delta", linear="rtn:bits=2")
    assert open_delta(tmp_path / "delta").manifest.codecs["linear"].options["bits"] == 4
    compressed(base, expert, tmp_path / "delta", linear="rtn:bits=2", replace=True)
    assert open_delta(tmp_path / "delta").manifest.codecs["linear"].options["bits"] == 2
    assert [p.name for p in tmp_path.iterdir()] == ["delta"]


def test_expert_that_another_process_made_meanwhile_is_not_replaced(
    base: Path, expert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = compress.check_parent

    def slow_check(*arguments: Any) -> None:
        monkeypatch.setattr(compress, "check_parent", check)
        compressed(base, expert, tmp_path / "delta", linear="dense")
        check(*arguments)

    monkeypatch.setattr(compress, "check_parent", slow_check)
    with pytest.raises(ExpertNameError, match="exists"):
        compressed(base, expert, tmp_path / "delta")
    assert open_delta(tmp_path / "delta").manifest.codecs["linear"].name == "dense"
    assert [path.name for path in tmp_path.iterdir()] == ["delta"]


def test_directory_of_the_user_is_never_replaced(base: Path, expert: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    with pytest.raises(ExpertNameError, match="neither"):
        compressed(base, expert, tmp_path / "thesis", replace=True)
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "years of work"
