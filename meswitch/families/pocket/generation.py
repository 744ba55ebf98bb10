"""Greedy answers of a whole batch of prompts."""

from collections.abc import Sequence
from typing import Any

import torch

from meswitch.families.pocket.forward import KeyValues, decode_step
from meswitch.families.pocket.tokens import EOS, PAD, encode_prompt

__all__ = ["greedy_answers", "greedy_tokens", "next_token_logits"]

KEPT_SHARE = 0.75
"""Finished rows leave the batch when fewer than this share of its rows still go on."""


def prefill(
    model: Any, rows: Sequence[Sequence[int]], capacity: int, *, pad: int
) -> tuple[torch.Tensor, KeyValues, torch.Tensor]:
    """Logits after each prompt `[B, vocabulary]`, the cache, and how many pads precede each prompt `[B]`."""
    width, device = max(map(len, rows)), model.lm_head.weight.device
    ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in rows], device=device)
    pads = torch.tensor([width - len(row) for row in rows], device=device)
    config = model.config
    size = config.hidden_size // config.num_attention_heads
    shape = (config.num_hidden_layers, len(rows), config.num_key_value_heads, width + capacity, size)
    empty = torch.zeros(shape, device=device, dtype=model.lm_head.weight.dtype)
    cache = KeyValues(empty, empty.clone())
    columns = torch.arange(width, device=device)
    positions = (columns[None] - pads[:, None]).clamp(min=0)
    # a pad sees itself, so that its softmax has something to sum over; nothing else sees a pad
    visible = (columns[None, None] <= columns[None, :, None]) & (columns[None, None] >= pads[:, None, None])
    visible |= torch.eye(width, dtype=torch.bool, device=device)[None]
    return decode_step(model, ids, positions, cache, visible[:, None]), cache, pads


@torch.no_grad()
def next_token_logits(model: Any, prompts: Sequence[str]) -> torch.Tensor:
    """Logits of the token that follows each prompt, `[B, vocabulary]` float32."""
    return prefill(model, [encode_prompt(prompt) for prompt in prompts], 0, pad=PAD)[0].float()


def greedy_answers(model: Any, prompts: Sequence[str], *, max_tokens: int = 48) -> list[str]:
    """The most likely answer to each prompt, byte by byte, up to `<eos>` or `max_tokens`."""
    rows = [encode_prompt(prompt) for prompt in prompts]
    return [text_of(row) for row in greedy_tokens(model, rows, max_tokens=max_tokens, end=EOS, pad=PAD)]


@torch.no_grad()
def greedy_tokens(
    model: Any, prompts: Sequence[Sequence[int]], *, max_tokens: int, end: int, pad: int = 0
) -> list[list[int]]:
    """The most likely tokens after the tokens of each prompt, up to and without `end`, at most `max_tokens`.

    Args:
        model: a `LlamaForCausalLM`.
        pad: what fills up shorter prompts; nothing ever looks at it.
    """
    logits, cache, pads = prefill(model, prompts, max_tokens, pad=pad)
    produced = torch.full((len(prompts), max_tokens), end, device=logits.device)
    rows = torch.arange(len(prompts), device=logits.device)
    for place in range(max_tokens):
        token = logits.argmax(dim=-1)
        produced[rows, place] = token
        going = token != end
        if not going.any() or place == max_tokens - 1:
            break
        # what a closed row still produces is cut off below; dropping such rows now and then saves their work
        if going.float().mean() < KEPT_SHARE:
            rows, token, pads = rows[going], token[going], pads[going]
            cache.keys, cache.values = cache.keys[:, going], cache.values[:, going]
        columns = torch.arange(cache.used + 1, device=logits.device)
        visible = (columns[None] >= pads[:, None])[:, None, None]
        logits = decode_step(model, token[:, None], (cache.used - pads)[:, None], cache, visible)
    return [row[: row.index(end)] if end in row else row for row in produced.tolist()]


def text_of(ids: Sequence[int]) -> str:
    """The text of generated `ids`, up to the first special token."""
    end = next((i for i, token in enumerate(ids) if token > 255), len(ids))
    return bytes(ids[:end]).decode(errors="replace")
