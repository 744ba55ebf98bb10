"""Attention of prompts against softmax written out."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from meswitch.cuda.prompt_attention import prompt_attention


def drawn(T: int, S: int, *, heads: int = 4, kv_heads: int = 2, head_dim: int = 8) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((T, heads, head_dim), (kv_heads, S, head_dim), (kv_heads, S, head_dim))
    return tuple(torch.randn(shape, generator=generator) for shape in shapes)


def written_out(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    T, heads, head_dim = queries.shape
    S, shared = keys.shape[1], heads // keys.shape[0]
    out = torch.empty(T, heads, head_dim, dtype=torch.float64)
    for t in range(T):
        for head in range(heads):
            seen = slice(0, S - T + t + 1)
            scores = keys[head // shared, seen].double() @ queries[t, head].double() / head_dim**0.5
            out[t, head] = torch.softmax(scores, dim=0) @ values[head // shared, seen].double()
    return out


@pytest.mark.parametrize(("T", "S"), [(1, 1), (5, 5), (1, 7), (3, 7), (16, 33)])
def test_each_query_attends_to_the_positions_up_to_its_own(T: int, S: int) -> None:
    queries, keys, values = drawn(T, S)
    found = prompt_attention(queries, keys, values)
    assert found.shape == queries.shape
    torch.testing.assert_close(found.double(), written_out(queries, keys, values), rtol=1e-5, atol=1e-6)


def test_no_kernel_may_serve_that_is_built_for_each_length(monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = []
    real = F.scaled_dot_product_attention

    def recording(*arguments: Any, **options: Any) -> Any:
        allowed.append(torch.backends.cuda.cudnn_sdp_enabled())
        return real(*arguments, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", recording)
    before = torch.backends.cuda.cudnn_sdp_enabled()
    prompt_attention(*drawn(5, 5))
    assert allowed == [False]
    assert torch.backends.cuda.cudnn_sdp_enabled() == before


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(("T", "S"), [(1, 1), (33, 33), (200, 200), (7, 300), (128, 1000)])
def test_a_gpu_finds_the_same_at_every_length(T: int, S: int, dtype: torch.dtype) -> None:
    parts = [part.to(dtype) for part in drawn(T, S, heads=8, kv_heads=2, head_dim=64)]
    found = prompt_attention(*(part.cuda() for part in parts))
    error = (found.cpu().double() - written_out(*parts)).abs().max()
    assert error < (1e-4 if dtype == torch.float32 else 2e-2)


@pytest.mark.gpu
def test_no_length_on_a_gpu_is_served_by_cudnn() -> None:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA], acc_events=True) as profile:
        for T, S in ((64, 64), (97, 97), (33, 290)):
            prompt_attention(*(part.bfloat16().cuda() for part in drawn(T, S, heads=8, kv_heads=2, head_dim=128)))
        torch.cuda.synchronize()
    names = " ".join(event.key for event in profile.key_averages())
    assert "flash" in names
    assert "cudnn" not in names
