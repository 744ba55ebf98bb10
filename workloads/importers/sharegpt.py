"""ShareGPT (JSON): conversations as text, without times or token counts.

The first question and the first answer of each conversation give one request. Its text is measured and left behind:
the collection has no clear licence, so none of it enters a trace. Lengths are estimated at four UTF-8 bytes a token,
and all times are 0 until arrivals are drawn.
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from workloads.errors import TraceFormatError
from workloads.importers.table import file_text
from workloads.trace import TraceRequest

__all__ = ["BYTES_PER_TOKEN", "read_sharegpt"]

BYTES_PER_TOKEN = 4
USERS = ("human", "user")
ASSISTANTS = ("gpt", "assistant", "chatgpt", "bing", "bard")


def read_sharegpt(path: Path) -> Iterator[TraceRequest]:
    """One request for each conversation that opens with a question and an answer; the others are left out.

    Raises:
        TraceFormatError: naming file, conversation (counted from 1) and field.
    """
    for number, conversation in enumerate(_conversations(path), start=1):
        turns = _turns(path, number, conversation)
        if len(turns) < 2 or turns[0][0] not in USERS or turns[1][0] not in ASSISTANTS:
            continue
        question, answer = turns[0][1], turns[1][1]
        if question and answer:
            yield TraceRequest(
                id=f"sharegpt-{number}", t_ms=0.0, input_length=_tokens(question), output_length=_tokens(answer)
            )


def _conversations(path: Path) -> list[Any]:
    try:
        content = json.loads(file_text(path))
    except (ValueError, RecursionError) as error:
        raise TraceFormatError(f"{path.name}: must be one JSON list, but {error}") from None
    if not isinstance(content, list):
        raise TraceFormatError(f"{path.name}: must be a JSON list of conversations, got {type(content).__name__}")
    return content


def _turns(path: Path, number: int, conversation: Any) -> list[tuple[str, str]]:
    turns = conversation.get("conversations") if isinstance(conversation, dict) else None
    if not isinstance(turns, list):
        raise _error(path, number, "conversations", "must be a list")
    found = []
    for turn in turns[:2]:
        speaker, text = (turn.get("from"), turn.get("value")) if isinstance(turn, dict) else (None, None)
        for field, value in (("from", speaker), ("value", text)):
            if not isinstance(value, str):
                raise _error(path, number, field, f"must be text, got {value!r}")
        found.append((str(speaker), str(text)))
    return found


def _error(path: Path, number: int, field: str, rule: str) -> TraceFormatError:
    return TraceFormatError(f"{path.name}, conversation {number}, field {field}: {rule}")


def _tokens(text: str) -> int:
    return math.ceil(len(text.encode("utf-8", "replace")) / BYTES_PER_TOKEN)
