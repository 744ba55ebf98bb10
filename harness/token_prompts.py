"""Prompts of a known length and no meaning: token ids drawn from the seed, for traces that record lengths alone."""

from dataclasses import dataclass

import numpy as np

from workloads.trace import TraceRequest

__all__ = ["BYTES_PER_TOKEN", "TokenPrompts"]

BYTES_PER_TOKEN = 4
"""How many bytes of a text count as one token where there is no tokenizer: that of English in common vocabularies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenPrompts:
    """Where drawn prompts come from.

    Attributes:
        vocabulary: ids are at least 0 and below it.
        replaces_text: texts become drawn tokens too, for models that have no tokenizer.
        seed: of all ids; each request draws from a stream of its own.
    """

    vocabulary: int
    replaces_text: bool = False
    seed: int = 0

    def length(self, item: TraceRequest) -> int | None:
        """Tokens to draw for a request; `None` for one that brings its own input."""
        if item.input_length is not None:
            return item.input_length
        if not self.replaces_text or item.token_ids is not None:
            return None
        text = item.prompt if item.prompt is not None else "".join(m.get("content", "") for m in item.messages or ())
        return max(len(text.encode()) // BYTES_PER_TOKEN, 1)

    def draw(self, index: int, length: int) -> tuple[int, ...]:
        """The ids of the request at `index`: the same for the same seed, index and length."""
        ids = np.random.default_rng([self.seed, index]).integers(self.vocabulary, size=length)
        return tuple(ids.tolist())
