"""Kernels run on the GPU if there is one, else in Triton's interpreter.

The interpreter is chosen when a kernel is defined, so the variable is set before any test module is imported.
"""

import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture
def device() -> str:
    """Where kernels run in this session."""
    pytest.importorskip("triton")
    return "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture
def make_arena(device):
    """A function that draws an arena: `make_arena(E, N, K, S, bits, groups=None)`; every seventh row has step 0."""
    from meswitch_kernels.arena import DeltaArena
    from meswitch_kernels.packing import pack

    def make(E, N, K, S, bits, groups=None):
        codes = [pack(torch.randint(0, 1 << bits, (N, K), dtype=torch.uint8), bits) for _ in range(E)]
        steps = torch.rand(E, N) * 1e-2
        steps[:, ::7] = 0.0
        index = torch.stack([torch.randperm(K)[:S].sort().values for _ in range(E * (groups or 1))]).int()
        return DeltaArena(
            codes=torch.stack(codes).to(device),
            steps=steps.to(device),
            salient_index=(index if groups is None else index.view(E, groups, S)).to(device),
            salient_values=(torch.randn(E, N, S) * 1e-2).half().to(device),
            bits=bits,
            K=K,
        )

    torch.manual_seed(0)
    return make


@pytest.fixture
def make_sparse_arena(device):
    """A function that draws an arena of signed positions; every seventh row has step 0.

    `make_sparse_arena(E, N, K, S, group, keep=1, groups=None)`.
    """
    from meswitch_kernels.sparse_arena import SparseArena
    from meswitch_kernels.sparse_packing import pack_groups

    def make(E, N, K, S, group, keep=1, groups=None):
        drawn = torch.randint(0, 2 * group, (E, keep, N, -(-K // group)), dtype=torch.uint8)
        packed = [pack_groups(codes, group) for codes in drawn.flatten(0, 1)]
        codes, signs = (torch.stack(planes).unflatten(0, (E, keep)) for planes in zip(*packed, strict=True))
        steps = torch.rand(E, N) * 1e-2
        steps[:, ::7] = 0.0
        index = torch.stack([torch.randperm(K)[:S].sort().values for _ in range(E * (groups or 1))]).int()
        return SparseArena(
            codes=(codes if keep > 1 else codes.squeeze(1)).to(device),
            signs=(signs if keep > 1 else signs.squeeze(1)).to(device),
            steps=steps.to(device),
            salient_index=(index if groups is None else index.view(E, groups, S)).to(device),
            salient_values=(torch.randn(E, N, S) * 1e-2).half().to(device),
            group=group,
            K=K,
        )

    torch.manual_seed(0)
    return make


@pytest.fixture
def spread(device):
    """A function: the same arena as views of one image of bytes a slot, what lies between them at its most harmful."""
    from dataclasses import replace

    def place(arena, lead_bytes=256):
        names = [
            name for name in ("codes", "signs", "steps", "salient_index", "salient_values") if hasattr(arena, name)
        ]
        parts = [getattr(arena, name) for name in names]
        sizes = [-(-part[0].numel() * part.element_size() // 256) * 256 for part in parts]
        image = torch.full((arena.slots, lead_bytes + sum(sizes)), 0xFF, dtype=torch.uint8, device=device)
        views, start = {}, lead_bytes
        for name, part, size in zip(names, parts, sizes, strict=True):
            used = image[:, start : start + part[0].numel() * part.element_size()].view(part.dtype)
            views[name] = used.unflatten(1, part.shape[1:]) if part.numel() else part
            views[name].copy_(part)
            start += size
        return replace(arena, **views)

    return place


@pytest.fixture
def make_vectors(device):
    """A function that draws vectors of K numbers for E slots, the experts' apart by NaN: `make_vectors(E, K)`."""
    from meswitch_kernels.rows import RowVectors

    def make(E, K, apart=64):
        image = torch.full((E, K + apart), float("nan"))
        image[:, :K] = 1 + 0.1 * torch.randn(E, K)
        return RowVectors(base=(1 + 0.1 * torch.randn(K)).to(device), experts=image.to(device)[:, :K])

    return make


@pytest.fixture
def poison(monkeypatch):
    """Memory that a kernel is to write holds NaN, or the largest integer, before it does."""
    empty = torch.empty

    def full(*size, **options):
        tensor = empty(*size, **options)
        return tensor.fill_(float("nan") if tensor.is_floating_point() else torch.iinfo(tensor.dtype).max)

    monkeypatch.setattr(torch, "empty", full)


@pytest.fixture
def same_slices():
    """A function that fails unless two integer forms are the same to the last bit."""

    def compare(got, want):
        assert got.bits == want.bits
        for name in ("x", "slices", "sums", "inverse"):
            assert torch.equal(getattr(got, name), getattr(want, name)), name

    return compare


@pytest.fixture
def relative_error():
    """A function: RMS of the difference over RMS of the expected, so that one bound serves every shape."""

    def error(got, want):
        assert got.shape == want.shape
        assert not got.isnan().any()
        difference = (got.float() - want.float()).square().mean().sqrt()
        return float(difference / want.float().square().mean().sqrt())

    return error
