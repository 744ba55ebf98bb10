"""The image of a whole model holds its checkpoint's tensors where the layout says, or none at all."""

from pathlib import Path

import pytest
import torch

from meswitch.cuda.whole_image import WholeImageSource
from meswitch.cuda.whole_layout import WholeWeights, whole_layout
from meswitch.errors import CheckpointError, UnsupportedModelError
from tests.meswitch.checkpoints import edit_tensors, fine_tune, tensors_of
from tests.meswitch.cuda.delta_experts import make_base, shape_of


def filled(source: WholeImageSource) -> torch.Tensor:
    image = torch.full((source.nbytes,), 0xAB, dtype=torch.uint8)
    source.fill(image)
    return image


@pytest.mark.parametrize(("kind", "tied"), [("llama", False), ("qwen2", False), ("qwen3", False), ("llama", True)])
@pytest.mark.parametrize("direct", [False, True])
def test_an_image_holds_the_checkpoints_tensors(kind: str, tied: bool, direct: bool, tmp_path: Path) -> None:
    root = make_base(tmp_path / "base", kind, tie_word_embeddings=tied, head_dim=16)
    layout = whole_layout(shape_of(root, tied=tied), torch.bfloat16)
    source = WholeImageSource(root, layout, direct=direct)
    weights, tensors = WholeWeights(layout, filled(source)), tensors_of(root)
    assert source.read_bytes == (root / "model.safetensors").stat().st_size
    prefix, layer = "model.layers.1", weights.layers[1]
    stacked = [tensors[f"{prefix}.self_attn.{name}_proj.weight"] for name in "qkv"]
    assert torch.equal(layer.qkv, torch.cat(stacked))
    assert torch.equal(layer.gate_up, torch.cat([tensors[f"{prefix}.mlp.{x}_proj.weight"] for x in ("gate", "up")]))
    assert torch.equal(layer.down, tensors[f"{prefix}.mlp.down_proj.weight"])
    assert torch.equal(layer.o, tensors[f"{prefix}.self_attn.o_proj.weight"])
    assert torch.equal(layer.post_norm, tensors[f"{prefix}.post_attention_layernorm.weight"].float())
    assert torch.equal(weights.embedding, tensors["model.embed_tokens.weight"])
    assert torch.equal(weights.final_norm, tensors["model.norm.weight"].float())
    assert torch.equal(weights.head, tensors["model.embed_tokens.weight" if tied else "lm_head.weight"])
    if kind == "qwen2":
        assert layer.qkv_bias is not None
        biases = [tensors[f"{prefix}.self_attn.{name}_proj.bias"].float() for name in "qkv"]
        assert torch.equal(layer.qkv_bias, torch.cat(biases))
    if kind == "qwen3":
        assert layer.q_norm is not None
        assert torch.equal(layer.q_norm, tensors[f"{prefix}.self_attn.q_norm.weight"].float())


def test_matrices_of_another_dtype_are_converted(tmp_path: Path) -> None:
    root = make_base(tmp_path / "base")
    layout = whole_layout(shape_of(root), torch.float32)
    weights = WholeWeights(layout, filled(WholeImageSource(root, layout)))
    assert torch.equal(weights.head, tensors_of(root)["lm_head.weight"].float())


def test_shards_are_read_one_after_the_other(tmp_path: Path) -> None:
    single = make_base(tmp_path / "single")
    sharded = fine_tune(single, tmp_path / "sharded", size=0.0, max_shard_size="40KB")
    assert len(list(sharded.glob("*.safetensors"))) > 2
    layout = whole_layout(shape_of(single), torch.bfloat16)
    assert torch.equal(filled(WholeImageSource(sharded, layout)), filled(WholeImageSource(single, layout)))


def test_a_model_of_another_vocabulary_is_refused(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    grown = fine_tune(base, tmp_path / "grown", vocabulary=42)
    with pytest.raises(UnsupportedModelError, match=r"embed_tokens.weight must have .* \[40, 64\], got \[42, 64\]"):
        WholeImageSource(grown, whole_layout(shape_of(base), torch.bfloat16))


def test_a_quantised_model_is_refused(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    edit_tensors(base, lambda tensors: tensors.update({"lm_head.weight": tensors["lm_head.weight"].to(torch.int8)}))
    with pytest.raises(UnsupportedModelError, match=r"lm_head.weight is torch.int8, already quantised"):
        WholeImageSource(base, whole_layout(shape_of(base), torch.bfloat16))


def test_a_checkpoint_that_changed_or_shrank_since_is_refused(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    source = WholeImageSource(base, whole_layout(shape_of(base), torch.bfloat16))
    edit_tensors(base, lambda tensors: tensors.update({"model.norm.weight": tensors["model.norm.weight"][1:]}))
    with pytest.raises(CheckpointError, match="must not change while the engine runs"):
        filled(source)
    edit_tensors(base, lambda tensors: tensors.pop("model.norm.weight"))
    with pytest.raises(CheckpointError, match="must not change while the engine runs"):
        filled(source)
    file = base / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match="truncated"):
        filled(source)
