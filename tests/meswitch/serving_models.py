"""Tiny checkpoints, experts and engines for the tests of serving. No test lives here."""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from meswitch.architecture import ParameterKind, describe
from meswitch.codecs import parse_codec
from meswitch.core import Event, Finished, GenerationRequest, SamplingParams, TokensGenerated
from meswitch.delta import ExpertDelta

SIZES: Mapping[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}

EXTRA: Mapping[str, Mapping[str, Any]] = {
    "gemma": {"head_dim": 8},
    "mistral": {"sliding_window": None},
    "qwen3": {"head_dim": 8},
}


def tiny_config(kind: str = "llama", **changes: Any) -> Any:
    """The config of a model of a few thousand parameters."""
    return AutoConfig.for_model(kind, **{**SIZES, **EXTRA.get(kind, {}), **changes})


def tiny_model(config: Any, seed: int) -> Any:
    """A model whose answers depend on its input: weights large enough that logits are far apart."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        for parameter in model.parameters():
            parameter.data.add_(torch.randn_like(parameter) * (0.25 if parameter.ndim > 1 else 0.1))
    return model


def save_base(root: Path, config: Any, seed: int = 0) -> Path:
    """A checkpoint directory of a fresh base."""
    tiny_model(config, seed).save_pretrained(root)
    return root


def fine_tune(base: Path, root: Path, seed: int, *, vocabulary: int | None = None, **config: Any) -> Path:
    """A checkpoint directory of an expert: every parameter of the base moved a little."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, **config)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        if vocabulary is not None:
            model.resize_token_embeddings(vocabulary, mean_resizing=False)
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(root)
    return root


def delta_between(base: Path, expert: Path, *, name: str = "expert", codec: str = "dense") -> ExpertDelta:
    """The expert as a delta, described by `codec`."""
    ours, theirs = (AutoModelForCausalLM.from_pretrained(x, dtype=torch.float32) for x in (base, expert))
    old, new = ours.state_dict(), theirs.state_dict()
    architecture = describe(ours.config)
    tied = theirs.config.tie_word_embeddings
    matrices, exact, added = {}, {}, {}
    for parameter in architecture.parameters:
        if parameter.name == architecture.head and tied:
            continue
        value = new[parameter.name].clone()
        if parameter.kind is ParameterKind.EXACT:
            exact[parameter.name] = value
            continue
        rows = old[parameter.name].shape[0]
        matrices[parameter.name] = parse_codec(codec).compress(value[:rows] - old[parameter.name])
        if value.shape[0] > rows:
            added[parameter.name] = value[rows:]
    return ExpertDelta(name=name, matrices=matrices, exact=exact, added_rows=added)


def generate(root: Path | Any, token_ids: Sequence[int], max_tokens: int) -> list[int]:
    """What `transformers` itself generates greedily: the oracle."""
    model = AutoModelForCausalLM.from_pretrained(root, dtype=torch.float32) if isinstance(root, Path) else root
    ids = torch.tensor([list(token_ids)])
    out = model.eval().generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_tokens, do_sample=False, pad_token_id=0
    )
    answer: list[int] = out[0, len(token_ids) :].tolist()
    return answer


def random_prompts(count: int, *, seed: int, vocabulary: int = 96, longest: int = 20) -> list[tuple[int, ...]]:
    """Prompts of different lengths."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest + 1, (count,), generator=generator).tolist()
    return [tuple(torch.randint(3, vocabulary, (n,), generator=generator).tolist()) for n in lengths]


def ask(request_id: str, expert: str, token_ids: Sequence[int], **sampling: Any) -> GenerationRequest:
    """A request for some tokens."""
    params = SamplingParams(**{"max_tokens": 12, **sampling})
    return GenerationRequest(request_id=request_id, expert=expert, token_ids=tuple(token_ids), sampling=params)


def run(engine: Any, requests: Sequence[GenerationRequest] = (), *, timeout_s: float = 60.0) -> list[Event]:
    """All events until the engine has nothing to do."""
    for request in requests:
        engine.submit(request)
    events: list[Event] = []
    # time, not steps: while a thread loads an expert, a busy machine lets this one spin any number of times
    end_s = time.monotonic() + timeout_s
    while engine.has_work and time.monotonic() < end_s:
        events.extend(engine.step())
    assert not engine.has_work, "the engine did not come to an end"
    return events


def answers(events: Sequence[Event]) -> dict[str, list[int]]:
    """The tokens of each request that was answered."""
    finished = {event.request_id for event in events if isinstance(event, Finished)}
    tokens: dict[str, list[int]] = {request_id: [] for request_id in finished}
    for event in events:
        if isinstance(event, TokensGenerated) and event.request_id in finished:
            tokens[event.request_id].extend(event.token_ids)
    return tokens


class InlineExecutor(Executor):
    """Runs at once, in the caller's thread: a load is complete at the next step."""

    def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class HeldExecutor(Executor):
    """Runs nothing until `release`, so that a test decides when a load ends."""

    def __init__(self) -> None:
        self._held: list[tuple[Future[Any], Any, Any]] = []

    def submit(self, function: Any, /, *args: Any, **_kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self._held.append((future, function, args))
        return future

    def release(self) -> None:
        for future, function, args in self._held:
            try:
                future.set_result(function(*args))
            except Exception as error:
                future.set_exception(error)
        self._held = []
