import pytest
import torch

# rows, channels, inputs, salient, groups, bits, dtype, tiles
CASES = [
    (300, 392, 1088, 8, 1, 2, torch.bfloat16, {"BM": 256, "stages": 4}),
    (300, 384, 1088, 8, 3, 1, torch.bfloat16, {"BM": 128, "stages": 5}),
    (33, 104, 176, 16, 1, 4, torch.float16, {"BM": 64, "stages": 6, "parts": 4}),
    (7, 136, 1088, 0, 1, 2, torch.float16, {"BM": 16, "stages": 8, "parts": 4}),
    (520, 16896, 128, 3, 1, 2, torch.bfloat16, {"BM": 256, "stages": 4}),
    (40, 392, 1152, 8, 1, 2, torch.bfloat16, {"BM": 64, "BN": 64, "stages": 8, "parts": 2}),
    (1, 8, 64, 1, 1, 2, torch.bfloat16, {"BM": 16, "stages": 8}),
]
BOUND = {torch.float16: 1e-3, torch.bfloat16: 6e-3}


@pytest.fixture
def hopper(device):
    if device == "cpu" or torch.cuda.get_device_capability()[0] != 9:
        pytest.skip("needs a Hopper GPU")
    return device


@pytest.mark.gpu
@pytest.mark.parametrize(("M", "N", "K", "S", "groups", "bits", "dtype", "tiles"), CASES)
def test_hopper_matches_the_reference(make_arena, relative_error, hopper, M, N, K, S, groups, bits, dtype, tiles):
    from meswitch_kernels.fused_matmul import fused_matmul
    from meswitch_kernels.reference import fused_matmul_ref
    from meswitch_kernels.tiling import FusedMatmulConfig

    arena = make_arena(2, N, K, S, bits, groups if groups > 1 else None)
    x, weight = torch.randn(M, K).to(hopper, dtype), (torch.randn(N, K) * 0.05).to(hopper, dtype)
    config = FusedMatmulConfig(method="warpgroups", **tiles)
    room = torch.full((M + 1, N), float("nan"), device=hopper, dtype=dtype)
    got = fused_matmul(x, weight, arena, 1, config=config, out=room[:M])
    assert relative_error(got, fused_matmul_ref(x, weight, arena, 1)) < BOUND[dtype]
    assert room[M].isnan().all()
    assert torch.equal(got, fused_matmul(x, weight, arena, 1, config=config))
    slots = torch.ones(M, dtype=torch.int32, device=hopper)
    assert torch.equal(got, fused_matmul(x, weight, arena, slots, config=config))


@pytest.mark.gpu
def test_hopper_gets_warpgroups_where_they_cover_the_call(make_arena, hopper):
    from meswitch_kernels.warpgroup_matmul import covers

    weight = torch.zeros(128, 256, device=hopper, dtype=torch.bfloat16)
    x = torch.zeros(2, 256, device=hopper, dtype=torch.bfloat16)
    assert covers(x, weight, make_arena(1, 128, 256, 8, 2))
    assert not covers(x.float(), weight.float(), make_arena(1, 128, 256, 8, 2))
    assert not covers(x, weight, make_arena(1, 128, 256, 8, 8))
    assert not covers(x, weight, make_arena(1, 128, 256, 17, 2))
    assert not covers(x, weight[:127], make_arena(1, 127, 256, 8, 2))


def test_no_warpgroups_without_a_gpu(make_arena):
    from meswitch_kernels.warpgroup_matmul import covers

    x, weight = torch.zeros(2, 256, dtype=torch.float16), torch.zeros(128, 256, dtype=torch.float16)
    if not torch.cuda.is_available():
        assert not covers(x, weight, make_arena(1, 128, 256, 8, 2))
