"""A file of calibration texts."""

import json
from pathlib import Path

from meswitch.errors import CheckpointError

__all__ = ["read_texts"]


def read_texts(file: Path) -> tuple[str, ...]:
    """The texts of a file: one a line, or in a `.jsonl` file objects with `text`, or with `prompt` and `answer`.

    Raises:
        CheckpointError: it cannot be read, has no text, or a line is malformed.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as cause:
        raise CheckpointError(f"the calibration file {file} cannot be read: no such file") from cause
    except OSError as cause:
        raise CheckpointError(f"the calibration file {file} cannot be read: {cause.strerror or cause}") from cause
    except UnicodeDecodeError as cause:
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
