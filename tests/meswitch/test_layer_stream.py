"""A decoder that is read layer by layer gives its linears the inputs that the whole model gives them, bit for bit."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from meswitch.calibration import collect_input_second_moments, collect_input_square_sums
from meswitch.input_statistics import checked, collecting, second_moment, square_sum
from meswitch.layer_stream import LayerStream, NotAChainError, find_layers
from tests.meswitch.checkpoints import tiny_config

CPU = torch.device("cpu")
TEXTS = [[3, 4, 5, 6, 7, 8, 9, 10], [11], [5, 5, 9, 20, 30]]

SLIDING = {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}


def model_of(kind: str, dtype: torch.dtype, **changes: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(tiny_config(kind, **changes), dtype=dtype).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def streamed(
    model: Any, texts: list[list[int]], statistic: Callable[[torch.Tensor], torch.Tensor], seen: list[str] | None = None
) -> dict[str, torch.Tensor]:
    parameters = dict(model.named_parameters())

    def values(name: str) -> torch.Tensor:
        if seen is not None:
            seen.append(name)
        return parameters[name].detach()

    stream = LayerStream(model.config, values, dtype=model.dtype, device=CPU)
    stream.start(texts)
    found: dict[str, torch.Tensor] = {}

    def observe(linears: Any, read: Callable[[], None]) -> None:
        with collecting(linears, statistic, 0, device=CPU) as sums:
            read()
        found.update({name: checked(name, total) for name, total in sums.items()})

    assert list(stream.steps(observe)) == list(range(len(stream)))
    return found


@pytest.mark.parametrize(
    ("kind", "dtype", "changes"),
    [
        ("llama", torch.float32, {}),
        ("mistral", torch.bfloat16, {"sliding_window": 4}),
        ("qwen3", torch.bfloat16, {}),
        ("gemma", torch.float32, {}),
        ("gemma3_text", torch.float32, SLIDING),
        ("phi", torch.float32, {}),
        ("gpt_neox", torch.float32, {}),
    ],
)
def test_statistics_are_those_of_the_whole_model(kind: str, dtype: torch.dtype, changes: dict[str, Any]) -> None:
    model = model_of(kind, dtype, **changes)
    want = collect_input_square_sums(model, lambda ids: {"input_ids": ids}, TEXTS)  # type: ignore[arg-type]
    got = streamed(model, TEXTS, square_sum)
    assert got.keys() == want.keys()
    assert all(torch.equal(got[name], want[name]) for name in want)


def test_second_moments_are_those_of_the_whole_model() -> None:
    model = model_of("llama", torch.float32)
    want = collect_input_second_moments(model, lambda ids: {"input_ids": ids}, TEXTS)  # type: ignore[arg-type]
    got = streamed(model, TEXTS, second_moment)
    assert all(torch.equal(got[name], want[name]) for name in want)


def test_a_layer_is_read_once_and_the_head_never() -> None:
    model, seen = model_of("llama", torch.float32, tie_word_embeddings=False), []
    streamed(model, TEXTS, square_sum, seen)
    assert "lm_head.weight" not in seen
    layers = [name for name in seen if ".layers." in name]
    assert len(layers) == len(set(layers))
    # embedding and final norm are needed once before the layers and once behind them
    assert seen == ["model.embed_tokens.weight", "model.norm.weight", *layers, seen[0], seen[1]]


def test_one_layer_at_a_time_has_weights() -> None:
    model = model_of("llama", torch.float32)
    parameters = dict(model.named_parameters())
    stream = LayerStream(model.config, lambda name: parameters[name].detach(), dtype=torch.float32, device=CPU)
    stream.start(TEXTS)
    held: list[set[str]] = []

    def observe(linears: Any, read: Callable[[], None]) -> None:
        read()
        held.append({name for name, p in stream.model.named_parameters() if not p.is_meta})

    list(stream.steps(observe))
    layers = [{name for name in parameters if f".layers.{number}." in name} for number in range(2)]
    assert held == [*layers, {"model.embed_tokens.weight", "model.norm.weight"}]
    assert all(p.is_meta for p in stream.model.parameters())


def test_a_model_without_such_layers_is_no_chain() -> None:
    with pytest.raises(NotAChainError, match="there is no list of 3 layers"):
        find_layers(model_of("llama", torch.float32), 3)


def test_layers_called_out_of_turn_are_no_chain() -> None:
    model = model_of("llama", torch.float32)
    parameters = dict(model.named_parameters())
    stream = LayerStream(model.config, lambda name: parameters[name].detach(), dtype=torch.float32, device=CPU)
    inner = stream.model.model
    inner.layers = nn.ModuleList(reversed(list(inner.layers)))
    with pytest.raises(NotAChainError, match="not called in turn"):
        stream.start(TEXTS)
