"""The pocket family's vocabulary: one token a byte, and four special ones."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["ANSWER", "BOS", "EOS", "PAD", "SPECIAL", "VOCABULARY", "encode_pairs", "encode_prompt"]

BOS, ANSWER, EOS, PAD = 256, 257, 258, 259

SPECIAL = {"<bos>": BOS, "<answer>": ANSWER, "<eos>": EOS, "<pad>": PAD}

VOCABULARY = 260


def encode_prompt(prompt: str) -> list[int]:
    """The token ids that the family's tokenizer gives for `prompt`: `<bos>`, its bytes, `<answer>`."""
    return [BOS, *prompt.encode(), ANSWER]


def encode_pairs(pairs: Sequence[tuple[str, str]], length: int) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
    """Training rows of (prompt, answer) pairs: ids `[rows, length]`, padded right, and where each answer starts.

    Raises:
        ValueError: if a pair takes more than `length` tokens.
    """
    ids = np.full((len(pairs), length), PAD, dtype=np.int16)
    starts = np.empty(len(pairs), dtype=np.int16)
    for row, (prompt, answer) in enumerate(pairs):
        head = encode_prompt(prompt)
        line = [*head, *answer.encode(), EOS]
        if len(line) > length:
            raise ValueError(f"a pair must take at most {length} tokens, got {len(line)}: {prompt!r}")
        ids[row, : len(line)] = line
        starts[row] = len(head)
    return ids, starts
