"""Subjects of a family that is on the disk with its experts, as the bundled pocket family is."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from harness.errors import UsageError
from harness.fidelity.subject import Subject, take_weights
from meswitch.families import load_family, materialise
from meswitch.families.checkpoints import family_hash
from meswitch.families.smollm2.rows import Encoded
from workloads.tasks import Problem, get_task, sample_split

__all__ = ["DiskFamily"]


class DiskFamily:
    """Makes subjects of a family's experts; they share one model.

    Raises:
        FamilyError: the family is unknown or damaged.
    """

    def __init__(
        self, name: str, home: Path, *, device: str, n: int, n_held_out: int, report: Callable[[str], None]
    ) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.family = load_family(name)
        report("preparing the family")
        self.places = materialise(self.family, home)
        self.hash = family_hash(self.family)
        self.counts = {"n": n, "held": n_held_out}
        self.device = device
        self.tokenizer = AutoTokenizer.from_pretrained(self.places.base)
        self.model = AutoModelForCausalLM.from_pretrained(self.places.base, dtype=torch.float32).to(device)
        self.base = {name: p.detach().clone() for name, p in self.model.named_parameters()}

    @property
    def experts(self) -> tuple[str, ...]:
        """The experts' names, which stand for their tasks."""
        return tuple(self.family.experts)

    def subject(self, task: str, seed: int) -> Subject:
        """An expert with problems of its task; `model` holds its weights afterwards.

        Raises:
            UsageError: there is no such expert, or its tokenizer is not one whose prompts end where answers begin.
        """
        from safetensors.torch import load_file

        if task not in self.family.experts:
            raise UsageError(f"task must be one of {', '.join(self.experts)}, got {task!r}")
        known = get_task(self.family.experts[task].task)
        weights = dict(load_file(self.places.experts[task] / "model.safetensors", device=self.device))
        weights = {name: weights[name].to(torch.float32) for name in self.base}
        take_weights(self.model, weights)
        held = sample_split(known, "test", self.counts["n"] + self.counts["held"], seed)
        return Subject(
            family=self.family.name,
            task=task,
            seed=seed,
            model=self.model,
            base=self.base,
            expert=weights,
            half=None,
            expert_hash=self.hash,
            test=self.items(held[: self.counts["n"]]),
            validation=self.items(held[self.counts["n"] :]),
            calibration=self.items(sample_split(known, "train", self.counts["held"], seed)),
        )

    def items(self, problems: Iterable[Problem]) -> list[Encoded]:
        """Prompt and answer as the experts were trained on them."""
        return [encoded(self.tokenizer, p.prompt, p.answer) for p in problems]


def encoded(tokenizer: Any, prompt: str, answer: str) -> Encoded:
    """The ids of a prompt, its answer and the end."""
    head = tokenizer(prompt)["input_ids"]
    tail = [*tokenizer(answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    return Encoded((*head, *tail), len(tail))
