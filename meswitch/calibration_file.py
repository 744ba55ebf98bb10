"""Calibration from a file of texts: what the expert's linears see when it reads them."""

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from blake3 import blake3

from meswitch.calibration import collect_input_second_moments, collect_input_square_sums
from meswitch.errors import CheckpointError
from meswitch.format.manifest import CalibrationRecord
from meswitch.pair import Pair

__all__ = ["Calibration", "collect_statistics", "read_texts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Statistics of the linears' inputs.

    Attributes:
        square_sums: `Σ x_k²` `[K]` by parameter name.
        record: where they came from.
        second_moments: `Σ x xᵀ` `[K, K]` by parameter name, of the linears that they were asked for.
    """

    square_sums: Mapping[str, torch.Tensor]
    record: CalibrationRecord
    second_moments: Mapping[str, torch.Tensor] = field(default_factory=dict)


def collect_statistics(
    pair: Pair,
    file: Path,
    *,
    second_moments: Collection[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Calibration:
    """The statistics of the expert's linears over the texts of `file`. Holds the expert's model while it runs.

    Args:
        pair: base and expert.
        file: see `read_texts`.
        second_moments: parameters of which to collect second moments too, in another pass; those that are no linears
            of the model have none.
        progress: called with the number of texts that were read, of how many.

    Raises:
        CheckpointError: the file is not one of texts, or the expert has no tokenizer.
    """
    texts = read_texts(file)
    model, tokenizer = _load_expert(pair)
    try:
        on_text = None if progress is None else lambda done: progress(done, len(texts))
        sums = collect_input_square_sums(model, tokenizer, texts, on_text=on_text)
        wanted = [name for name in second_moments if name in sums]
        moments: Mapping[str, torch.Tensor] = {}
        if wanted:
            moments = collect_input_second_moments(model, tokenizer, texts, names=wanted, on_text=on_text)
    except ValueError as cause:
        raise CheckpointError(f"{file} cannot calibrate this expert: {cause}") from cause
    digest = blake3(file.read_bytes()).hexdigest()
    record = CalibrationRecord(file=file.name, blake3=digest, texts=len(texts))
    return Calibration(square_sums=sums, record=record, second_moments=moments)


def read_texts(file: Path) -> tuple[str, ...]:
    """The texts of a file: one a line, or in a `.jsonl` file objects with `text`, or with `prompt` and `answer`.

    Raises:
        CheckpointError: it cannot be read, has no text, or a line is malformed.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as cause:
        raise CheckpointError(f"the calibration file {file} cannot be read as UTF-8 text: {cause}") from cause
    numbered = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not numbered:
        raise CheckpointError(f"the calibration file {file} must hold at least one text, got none")
    if file.suffix != ".jsonl":
        return tuple(line for _, line in numbered)
    return tuple(_text_of(line, f"{file}, line {number}") for number, line in numbered)


def _text_of(line: str, where: str) -> str:
    try:
        item = json.loads(line)
    except ValueError as cause:
        raise CheckpointError(f"{where}: must be a JSON object, got {line[:40]!r}") from cause
    fields = item if isinstance(item, dict) else {}
    parts = [fields["text"]] if "text" in fields else [fields.get("prompt"), fields.get("answer", "")]
    if not all(isinstance(part, str) for part in parts):
        raise CheckpointError(f"{where}: must be an object with a string text, or prompt and answer")
    return "".join(parts)


def _load_expert(pair: Pair) -> tuple[Any, Any]:
    """The expert's model in its own dtype, and its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = pair.expert
    tokenizer_files = [path for path in source.companions() if path.name.startswith("tokenizer")]
    if not tokenizer_files:
        raise CheckpointError(f"calibration needs the expert's tokenizer, but {source.root} has none")
    try:
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_files[0].parent, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as cause:
        reason = str(cause).strip().splitlines()[0]
        raise CheckpointError(f"the tokenizer in {tokenizer_files[0].parent} cannot be loaded: {reason}") from cause
    if source.kind == "checkpoint":
        return AutoModelForCausalLM.from_pretrained(source.root, local_files_only=True, dtype="auto"), tokenizer
    dtype = source.spec(pair.architecture.embedding).dtype
    model = AutoModelForCausalLM.from_config(source.config, dtype=dtype)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(source.values(name))
    return model, tokenizer
