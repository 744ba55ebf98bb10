"""Answers of one model to one task's test problems, in a process of its own. Imports torch, but not on import."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from harness.quality import Item, Unit, UnitHeader, write_unit
from workloads.tasks import Problem, get_task, sample_split
from workloads.verifiers import verify

__all__ = ["UnitJob", "answer_unit"]

BATCH = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitJob:
    """One unit to make.

    Attributes:
        base: checkpoint of the base, which a delta is merged with.
        model: a checkpoint directory, or a delta directory if `is_delta`.
        output: the unit's file.
        scratch: for what is not kept; the caller removes it, also when this process is ended.
    """

    header: UnitHeader
    base: Path
    model: Path
    is_delta: bool
    output: Path
    scratch: Path
    max_tokens: int


def answer_unit(job: UnitJob) -> Path:
    """The unit's file, after answering all its problems greedily in float32."""
    import torch
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    header = job.header
    problems = sample_split(get_task(header.task), "test", header.n, header.seed)
    with TemporaryDirectory(dir=job.scratch) as folder:
        outputs = _answers(_checkpoint(job, Path(folder)), problems, job.max_tokens)
    verifier = get_task(header.task).verifier
    items = tuple(
        Item(
            index=i,
            prompt=problem.prompt,
            expected=problem.answer,
            output=output,
            correct=verify(verifier, problem.answer, output),
        )
        for i, (problem, output) in enumerate(zip(problems, outputs, strict=True))
    )
    job.output.parent.mkdir(parents=True, exist_ok=True)
    write_unit(job.output, Unit(header, items))
    return job.output


def _checkpoint(job: UnitJob, folder: Path) -> Path:
    """A plain checkpoint of the model; base + D̂ is kept in float32, so that no second rounding is measured."""
    if not job.is_delta:
        return job.model
    import torch

    from meswitch.merge import merge

    output = folder / "merged"
    merge(job.base, job.model, output, torch.float32)
    return output


def _answers(checkpoint: Path, problems: Sequence[Problem], max_tokens: int) -> list[str]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    ids = [tokenizer(problem.prompt)["input_ids"] for problem in problems]
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    outputs = [""] * len(ids)
    # prompts of like length together: little padding
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        width = max(len(ids[i]) for i in rows)
        tokens = torch.tensor([[pad] * (width - len(ids[i])) + ids[i] for i in rows])
        mask = torch.tensor([[0] * (width - len(ids[i])) + [1] * len(ids[i]) for i in rows])
        with torch.inference_mode():
            generated = model.generate(
                input_ids=tokens,
                attention_mask=mask,
                max_new_tokens=max_tokens,
                do_sample=False,
                pad_token_id=pad,
            )
        for i, new in zip(rows, generated[:, width:], strict=True):
            outputs[i] = tokenizer.decode(new, skip_special_tokens=True)
    return outputs
