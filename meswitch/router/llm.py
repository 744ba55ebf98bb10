"""The router that asks a small language model which of the lettered domains a query belongs to.

The distribution over experts is the softmax of the next token's logits at the letters. The options come first in
every prompt and never change, so their keys and values are computed once and reused by all queries.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, DynamicCache

from meswitch.architecture import describe, read_config
from meswitch.checkpoint import Checkpoint
from meswitch.errors import CapacityError, CheckpointError
from meswitch.expert_profile import ProfileReader
from meswitch.expert_source import is_tied
from meswitch.router.base import Query, Route
from meswitch.router.prompt import LETTERS, MAX_DOMAINS, NONE_LETTER, router_prompt
from meswitch.weights import whole_model_bytes

__all__ = ["LlmRouter"]


class LlmRouter:
    """Routes by a language model's next-token distribution over letters.

    Args:
        model: checkpoint directory of the router.
        domains: description of each expert's domain, in the order in which they are lettered.
        threshold: below this confidence the fallback answers.
        fallback: the expert that also answers what belongs to no domain.
        reuse_options: keep the keys and values of the options; `False` computes every prompt from its start.

    Raises:
        CapacityError: there are more domains than letters.
        CheckpointError: the directory holds no usable model with a tokenizer that has the letters.
    """

    def __init__(
        self,
        model: Path,
        *,
        domains: Mapping[str, str],
        threshold: float = 0.0,
        fallback: str,
        reuse_options: bool = True,
    ) -> None:
        if len(domains) > MAX_DOMAINS:
            raise CapacityError(
                f"a router can tell at most {MAX_DOMAINS} domains apart, got {len(domains)}; list fewer"
            )
        self._domains = dict(domains)
        self._threshold = threshold
        self._fallback = fallback
        self._tokenizer = ProfileReader(model).read(model).tokenizer
        if self._tokenizer is None:
            raise CheckpointError(f"{model} holds no tokenizer; a router needs the one it was trained with")
        self._model, self.nbytes = _load(model)
        self._longest: int = self._model.config.max_position_embeddings
        self._experts = list(router_prompt(self._domains, "").experts.values())
        letters = [*LETTERS[: len(self._domains)], NONE_LETTER]
        self._letter_ids = torch.tensor([_single_id(self._tokenizer, letter) for letter in letters])
        self._options = self._shared_options() if reuse_options else []
        self._kept = self._compute_options()

    @property
    def kv_bytes(self) -> int:
        """Bytes of the options' keys and values."""
        return sum(t.numel() * t.element_size() for layer in self._kept for t in layer)

    def route(self, queries: Sequence[Query]) -> Sequence[Route]:
        """The likeliest expert of each query.

        The fallback answers below the threshold, for "none of these", and, with confidence 0, what is too long to ask.
        """
        prompts = [self._tokens(query.text) for query in queries]
        short = [prompt for prompt in prompts if len(prompt) <= self._longest]
        distributions = iter(self._distributions(short) if short else ())
        unasked = Route(expert=self._fallback, confidence=0.0)
        return [self._decide(next(distributions)) if len(p) <= self._longest else unasked for p in prompts]

    def probabilities(self, texts: Sequence[str]) -> torch.Tensor:
        """The distribution over domains in their order, then "none of these": `[M, domains + 1]` float32."""
        return self._distributions([self._tokens(text) for text in texts])

    @torch.inference_mode()
    def _distributions(self, prompts: Sequence[list[int]]) -> torch.Tensor:
        start = min([len(self._options), *(_common(self._options, p) for p in prompts)])
        # the last token is always computed anew: its logits are the answer
        start = min([start, *(len(p) - 1 for p in prompts)])
        rests = [prompt[start:] for prompt in prompts]
        # padding comes after the query, and a causal model cannot look ahead
        widest = max(len(rest) for rest in rests)
        token_ids = torch.tensor([rest + [0] * (widest - len(rest)) for rest in rests])
        out = self._model(input_ids=token_ids, past_key_values=self._past(start, len(rests)), use_cache=True)
        last = torch.tensor([len(rest) - 1 for rest in rests])
        logits = out.logits[torch.arange(len(rests)), last]
        return torch.softmax(logits[:, self._letter_ids].float(), dim=-1)

    def _decide(self, probabilities: torch.Tensor) -> Route:
        confidence, index = (x.item() for x in probabilities.max(dim=-1))
        expert = self._experts[int(index)]
        if expert is None or confidence < self._threshold:
            expert = self._fallback
        return Route(expert=expert, confidence=float(confidence))

    def _tokens(self, text: str) -> list[int]:
        # what is no Unicode has a route like all else: the expert's own tokenizer says what is wrong with it
        readable = text.encode(errors="replace").decode()
        ids: list[int] = self._tokenizer(router_prompt(self._domains, readable).text)["input_ids"]
        return ids

    def _shared_options(self) -> list[int]:
        # two queries that share no character: what their prompts have in common cannot depend on a query, even
        # where a tokenizer would merge the options' last characters with the query's first
        first, second = self._tokens("a"), self._tokens("7")
        return first[: _common(first, second)]

    @torch.inference_mode()
    def _compute_options(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        if not self._options:
            return []
        past = DynamicCache()
        self._model(input_ids=torch.tensor([self._options]), past_key_values=past, use_cache=True)
        return [(layer.keys, layer.values) for layer in past.layers]

    def _past(self, length: int, rows: int) -> DynamicCache:
        past = DynamicCache()
        for i, (keys, values) in enumerate(self._kept if length else ()):
            past.update(keys[:, :, :length].expand(rows, -1, -1, -1), values[:, :, :length].expand(rows, -1, -1, -1), i)
        return past


def _load(root: Path) -> tuple[Any, int]:
    config = read_config(root)
    architecture = describe(config)
    tied = is_tied(Checkpoint(root), config, architecture)
    nbytes = whole_model_bytes(root, architecture=architecture, tied=tied)
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            root,
            dtype=torch.float32,
            attn_implementation="sdpa",
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError) as cause:
        raise CheckpointError(f"router {root} cannot be loaded: {str(cause).strip().splitlines()[0]}") from cause
    if missing := sorted(info["missing_keys"]):
        raise CheckpointError(f"router {root} lacks tensor {missing[0]}")
    return model.eval().requires_grad_(False), nbytes


def _single_id(tokenizer: Any, letter: str) -> int:
    ids: list[int] = tokenizer(letter, add_special_tokens=False)["input_ids"]
    if len(ids) != 1:
        raise CheckpointError(f"a router's tokenizer must have every letter as one token, {letter!r} takes {len(ids)}")
    return ids[0]


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return min(len(a), len(b))
