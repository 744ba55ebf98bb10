"""Products with signed positions, as `delta_matmul` hands them on, against the reference."""

import pytest
import torch

SMALL = {"BM": 32, "BKB": 32, "warps": 2, "stages": 2}
SPLIT = {"BM": 16, "BKB": 32, "SK": 2, "warps": 2, "stages": 2}


def _guarded(y):
    """A copy of `y` inside a larger tensor of NaN, and the function that says whether only the copy was written."""
    outer = torch.full((y.shape[0] + 2, y.shape[1] + 16), float("nan"), dtype=y.dtype, device=y.device)
    inner = outer[1:-1, :-16]
    inner.copy_(y)
    return inner, lambda: bool(outer[0].isnan().all() and outer[-1].isnan().all() and outer[:, -16:].isnan().all())


def _check(make_sparse_arena, relative_error, device, M, E, N, K, S, group, keep, dtype, config, bound, **options):
    from meswitch_kernels.delta_matmul import delta_matmul
    from meswitch_kernels.reference import delta_matmul_ref
    from meswitch_kernels.tiling import DeltaMatmulConfig

    arena = make_sparse_arena(E, N, K, S, group, keep=keep)
    x = torch.randn(M, K).to(device, dtype)
    slots = (torch.arange(M, dtype=torch.int32) % (E + 1) - int(M > 1)).to(device)
    y, untouched = _guarded(torch.randn(M, N).to(device, dtype))
    want = delta_matmul_ref(y, x, arena, slots)
    got = delta_matmul(y, x, arena, slots, config=DeltaMatmulConfig(**config), **options)
    assert got.data_ptr() == y.data_ptr()
    assert relative_error(got, want) < bound
    assert untouched()


@pytest.mark.parametrize("group", [4, 8])
@pytest.mark.parametrize(
    ("M", "E", "N", "K", "S", "keep"), [(1, 1, 20, 1093, 0, 1), (5, 2, 40, 190, 8, 1), (2, 1, 20, 67, 3, 2)]
)
def test_odd_shapes_match_the_reference(make_sparse_arena, relative_error, device, M, E, N, K, S, group, keep):
    _check(make_sparse_arena, relative_error, device, M, E, N, K, S, group, keep, torch.float32, SMALL, 1e-6)


def test_rows_of_the_base_and_rows_with_a_zero_step_are_left_as_they_are(make_sparse_arena, device):
    from meswitch_kernels.delta_matmul import delta_matmul

    arena = make_sparse_arena(2, 32, 64, 0, 8)
    y = torch.randn(4, 32, device=device)
    slots = torch.tensor([-1, 1, -1, 0], dtype=torch.int32, device=device)
    got = delta_matmul(y.clone(), torch.randn(4, 64, device=device), arena, slots)
    assert torch.equal(got[[0, 2]], y[[0, 2]])
    assert torch.equal(got[:, ::7], y[:, ::7])
    # of the others, none is left
    moved = torch.arange(32) % 7 != 0
    assert not (got[[1, 3]] == y[[1, 3]])[:, moved].any()


@pytest.mark.parametrize("group", [4, 8])
def test_an_answer_is_the_same_to_the_last_bit_in_any_batch_and_any_tile(make_sparse_arena, device, group):
    from meswitch_kernels.delta_matmul import delta_matmul
    from meswitch_kernels.grouping import group_rows
    from meswitch_kernels.tiling import DeltaMatmulConfig

    arena = make_sparse_arena(2, 30, 700, 8, group)
    x = torch.randn(6, 700, device=device)
    slots = torch.tensor([1, 0, 1, 1, -1, 1], dtype=torch.int32, device=device)
    together = delta_matmul(torch.zeros(6, 30, device=device), x, arena, group_rows(slots, width=16))
    config = DeltaMatmulConfig(**SPLIT)
    alone = delta_matmul(torch.zeros(1, 30, device=device), x[3:4], arena, slots[3:4], config=config)
    assert torch.equal(alone[0], together[3])


@pytest.mark.parametrize("group", [4, 8])
def test_stacked_layers_in_slots_that_lie_apart_use_their_own_salient_channels(
    make_sparse_arena, spread, relative_error, device, group
):
    from meswitch_kernels.delta_matmul import delta_matmul
    from meswitch_kernels.reference import delta_matmul_ref
    from meswitch_kernels.tiling import DeltaMatmulConfig

    arena = make_sparse_arena(2, 64, 128, 4, group, groups=2)
    x, y = torch.randn(2, 128, device=device), torch.zeros(2, 64, device=device)
    slots = torch.tensor([0, 1], dtype=torch.int32, device=device)
    got = delta_matmul(y.clone(), x, spread(arena), slots, config=DeltaMatmulConfig(**SMALL))
    assert relative_error(got, delta_matmul_ref(y, x, arena, slots)) < 1e-6
    assert torch.equal(got, delta_matmul(y.clone(), x, arena, slots, config=DeltaMatmulConfig(**SMALL)))


def test_a_row_that_is_not_finite_spoils_itself_and_no_other(make_sparse_arena, device):
    from meswitch_kernels.delta_matmul import delta_matmul

    arena = make_sparse_arena(1, 16, 64, 0, 8)
    x = torch.randn(2, 64, device=device)
    x[0, 3] = float("inf")
    got = delta_matmul(torch.zeros(2, 16, device=device), x, arena, torch.zeros(2, dtype=torch.int32, device=device))
    assert got[0].isnan().all()
    assert not got[1].isnan().any()


@pytest.mark.parametrize("largest", [3e38, 1.0, 1e-30])
def test_sums_of_a_row_of_equal_numbers_neither_overflow_nor_vanish(device, largest):
    from meswitch_kernels.activations import slice_activations

    sliced = slice_activations(torch.full((1, 64), largest, device=device), bits=0.5)
    powers = torch.tensor([1.0, 256.0, 256.0**2, 256.0**3], dtype=torch.float64, device=device)
    values = (sliced.slices.double() * powers[:, None, None]).sum(1) * sliced.inverse.double() / largest
    # of eight positions, the first four are sums, the others differences
    sums, differences = values.view(2, 2, 4, 4).unbind(1)
    assert (sums - 2).abs().max() < 2**-23
    assert not differences.any()


def test_what_is_not_covered_is_refused(make_sparse_arena, device):
    from meswitch_kernels.activations import slice_activations
    from meswitch_kernels.delta_matmul import delta_matmul
    from meswitch_kernels.errors import UnsupportedShapeError
    from meswitch_kernels.fused_matmul import fused_matmul
    from meswitch_kernels.tiling import DeltaMatmulConfig, FusedMatmulConfig

    arena = make_sparse_arena(1, 64, 64, 2, 8, groups=2)
    y, x = torch.zeros(2, 64, device=device), torch.zeros(2, 64, device=device)
    slots = torch.zeros(2, dtype=torch.int32, device=device)
    with pytest.raises(UnsupportedShapeError, match=r"sliced for K = 64 and 0\.5 bits"):
        delta_matmul(y, slice_activations(x, bits=0.75), arena, slots)
    with pytest.raises(UnsupportedShapeError, match="whole tiles of 64"):
        delta_matmul(y, x, arena, slots, config=DeltaMatmulConfig(BM=64))
    with pytest.raises(UnsupportedShapeError, match="the method must be merged, got registers"):
        fused_matmul(x, torch.zeros(64, 64, device=device), arena, 0, config=FusedMatmulConfig())


@pytest.mark.parametrize(("group", "keep"), [(4, 1), (4, 2), (8, 1)])
def test_the_merged_weight_is_base_plus_delta_and_prompts_are_multiplied_by_it(
    make_sparse_arena, spread, relative_error, device, group, keep
):
    from meswitch_kernels.fused_matmul import fused_matmul
    from meswitch_kernels.merge import merge_weight
    from meswitch_kernels.reference import delta_weight_ref, fused_matmul_ref

    arena = spread(make_sparse_arena(2, 32, 187, 3, group, keep=keep, groups=2))
    weight, x = torch.randn(32, 187, device=device), torch.randn(5, 187, device=device)
    out = torch.full_like(weight, float("nan"))
    assert merge_weight(weight, arena, 1, out=out) is out
    # the last operation's rounding may differ by one multiply-add
    assert torch.allclose(out, weight + delta_weight_ref(arena, 1), rtol=2e-7, atol=1e-7)
    got = fused_matmul(x, weight, arena, 1)
    assert relative_error(got, fused_matmul_ref(x, weight, arena, 1)) < 1e-6


_SHAPES = [(1, 1, 100, 176, 8), (7, 3, 130, 4096, 0), (33, 5, 100, 192, 8), (16, 16, 192, 14336, 8)]
_DTYPES = {torch.float16: 4e-4, torch.bfloat16: 3e-3, torch.float32: 1e-6}
_CONFIGS = (SMALL, {"BM": 64, "BKB": 64, "warps": 2}, SPLIT)


def _variants():
    """Each shape with both groups; dtype, tiles and PTX in turn, because each variant is compiled."""
    for i, (group, keep) in enumerate(((4, 1), (8, 1), (8, 2))):
        for j, shape in enumerate(_SHAPES):
            yield shape, group, keep, tuple(_DTYPES)[(i + j) % 3], _CONFIGS[(i + 2 * j) % 3], (i + j) % 4 != 0


@pytest.mark.gpu
@pytest.mark.parametrize(("shape", "group", "keep", "dtype", "config", "inline_asm"), list(_variants()))
def test_the_gpu_matches_the_reference(
    make_sparse_arena, relative_error, device, shape, group, keep, dtype, config, inline_asm
):
    bound = _DTYPES[dtype]
    _check(make_sparse_arena, relative_error, device, *shape, group, keep, dtype, config, bound, inline_asm=inline_asm)
