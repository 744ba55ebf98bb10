import pytest
import torch

SMALL = {"BM": 32, "BKB": 64, "warps": 2, "stages": 2}
SPLIT = {"BM": 16, "BKB": 32, "SK": 4, "warps": 4, "stages": 2}


def _guarded(y):
    """A copy of `y` inside a larger tensor of NaN, and the function that says whether only the copy was written."""
    outer = torch.full((y.shape[0] + 2, y.shape[1] + 16), float("nan"), dtype=y.dtype, device=y.device)
    inner = outer[1:-1, :-16]
    inner.copy_(y)
    return inner, lambda: bool(outer[0].isnan().all() and outer[-1].isnan().all() and outer[:, -16:].isnan().all())


def _check(make_arena, relative_error, device, M, E, N, K, S, bits, dtype, config, bound, **options):
    from meswitch_kernels.delta_matmul import delta_matmul
    from meswitch_kernels.reference import delta_matmul_ref
    from meswitch_kernels.tiling import DeltaMatmulConfig

    arena = make_arena(E, N, K, S, bits)
    x = torch.randn(M, K).to(device, dtype)
    slots = (torch.arange(M, dtype=torch.int32) % (E + 1) - int(M > 1)).to(device)
    y, untouched = _guarded(torch.randn(M, N).to(device, dtype))
    want = delta_matmul_ref(y, x, arena, slots)
    got = delta_matmul(y, x, arena, slots, config=DeltaMatmulConfig(**config), **options)
    assert got.data_ptr() == y.data_ptr()
    assert relative_error(got, want) < bound
    assert untouched()


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize(("M", "E"), [(1, 1), (7, 3), (33, 5)])
@pytest.mark.parametrize("config", [SMALL, SPLIT], ids=["whole rows", "split rows"])
def test_odd_shapes_match_the_reference(make_arena, relative_error, device, M, E, bits, config):
    _check(make_arena, relative_error, device, M, E, 100, 176, 8, bits, torch.float32, config, 1e-6)


@pytest.mark.parametrize("S", [0, 1, 8])
def test_half_precision_matches_the_reference(make_arena, relative_error, device, S):
    # rounding the result to float16 is all the error there is: 2^-11 / sqrt(3)
    _check(make_arena, relative_error, device, 5, 2, 64, 192, S, 2, torch.float16, SMALL, 3e-4)


def test_rows_of_the_base_are_left_as_they_are(make_arena, device):
    from meswitch_kernels.delta_matmul import delta_matmul

    arena = make_arena(2, 64, 64, 8, 2)
    y = torch.randn(4, 64, device=device)
    slots = torch.tensor([-1, 1, -1, 0], dtype=torch.int32, device=device)
    got = delta_matmul(y.clone(), torch.randn(4, 64, device=device), arena, slots)
    assert torch.equal(got[[0, 2]], y[[0, 2]])
    assert not torch.equal(got[[1, 3]], y[[1, 3]])


def test_a_zero_step_without_salient_channels_changes_nothing(make_arena, device):
    from meswitch_kernels.delta_matmul import delta_matmul

    arena = make_arena(1, 64, 64, 0, 2)
    y = torch.randn(1, 64, device=device)
    got = delta_matmul(
        y.clone(), torch.randn(1, 64, device=device), arena, torch.zeros(1, dtype=torch.int32, device=device)
    )
    assert torch.equal(got[:, ::7], y[:, ::7])


def test_an_answer_is_the_same_to_the_last_bit_in_any_batch_and_any_tile(make_arena, device):
    from meswitch_kernels.delta_matmul import delta_matmul
    from meswitch_kernels.grouping import group_rows
    from meswitch_kernels.tiling import DeltaMatmulConfig

    arena = make_arena(3, 100, 320, 8, 2)
    x = torch.randn(9, 320, device=device)
    slots = torch.tensor([2, 0, 1, 2, 2, -1, 0, 2, 2], dtype=torch.int32, device=device)
    together = delta_matmul(torch.zeros(9, 100, device=device), x, arena, group_rows(slots, width=16))
    for m in (0, 3, 6):
        alone = delta_matmul(
            torch.zeros(1, 100, device=device), x[m : m + 1], arena, slots[m : m + 1], config=DeltaMatmulConfig(**SPLIT)
        )
        assert torch.equal(alone[0], together[m])


def test_stacked_layers_use_their_own_salient_channels(make_arena, relative_error, device):
    from meswitch_kernels.delta_matmul import delta_matmul
    from meswitch_kernels.reference import delta_matmul_ref
    from meswitch_kernels.tiling import DeltaMatmulConfig

    arena = make_arena(2, 128, 128, 4, 2, groups=4)
    x, y = torch.randn(3, 128, device=device), torch.zeros(3, 128, device=device)
    slots = torch.tensor([0, 1, 1], dtype=torch.int32, device=device)
    want = delta_matmul_ref(y, x, arena, slots)
    assert relative_error(delta_matmul(y, x, arena, slots, config=DeltaMatmulConfig(**SMALL)), want) < 1e-6


@pytest.mark.parametrize(
    ("groups", "dtype"),
    [(None, torch.float32), (2, torch.float32), pytest.param(2, torch.bfloat16, marks=pytest.mark.gpu)],
)
def test_slots_that_lie_apart_give_the_same_answer_to_the_last_bit(make_arena, spread, device, groups, dtype):
    from meswitch_kernels.delta_matmul import delta_matmul
    from meswitch_kernels.tiling import DeltaMatmulConfig

    arena = make_arena(3, 64, 128, 8, 2, groups=groups)
    x, y = torch.randn(4, 128).to(device, dtype), torch.zeros(4, 64, dtype=dtype, device=device)
    slots = torch.tensor([2, -1, 0, 1], dtype=torch.int32, device=device)
    config = DeltaMatmulConfig(**SMALL)
    together = delta_matmul(y.clone(), x, arena, slots, config=config)
    assert torch.equal(delta_matmul(y.clone(), x, spread(arena), slots, config=config), together)


def test_a_row_that_is_not_finite_spoils_itself_and_no_other(make_arena, device):
    from meswitch_kernels.delta_matmul import delta_matmul

    arena = make_arena(1, 64, 64, 0, 2)
    x = torch.randn(2, 64, device=device)
    x[0, 3] = float("nan")
    got = delta_matmul(torch.zeros(2, 64, device=device), x, arena, torch.zeros(2, dtype=torch.int32, device=device))
    assert got[0].isnan().all()
    assert not got[1].isnan().any()


def test_arguments_that_do_not_fit_together_are_refused(make_arena, device):
    from meswitch_kernels.activations import slice_activations
    from meswitch_kernels.delta_matmul import delta_matmul
    from meswitch_kernels.errors import UnsupportedShapeError
    from meswitch_kernels.tiling import DeltaMatmulConfig

    arena = make_arena(1, 64, 64, 0, 2)
    y, x = torch.zeros(2, 64, device=device), torch.zeros(2, 64, device=device)
    slots = torch.zeros(2, dtype=torch.int32, device=device)
    with pytest.raises(UnsupportedShapeError, match=r"y must be \[2, 64\]"):
        delta_matmul(y[:, :32], x, arena, slots)
    with pytest.raises(UnsupportedShapeError, match="sliced for K = 64 and 2 bits"):
        delta_matmul(y, slice_activations(x, bits=4), arena, slots)
    with pytest.raises(UnsupportedShapeError, match="one slot for each of 2 rows"):
        delta_matmul(y, x, arena, slots[:1])
    with pytest.raises(UnsupportedShapeError, match="whole tiles of 64"):
        delta_matmul(y, x, make_arena(1, 64, 64, 2, 2, groups=2), slots, config=DeltaMatmulConfig(BM=64))


_SHAPES = [
    (1, 1, 100, 176, 8),
    (7, 3, 130, 4096, 0),
    (33, 5, 100, 192, 8),
    (16, 16, 192, 14336, 8),
    (64, 1, 257, 5120, 3),
]
_DTYPES = {torch.float16: 4e-4, torch.bfloat16: 3e-3, torch.float32: 1e-6}
_CONFIGS = (SMALL, SPLIT, {"BM": 64, "BKB": 128, "warps": 4})


def _pairs():
    """Every pair of values of shape, bits, dtype, tiles and PTX once: all together would compile for half an hour."""
    for i, bits in enumerate((1, 2, 4, 8)):
        for j, shape in enumerate(_SHAPES):
            yield shape, bits, tuple(_DTYPES)[(i + j) % 3], _CONFIGS[(i + 2 * j) % 3], (i + j) % 2 == 0


@pytest.mark.gpu
@pytest.mark.parametrize(("shape", "bits", "dtype", "config", "inline_asm"), list(_pairs()))
def test_the_gpu_matches_the_reference(make_arena, relative_error, device, shape, bits, dtype, config, inline_asm):
    bound = _DTYPES[dtype]
    _check(make_arena, relative_error, device, *shape, bits, dtype, config, bound, inline_asm=inline_asm)
