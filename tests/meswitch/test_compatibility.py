"""What may differ between an expert's config and its base's, and what may not."""

import json
from pathlib import Path
from typing import Any

import pytest

from meswitch.architecture import read_config
from meswitch.compatibility import check_compatible
from meswitch.errors import ShapeMismatchError, UnsupportedModelError
from tests.meswitch.checkpoints import tiny_config


@pytest.mark.parametrize(
    "changes",
    [
        {"vocab_size": 48},
        {"eos_token_id": [2, 5]},
        {"bos_token_id": 3, "pad_token_id": None},
        {"tie_word_embeddings": True},
        {"dtype": "bfloat16"},
        {"use_cache": False},
        {"attention_dropout": 0.1},
        {"initializer_range": 0.5},
        {"max_position_embeddings": 4096},
        {"architectures": ["Something"]},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_differences_that_a_batch_can_mix_are_accepted(changes: dict[str, Any]) -> None:
    check_compatible(tiny_config(), tiny_config(**changes))


@pytest.mark.parametrize(
    ("kind", "changes", "error"),
    [
        ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 7.0}}, UnsupportedModelError),
        (
            "llama",
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}},
            UnsupportedModelError,
        ),
        ("mistral", {"sliding_window": 8}, UnsupportedModelError),
        ("gemma2", {"final_logit_softcapping": 10.0}, UnsupportedModelError),
        ("gemma2", {"attn_logit_softcapping": None}, UnsupportedModelError),
        ("llama", {"rms_norm_eps": 1e-5}, UnsupportedModelError),
        ("llama", {"hidden_act": "relu"}, UnsupportedModelError),
        ("llama", {"attention_bias": True}, UnsupportedModelError),
        ("llama", {"a_field_of_next_year": 1}, UnsupportedModelError),
        ("llama", {"hidden_size": 64}, ShapeMismatchError),
        ("llama", {"intermediate_size": 64}, ShapeMismatchError),
        ("llama", {"num_hidden_layers": 1}, ShapeMismatchError),
        ("llama", {"num_key_value_heads": 4}, ShapeMismatchError),
        ("qwen3", {"head_dim": 16}, ShapeMismatchError),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_differences_that_a_batch_cannot_mix_are_refused_by_the_fields_name(
    kind: str, changes: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error, match=f"must have the base's {next(iter(changes))}"):
        check_compatible(tiny_config(kind), tiny_config(kind, **changes))


def test_longest_position_matters_where_the_rotation_depends_on_it() -> None:
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    base = tiny_config(rope_parameters=dict(rope))
    with pytest.raises(UnsupportedModelError, match="max_position_embeddings"):
        check_compatible(base, tiny_config(rope_parameters=dict(rope), max_position_embeddings=4096))


def test_another_kind_of_model_is_refused_before_its_sizes() -> None:
    with pytest.raises(UnsupportedModelError, match="model_type, 'llama', got 'mistral'"):
        check_compatible(tiny_config(), tiny_config("mistral", hidden_size=64))


OLD_FORMATS: dict[str, dict[str, Any]] = {
    "llama": {"rope_theta": 10000.0, "rope_scaling": None, "torch_dtype": "float16", "pretraining_tp": 1},
    "llama with scaled rope": {
        "model_type": "llama",
        "rope_theta": 500000.0,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 64,
        },
    },
    "mistral": {"rope_theta": 10000.0, "sliding_window": 4096, "torch_dtype": "bfloat16"},
    "qwen2": {"rope_theta": 1e6, "use_sliding_window": False, "sliding_window": 32, "max_window_layers": 28},
    "gemma": {"rope_theta": 10000.0, "hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh"},
}


@pytest.mark.parametrize("kind", OLD_FORMATS)
def test_expert_saved_by_a_newer_transformers_than_its_base_is_accepted(kind: str, tmp_path: Path) -> None:
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    content = {"model_type": kind, "transformers_version": "4.31.0", **sizes, **OLD_FORMATS[kind]}
    (tmp_path / "config.json").write_text(json.dumps(content))
    base = read_config(tmp_path)
    base.save_pretrained(tmp_path / "saved")
    saved = (tmp_path / "saved" / "config.json").read_text()
    assert "rope_parameters" in saved
    check_compatible(base, read_config(tmp_path / "saved"))
