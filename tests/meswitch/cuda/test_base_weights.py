"""The base's image holds each tensor of its checkpoint where the layout says, and refuses what does not fit."""

from pathlib import Path
from typing import Any

import pytest
import torch

from meswitch.cuda.base_weights import random_base, read_base
from meswitch.cuda.decoder_shape import decoder_shape
from meswitch.cuda.whole_layout import WholeLayout, whole_layout
from meswitch.errors import MissingShardError, ShapeMismatchError, UnsupportedModelError
from tests.meswitch.checkpoints import edit_tensors, save_model, tensors_of, tiny_config

CPU = torch.device("cpu")


def config_of(kind: str, **changes: Any) -> Any:
    sizes = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "tie_word_embeddings": False}
    return tiny_config(kind, **{**sizes, **changes})


def layout_of(config: Any, *, tied: bool = False, dtype: torch.dtype = torch.float32) -> WholeLayout:
    return whole_layout(decoder_shape(config, tied=tied), dtype)


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3"])
def test_layers_hold_the_checkpoints_tensors_with_those_of_one_input_stacked(kind: str, tmp_path: Path) -> None:
    config = config_of(kind)
    save_model(tmp_path, config)
    weights, stored = read_base(tmp_path, layout_of(config), CPU), tensors_of(tmp_path)
    assert weights.embedding.equal(stored["model.embed_tokens.weight"])
    assert weights.head.equal(stored["lm_head.weight"])
    assert weights.final_norm.equal(stored["model.norm.weight"])
    assert len(weights.layers) == 2
    for number, layer in enumerate(weights.layers):
        own = {n.removeprefix(f"model.layers.{number}."): t for n, t in stored.items()}
        assert layer.qkv.equal(torch.cat([own[f"self_attn.{p}_proj.weight"] for p in "qkv"]))
        assert layer.gate_up.equal(torch.cat([own[f"mlp.{p}_proj.weight"] for p in ("gate", "up")]))
        assert layer.o.equal(own["self_attn.o_proj.weight"])
        assert layer.down.equal(own["mlp.down_proj.weight"])
        assert layer.input_norm.equal(own["input_layernorm.weight"])
        assert layer.post_norm.equal(own["post_attention_layernorm.weight"])
        if kind == "qwen2":
            assert layer.qkv_bias is not None
            assert layer.qkv_bias.equal(torch.cat([own[f"self_attn.{p}_proj.bias"] for p in "qkv"]))
        if kind == "qwen3":
            assert layer.q_norm is not None
            assert layer.q_norm.equal(own["self_attn.q_norm.weight"])


def test_a_tied_head_is_the_embedding_and_takes_no_bytes_of_its_own(tmp_path: Path) -> None:
    config = config_of("llama", tie_word_embeddings=True)
    save_model(tmp_path, config)
    weights = read_base(tmp_path, layout_of(config, tied=True), CPU)
    assert weights.head.data_ptr() == weights.embedding.data_ptr()
    # a table of 40 x 32 float32, which is a multiple of the alignment
    assert layout_of(config).nbytes - weights.nbytes == 4 * 40 * 32


def test_matrices_are_converted_and_norms_stay_float32(tmp_path: Path) -> None:
    config = config_of("llama")
    save_model(tmp_path, config)
    weights, stored = read_base(tmp_path, layout_of(config, dtype=torch.bfloat16), CPU), tensors_of(tmp_path)
    assert weights.layers[1].o.equal(stored["model.layers.1.self_attn.o_proj.weight"].bfloat16())
    assert weights.final_norm.dtype is torch.float32
    assert weights.final_norm.equal(stored["model.norm.weight"])


def test_a_weight_beyond_float16_is_refused_and_bfloat16_takes_it(tmp_path: Path) -> None:
    config = config_of("llama")
    save_model(tmp_path, config)
    edit_tensors(tmp_path, lambda tensors: tensors["model.layers.0.mlp.down_proj.weight"].fill_(1e5))
    with pytest.raises(UnsupportedModelError, match=r"down_proj\.weight has weights beyond the range of float16"):
        read_base(tmp_path, layout_of(config, dtype=torch.float16), CPU)
    weights = read_base(tmp_path, layout_of(config, dtype=torch.bfloat16), CPU)
    assert weights.layers[0].down.float().max().item() == pytest.approx(1e5, rel=2**-8)


def test_a_checkpoint_of_another_size_is_refused_by_name(tmp_path: Path) -> None:
    save_model(tmp_path, config_of("llama", intermediate_size=64))
    with pytest.raises(ShapeMismatchError, match=r"gate_proj\.weight must have shape \(48, 32\), got \(64, 32\)"):
        read_base(tmp_path, layout_of(config_of("llama")), CPU)


def test_a_missing_tensor_is_refused_by_name(tmp_path: Path) -> None:
    config = config_of("llama")
    save_model(tmp_path, config)
    edit_tensors(tmp_path, lambda tensors: tensors.__delitem__("model.norm.weight"))
    with pytest.raises(MissingShardError, match=r"model\.norm\.weight"):
        read_base(tmp_path, layout_of(config), CPU)


def test_a_random_base_is_seeded_has_norms_of_one_biases_of_zero_and_matrices_of_small_spread() -> None:
    layout = layout_of(config_of("qwen2", vocab_size=1000))
    one, same, other = (random_base(layout, seed=seed, device=CPU) for seed in (0, 0, 1))
    assert one.memory.equal(same.memory)
    assert not one.memory.equal(other.memory)
    layer = one.layers[1]
    assert layer.qkv_bias is not None
    assert layer.qkv_bias.eq(0).all()
    assert layer.post_norm.eq(1).all()
    assert one.final_norm.eq(1).all()
    # 32,000 draws: 4 standard errors of a standard deviation are 4 / sqrt(2 n) of it
    assert one.head.std().item() == pytest.approx(0.02, rel=4 / (2 * 32_000) ** 0.5)
    assert one.head.mean().item() == pytest.approx(0.0, abs=4 * 0.02 / 32_000**0.5)
