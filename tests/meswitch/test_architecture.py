"""Which parameters are what, in every architecture we claim, and which architectures are refused by name."""

from pathlib import Path
from typing import Any

import pytest

from meswitch.architecture import ParameterKind, describe, read_config
from meswitch.errors import UnsupportedModelError
from tests.meswitch.checkpoints import ARCHITECTURES, tiny_config

LINEARS = {
    "llama": {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"},
    "mistral": {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"},
    "qwen2": {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"},
    "qwen3": {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"},
    "gemma": {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"},
    "phi": {"q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"},
}


@pytest.mark.parametrize("kind", ARCHITECTURES)
@pytest.mark.parametrize("tied", [True, False])
def test_parameters_are_told_apart_in_every_architecture(kind: str, tied: bool) -> None:
    architecture = describe(tiny_config(kind, tie_word_embeddings=tied))
    linears = architecture.of_kind(ParameterKind.LINEAR)
    assert {p.name.split(".")[-2] for p in linears} == LINEARS[kind]
    assert len(linears) == 2 * len(LINEARS[kind])
    assert (architecture.embedding, architecture.head) == ("model.embed_tokens.weight", "lm_head.weight")
    assert all(len(p.shape) == 1 for p in architecture.of_kind(ParameterKind.EXACT))
    names = [p.name for p in architecture.parameters]
    assert len(names) == len(set(names))
    assert names[0] == architecture.embedding


@pytest.mark.parametrize(
    ("kind", "changes", "culprit"),
    [
        ("phi3", {}, "qkv_proj.weight fuses"),
        ("gpt_neox", {}, "query_key_value.weight fuses"),
        ("gpt2", {"n_embd": 32, "n_layer": 1, "n_head": 2}, "c_attn.weight fuses"),
        ("mixtral", {"num_local_experts": 2}, "3 dimensions"),
        ("qwen3_moe", {"num_experts": 2, "moe_intermediate_size": 16, "head_dim": 8}, "3 dimensions"),
        ("opt", {"ffn_dim": 32}, "embed_positions"),
        ("bert", {}, "causal language model|bert"),
    ],
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_architectures_that_are_not_handled_are_refused_by_name(
    kind: str, changes: dict[str, Any], culprit: str
) -> None:
    with pytest.raises(UnsupportedModelError, match=culprit):
        describe(tiny_config(kind, **changes))


def test_conv1d_is_refused_although_its_name_says_nothing() -> None:
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    from meswitch.architecture import classify

    layer = Conv1D(4, 8)
    with pytest.raises(UnsupportedModelError, match="belongs to a Conv1D"):
        classify("h.0.mlp.up.weight", layer.weight, layer, nn.Embedding(2, 4), nn.Linear(4, 2))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{}", "not a config that transformers knows"),
        ('{"model_type": "t5"}', "t5|causal"),
        ("{", "not a config"),
        ('{"model_type": "llama", "quantization_config": {"quant_method": "gptq", "bits": 4}}', "already quantised"),
    ],
)
def test_config_that_cannot_be_used_is_refused(content: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UnsupportedModelError, match=reason):
        describe(read_config(tmp_path))
