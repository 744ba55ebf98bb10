"""The pocket model: a Llama of about two million parameters on bytes, and its checkpoint directory."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from meswitch.families.pocket.tokens import ANSWER, BOS, EOS, PAD, SPECIAL, VOCABULARY

__all__ = ["new_model", "pocket_config", "pocket_tokenizer", "save_checkpoint"]

MAX_POSITIONS = 2048


def pocket_config(*, hidden: int = 192, layers: int = 6, intermediate: int = 448) -> LlamaConfig:
    """The family's configuration; smaller sizes are for tests of the recipe. `hidden` is a multiple of 96."""
    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,
        num_key_value_heads=hidden // 96,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=True,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )


def new_model(config: LlamaConfig, seed: int) -> Any:
    """A `LlamaForCausalLM` with random float32 weights, the same for the same seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).float()


def pocket_tokenizer() -> PreTrainedTokenizerFast:
    """The byte tokenizer: `<bos>`, one token a byte, `<answer>`; generation ends with `<eos>`."""
    # the byte-level alphabet orders printable bytes first; ids are the bytes themselves
    alphabet = byte_characters()
    tokenizer = Tokenizer(models.BPE(vocab={char: byte for byte, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIAL])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <answer>", special_tokens=[("<bos>", BOS), ("<answer>", ANSWER)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        additional_special_tokens=["<answer>"],
        model_max_length=MAX_POSITIONS,
        padding_side="left",
    )


def byte_characters() -> list[str]:
    """The printable character that stands for each byte in a byte-level vocabulary."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    characters = {byte: chr(byte) for byte in printable}
    characters.update({byte: chr(256 + i) for i, byte in enumerate(others)})
    return [characters[byte] for byte in range(256)]


def save_checkpoint(model: Any, directory: Path, dtype: torch.dtype) -> None:
    """Write `model` in `dtype` and the tokenizer as a Hugging Face checkpoint; the model itself stays as it is."""
    copy = LlamaForCausalLM(model.config).to(dtype)
    copy.load_state_dict({name: tensor.to(dtype) for name, tensor in model.state_dict().items()})
    copy.generation_config.update(bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD)
    copy.save_pretrained(directory)
    pocket_tokenizer().save_pretrained(directory)
