import json
from pathlib import Path
from typing import Any

import pytest

from meswitch.core import GenerationRequest
from meswitch.errors import CheckpointError
from meswitch.expert_profile import Detokenizer, ExpertProfile, ProfileReader
from meswitch.families.pocket.model import pocket_tokenizer

TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{{ m.content }};{% endfor %}>"
)


def save(root: Path, *, template: str | None = None, tokenizer: bool = True, **files: Any) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    if tokenizer:
        own = pocket_tokenizer()
        own.chat_template = template
        own.save_pretrained(root)
    for name, content in files.items():
        (root / f"{name}.json").write_text(json.dumps(content))
    return root


def read(root: Path, base: Path | None = None) -> ExpertProfile:
    return ProfileReader(base or root).read(root)


def test_a_prompt_is_encoded_with_the_tokenizers_own_special_tokens(tmp_path: Path) -> None:
    request = GenerationRequest(request_id="r", prompt="ab")
    assert read(save(tmp_path)).encode(request) == (256, 97, 98, 257)


def test_token_ids_are_used_as_they_are(tmp_path: Path) -> None:
    assert read(save(tmp_path)).encode(GenerationRequest(request_id="r", token_ids=(1, 2))) == (1, 2)


def chat(*contents: str, role: str = "user") -> GenerationRequest:
    return GenerationRequest(request_id="r", messages=tuple({"role": role, "content": c} for c in contents))


def test_a_chat_is_rendered_by_the_experts_template_and_gets_no_further_special_tokens(
    tmp_path: Path,
) -> None:
    assert read(save(tmp_path, template=TEMPLATE)).encode(chat("a", "b")) == tuple(b"a;b;>")


def test_a_chat_needs_a_template(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="this expert has none"):
        read(save(tmp_path)).encode(chat("a"))


def test_what_a_template_refuses_is_an_error_of_the_request(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="refuses these messages: no system"):
        read(save(tmp_path, template=TEMPLATE)).encode(chat("a", role="system"))


def test_whatever_a_template_raises_is_an_error_of_the_request(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="refuses these messages: can only concatenate str"):
        read(save(tmp_path, template="{{ messages[0].content + 1 }}")).encode(chat("a"))


@pytest.mark.parametrize("request_", [GenerationRequest(request_id="r", prompt="ab\ud800"), chat("ab\ud800")])
def test_half_a_surrogate_pair_is_an_error_of_the_request(tmp_path: Path, request_: GenerationRequest) -> None:
    with pytest.raises(CheckpointError, match="half of a surrogate pair at character 2"):
        read(save(tmp_path, template=TEMPLATE)).encode(request_)


def test_equal_tokenizers_are_read_once(tmp_path: Path) -> None:
    base, same, other = (save(tmp_path / name, template=t) for name, t in (("b", None), ("s", None), ("o", "x")))
    reader = ProfileReader(base)
    assert reader.read(same).tokenizer is reader.read(base).tokenizer
    assert reader.read(other).tokenizer is not reader.read(base).tokenizer


def test_a_damaged_tokenizer_is_named(tmp_path: Path) -> None:
    (save(tmp_path) / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match=f"{tmp_path} holds a tokenizer that transformers cannot read"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"generation_config": {"eos_token_id": [7, 8]}, "config": {"eos_token_id": 9}}, {7, 8}),
        ({"generation_config": {}, "config": {"eos_token_id": 9}}, {9}),
        ({}, {5}),
    ],
)
def test_end_tokens_are_the_experts_own_or_else_the_bases(
    tmp_path: Path, files: dict[str, Any], expected: set[int]
) -> None:
    base = save(tmp_path / "base", tokenizer=False, config={"eos_token_id": 5})
    assert read(save(tmp_path / "e", tokenizer=False, **files), base).end_tokens == expected


def pieces(text: bytes) -> list[str]:
    detokenizer = Detokenizer(pocket_tokenizer())
    return [*(detokenizer.push(byte) for byte in text), detokenizer.flush()]


def test_text_comes_character_by_character() -> None:
    assert pieces("aß€b".encode()) == ["a", "", "ß", "", "", "€", "b", ""]


def test_a_character_that_never_completes_is_shown_at_the_end() -> None:
    assert pieces("a€".encode()[:3]) == ["a", "", "", "\ufffd"]


def test_special_tokens_have_no_text() -> None:
    detokenizer = Detokenizer(pocket_tokenizer())
    assert [detokenizer.push(token) for token in (97, 258)] == ["a", ""]


def test_spaces_survive_however_the_text_is_cut() -> None:
    assert "".join(pieces(b"a  b c ")) == "a  b c "
