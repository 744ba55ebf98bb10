from itertools import product

import pytest
import torch

SMALL = {"BM": 16, "BN": 32, "stages": 2}


def _check(make_arena, relative_error, device, M, N, K, S, bits, dtype, config, bound, **options):
    from meswitch_kernels.fused_matmul import fused_matmul
    from meswitch_kernels.reference import fused_matmul_ref
    from meswitch_kernels.tiling import FusedMatmulConfig

    arena = make_arena(2, N, K, S, bits)
    x, weight = torch.randn(M, K).to(device, dtype), (torch.randn(N, K) * 0.05).to(device, dtype)
    got = fused_matmul(x, weight, arena, 1, config=FusedMatmulConfig(**config), **options)
    assert relative_error(got, fused_matmul_ref(x, weight, arena, 1)) < bound


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize(("M", "N", "K", "S"), [(1, 32, 64, 0), (33, 100, 176, 8)])
def test_odd_shapes_match_the_reference(make_arena, relative_error, device, M, N, K, S, bits):
    _check(make_arena, relative_error, device, M, N, K, S, bits, torch.float32, SMALL, 1e-6)


@pytest.mark.parametrize("method", ["registers", "merged"])
def test_half_precision_is_within_the_rounding_of_a_merged_weight(make_arena, relative_error, device, method):
    _check(make_arena, relative_error, device, 7, 64, 192, 8, 2, torch.float16, {**SMALL, "method": method}, 6e-4)


@pytest.mark.parametrize("method", ["registers", "merged"])
def test_out_is_written_and_nothing_else(make_arena, relative_error, device, method):
    from meswitch_kernels.fused_matmul import fused_matmul
    from meswitch_kernels.reference import fused_matmul_ref
    from meswitch_kernels.tiling import FusedMatmulConfig

    arena = make_arena(2, 64, 192, 8, 2)
    x, weight = torch.randn(7, 192, device=device), torch.randn(64, 192, device=device)
    out = torch.full((8, 96), float("nan"), device=device)
    config = FusedMatmulConfig(**SMALL, method=method)
    got = fused_matmul(x, weight, arena, 1, out=out[:7, :64], config=config)
    assert got.data_ptr() == out.data_ptr()
    assert relative_error(out[:7, :64], fused_matmul_ref(x, weight, arena, 1)) < 1e-6
    assert out[7].isnan().all()
    assert out[:, 64:].isnan().all()
    base = fused_matmul(x, weight, arena, -1, out=out[:7, :64])
    assert relative_error(base, x @ weight.T) < 1e-6


@pytest.mark.parametrize("method", ["registers", "merged"])
def test_a_slot_that_the_device_names_is_read_when_the_kernel_runs(make_arena, relative_error, device, method):
    from meswitch_kernels.fused_matmul import fused_matmul
    from meswitch_kernels.reference import fused_matmul_ref
    from meswitch_kernels.tiling import FusedMatmulConfig

    arena = make_arena(3, 64, 192, 8, 2)
    x, weight = torch.randn(7, 192, device=device), torch.randn(64, 192, device=device)
    slots = torch.full((7,), 2, dtype=torch.int32, device=device)
    got = fused_matmul(x, weight, arena, slots, config=FusedMatmulConfig(**SMALL, method=method))
    assert relative_error(got, fused_matmul_ref(x, weight, arena, 2)) < 1e-6


def test_a_slot_of_another_type_is_refused(make_arena, device):
    from meswitch_kernels.errors import UnsupportedShapeError
    from meswitch_kernels.fused_matmul import fused_matmul

    arena, x, weight = (
        make_arena(1, 32, 64, 0, 2),
        torch.zeros(3, 64, device=device),
        torch.zeros(32, 64, device=device),
    )
    with pytest.raises(UnsupportedShapeError, match="slot must be an int, or int32 on"):
        fused_matmul(x, weight, arena, torch.zeros(3, dtype=torch.int64, device=device))


def test_slot_minus_one_is_the_base(make_arena, device):
    from meswitch_kernels.fused_matmul import fused_matmul

    x, weight = torch.randn(3, 64, device=device), torch.randn(32, 64, device=device)
    got = fused_matmul(x, weight, make_arena(1, 32, 64, 0, 2), -1)
    assert torch.equal(got, torch.nn.functional.linear(x, weight))


def test_arguments_that_do_not_fit_together_are_refused(make_arena, device):
    from meswitch_kernels.errors import UnsupportedShapeError
    from meswitch_kernels.fused_matmul import fused_matmul
    from meswitch_kernels.tiling import FusedMatmulConfig

    arena = make_arena(1, 32, 63, 0, 2)
    x, weight = torch.zeros(3, 63, device=device), torch.zeros(32, 63, device=device)
    with pytest.raises(UnsupportedShapeError, match=r"weight must be \[32, 63\]"):
        fused_matmul(x, weight[:16], arena, 0)
    with pytest.raises(UnsupportedShapeError, match="slot must be from -1 to 0"):
        fused_matmul(x, weight, arena, 1)
    with pytest.raises(UnsupportedShapeError, match="multiples of 16 bytes"):
        fused_matmul(x, weight, arena, 0)
    arena = make_arena(1, 32, 64, 0, 2)
    x, weight = torch.zeros(3, 64, device=device), torch.zeros(32, 64, device=device)
    with pytest.raises(UnsupportedShapeError, match=r"out must be \[3, 32\]"):
        fused_matmul(x, weight, arena, -1, out=torch.zeros(3, 31, device=device))
    with pytest.raises(UnsupportedShapeError, match="warpgroups multiply float16 or bfloat16"):
        fused_matmul(x, weight, arena, 0, config=FusedMatmulConfig(method="warpgroups", BN=32))


_SHAPES = [(33, 100, 176, 8), (300, 256, 512, 8), (7, 130, 1088, 0)]
_DTYPES = {torch.float16: 1e-3, torch.bfloat16: 6e-3, torch.float32: 1e-5}
_TILES = ({"BM": 64, "BN": 64, "stages": 2}, {"BM": 128, "BN": 128}, {"BM": 128, "BN": 128, "warps": 8})


def _pairs():
    """Every pair of values of shape, bits, dtype, tiles and PTX once; the large tiles have no room for float32."""
    for (i, bits), (j, shape), inline_asm in product(enumerate((1, 2, 4, 8)), enumerate(_SHAPES), (True, False)):
        dtype = tuple(_DTYPES)[(i + j) % 3]
        config = _TILES[0 if dtype == torch.float32 else (i + 2 * j + inline_asm) % 3]
        yield shape, bits, dtype, config, inline_asm


@pytest.mark.gpu
@pytest.mark.parametrize(("shape", "bits", "dtype", "config", "inline_asm"), list(_pairs()))
def test_the_gpu_matches_the_reference(make_arena, relative_error, device, shape, bits, dtype, config, inline_asm):
    bound = _DTYPES[dtype]
    _check(make_arena, relative_error, device, *shape, bits, dtype, config, bound, inline_asm=inline_asm)
