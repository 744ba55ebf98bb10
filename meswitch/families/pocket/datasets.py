"""Training rows of the base, of each expert and of the router, as arrays; the same for the same seed."""

import random

import numpy as np
from numpy.typing import NDArray

from meswitch.families.pocket.corpus import corpus_document
from meswitch.families.pocket.routing_data import DESCRIPTIONS, routing_pairs
from meswitch.families.pocket.tokens import ANSWER, BOS, EOS, PAD, encode_pairs
from workloads.tasks import get_task, sample_split

__all__ = ["Arrays", "corpus_arrays", "routing_arrays", "task_arrays"]

Arrays = tuple[NDArray[np.int16], NDArray[np.int16]]
"""Token ids `[rows, T]` and where each row's target begins `[rows]`."""

ROW_LENGTHS = (64, 80, 120, 320)
"""Rows are padded to one of these, so that few shapes are compiled."""


def fitting_length(pairs: list[tuple[str, str]]) -> int:
    """The smallest row length that holds every pair and its three special tokens."""
    need = max(len(prompt.encode()) + len(answer.encode()) for prompt, answer in pairs) + 3
    return next(length for length in ROW_LENGTHS if length >= need)


def task_arrays(task: str, count: int, seed: int) -> Arrays:
    """`count` training problems of `task`, none of them a test problem."""
    pairs = [(p.prompt, p.answer) for p in sample_split(get_task(task), "train", count, seed)]
    return encode_pairs(pairs, fitting_length(pairs))


def routing_arrays(count: int, seed: int) -> Arrays:
    """`count` routing questions over training problems."""
    each = max(1, count // 20)
    problems = [p for name in DESCRIPTIONS for p in sample_split(get_task(name), "train", each, seed)]
    pairs = routing_pairs(problems, count, seed)
    return encode_pairs(pairs, fitting_length(pairs))


def corpus_arrays(count: int, length: int, seed: int) -> Arrays:
    """`count` rows of `length` tokens of generic documents, one after the other; every token is a target."""
    rng = random.Random(f"corpus/{seed}")
    ids = np.full((count, length), PAD, dtype=np.int16)
    for row in range(count):
        line: list[int] = []
        while len(line) < length:
            text, answer = corpus_document(rng)
            line += [BOS, *text.encode()]
            line += [EOS] if answer is None else [ANSWER, *answer.encode(), EOS]
        ids[row] = line[:length]
    return ids, np.ones(count, dtype=np.int16)
