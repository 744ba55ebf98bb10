"""What a task is: a generator of problems with exact answers, split so that no test prompt is ever trained on."""

import hashlib
import random
from dataclasses import dataclass
from typing import Literal, Protocol

__all__ = ["Problem", "Split", "Task", "split_of"]

Split = Literal["train", "test"]

TEST_SHARE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One problem: the prompt as a user would type it, and its exact answer."""

    task: str
    prompt: str
    answer: str


class Task(Protocol):
    """A domain with exact answers."""

    @property
    def name(self) -> str:
        """How the task is called, everywhere."""

    @property
    def description(self) -> str:
        """A few words, as a router reads them."""

    @property
    def verifier(self) -> str:
        """Name of the verifier in `workloads.verifiers`."""

    def sample(self, rng: random.Random) -> Problem:
        """One random problem, of either split."""


def split_of(prompt: str) -> Split:
    """The split a prompt belongs to: a property of its own hash, so the two sets are disjoint by construction."""
    digest = hashlib.blake2b(prompt.encode(), digest_size=8).digest()
    return "test" if int.from_bytes(digest) < TEST_SHARE * 2**64 else "train"
