"""Tiny checkpoints of real architectures, for the tests of compression. No test lives here."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM

ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3", "gemma", "phi")

SIZES: Mapping[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}

EXTRA: Mapping[str, Mapping[str, Any]] = {"gemma": {"head_dim": 8}, "qwen3": {"head_dim": 8}}


def tiny_config(kind: str = "llama", **changes: Any) -> Any:
    return AutoConfig.for_model(kind, **{**SIZES, **EXTRA.get(kind, {}), **changes})


def save_model(root: Path, config: Any, *, seed: int = 0, dtype: torch.dtype = torch.float32, **save: Any) -> Path:
    """A model with weights of a size that makes its logits differ."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
    model.to(dtype).save_pretrained(root, **save)
    save_tokenizer(root)
    return root


def fine_tune(
    base: Path,
    root: Path,
    *,
    seed: int = 1,
    size: float = 0.01,
    dtype: torch.dtype | None = None,
    vocabulary: int | None = None,
    change: Callable[[Any], None] | None = None,
    **save: Any,
) -> Path:
    """An expert: every weight of the base moved by noise of `size`, in an optionally larger vocabulary."""
    model = AutoModelForCausalLM.from_pretrained(base)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        if vocabulary is not None:
            model.resize_token_embeddings(vocabulary, mean_resizing=False)
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * size)
    if change is not None:
        change(model)
    model.to(dtype or model.dtype).save_pretrained(root, **save)
    save_tokenizer(root)
    return root


def save_tokenizer(root: Path) -> None:
    words = {"<pad>": 0, "<bos>": 1, "<eos>": 2, **{chr(ord("a") + i): i + 3 for i in range(26)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.save(str(root / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<eos>", "chat_template": "{{ messages }}"}
    (root / "tokenizer_config.json").write_text(json.dumps(settings))


def tensors_of(root: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint, read by the safetensors library."""
    found: dict[str, torch.Tensor] = {}
    for path in sorted(root.glob("*.safetensors")):
        found.update(load_file(path))
    return found


def logits_of(root: Path) -> torch.Tensor:
    """Logits of a checkpoint for a fixed input, as transformers computes them in float32."""
    model = AutoModelForCausalLM.from_pretrained(root, dtype=torch.float32).eval()
    with torch.inference_mode():
        return model(input_ids=torch.arange(24).view(2, 12)).logits


def edit_json(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text())
    content.update(changes)
    path.write_text(json.dumps(content))


def edit_tensors(root: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Rewrite the single file of a checkpoint after `change` edited its tensors."""
    tensors = load_file(root / "model.safetensors")
    change(tensors)
    save_file(tensors, root / "model.safetensors", metadata={"format": "pt"})
