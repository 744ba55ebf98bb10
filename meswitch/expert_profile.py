"""What belongs to an expert besides weights: its tokenizer, chat template and end tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import blake3

from meswitch.checkpoint import COMPANION_FILES, read_json
from meswitch.core import GenerationRequest
from meswitch.errors import CheckpointError

__all__ = ["Detokenizer", "ExpertProfile", "ProfileReader"]

REPLACEMENT = "\ufffd"

TOKENIZER_FILES = tuple(name for name in COMPANION_FILES if name not in ("config.json", "generation_config.json"))


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertProfile:
    """How one expert reads and ends texts.

    Attributes:
        tokenizer: of `transformers`, shared by experts whose files are equal; `None` if there are no files.
        end_tokens: ids after which nothing follows.
    """

    tokenizer: Any
    end_tokens: frozenset[int]

    def encode(self, request: GenerationRequest) -> tuple[int, ...]:
        """The request's input tokens.

        Raises:
            CheckpointError: the expert has no tokenizer, or no template for a chat, or the text is none.
        """
        if request.token_ids is not None:
            return request.token_ids
        if self.tokenizer is None:
            raise CheckpointError("text needs a tokenizer, and this expert has no tokenizer files; send token_ids")
        if request.prompt is not None:
            return tuple(self.tokenizer(_checked(request.prompt))["input_ids"])
        if not self.tokenizer.chat_template:
            raise CheckpointError("messages need a chat template, and this expert has none; send a prompt")
        messages = [dict(message) for message in request.messages or ()]
        try:
            rendered = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        # a template is a program of the expert's author: whatever it raises is the end of this request, of no other
        except Exception as cause:
            raise CheckpointError(f"the expert's chat template refuses these messages: {cause}") from cause
        # a template writes its special tokens itself
        return tuple(self.tokenizer(_checked(rendered), add_special_tokens=False)["input_ids"])


class ProfileReader:
    """Reads profiles; equal tokenizers are read once."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._tokenizers: dict[str, Any] = {}

    def read(self, root: Path) -> ExpertProfile:
        """The profile of the files in `root`; what is missing there is the base's.

        Raises:
            CheckpointError: a file is damaged.
        """
        has_tokenizer = any((root / name).is_file() for name in TOKENIZER_FILES)
        return ExpertProfile(
            tokenizer=self._tokenizer(root if has_tokenizer else self._base),
            end_tokens=_end_tokens(root, self._base),
        )

    def _tokenizer(self, root: Path) -> Any:
        files = [root / name for name in TOKENIZER_FILES if (root / name).is_file()]
        if not files:
            return None
        digest = blake3.blake3()
        for path in files:
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
        key = digest.hexdigest()
        if key not in self._tokenizers:
            self._tokenizers[key] = _load_tokenizer(root)
        return self._tokenizers[key]


class Detokenizer:
    """Turns tokens into text as they come; a character that is still incomplete is withheld."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._tokens: list[int] = []
        self._shown = 0
        self._read = 0

    def push(self, token: int) -> str:
        """The text that `token` completes."""
        if self._tokenizer is None:
            return ""
        self._tokens.append(token)
        # decoding from the last shown token on keeps the spaces that a tokenizer puts between words
        before, now = self._decode(self._shown, self._read), self._decode(self._shown, len(self._tokens))
        if now.endswith(REPLACEMENT):
            return ""
        self._shown, self._read = self._read, len(self._tokens)
        return now[len(before) :]

    def flush(self) -> str:
        """The text that is still withheld."""
        if self._tokenizer is None:
            return ""
        before, now = self._decode(self._shown, self._read), self._decode(self._shown, len(self._tokens))
        self._shown = self._read = len(self._tokens)
        return now[len(before) :]

    def _decode(self, start: int, stop: int) -> str:
        text: str = self._tokenizer.decode(
            self._tokens[start:stop], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text


def _checked(text: str) -> str:
    """`text`, if it can be written as UTF-8; JSON can carry strings that cannot."""
    try:
        text.encode()
    except UnicodeEncodeError as cause:
        raise CheckpointError(
            f"text must be valid Unicode, got half of a surrogate pair at character {cause.start}; send both halves"
        ) from cause
    return text


def _load_tokenizer(root: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(root, local_files_only=True, trust_remote_code=False)
    except (ValueError, OSError, KeyError, TypeError) as cause:
        reason = str(cause).strip().splitlines()[0]
        raise CheckpointError(f"{root} holds a tokenizer that transformers cannot read: {reason}") from cause


def _end_tokens(*roots: Path) -> frozenset[int]:
    for path in (root / name for root in roots for name in ("generation_config.json", "config.json")):
        if path.is_file():
            found = _ids(read_json(path))
            if found:
                return found
    return frozenset()


def _ids(config: Mapping[str, Any]) -> frozenset[int]:
    value = config.get("eos_token_id")
    ids: Sequence[Any] = value if isinstance(value, list) else [value]
    return frozenset(x for x in ids if isinstance(x, int))
