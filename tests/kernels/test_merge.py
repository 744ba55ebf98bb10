import pytest
import torch


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("groups", [None, 2])
def test_the_merged_weight_is_base_plus_delta(make_arena, device, bits, groups):
    from meswitch_kernels.merge import merge_weight
    from meswitch_kernels.reference import delta_weight_ref

    arena = make_arena(2, 64, 176, 8, bits, groups=groups)
    weight = torch.randn(64, 176, device=device)
    out = torch.full_like(weight, float("nan"))
    assert merge_weight(weight, arena, 1, out=out) is out
    # the last operation's rounding may differ by one multiply-add
    assert torch.allclose(out, weight + delta_weight_ref(arena, 1), rtol=2e-7, atol=1e-7)


def test_a_slot_that_lies_apart_is_merged_and_multiplied(make_arena, spread, relative_error, device):
    from meswitch_kernels.fused_matmul import fused_matmul
    from meswitch_kernels.merge import merge_weight
    from meswitch_kernels.reference import fused_matmul_ref
    from meswitch_kernels.tiling import FusedMatmulConfig

    arena = make_arena(3, 64, 128, 8, 2)
    x, weight = torch.randn(3, 128, device=device), torch.randn(64, 128, device=device)
    assert torch.equal(merge_weight(weight, spread(arena), 2), merge_weight(weight, arena, 2))
    got = fused_matmul(x, weight, spread(arena), 2, config=FusedMatmulConfig(BM=16, BN=32, stages=2))
    assert relative_error(got, fused_matmul_ref(x, weight, arena, 2)) < 1e-6


def test_arguments_that_do_not_fit_together_are_refused(make_arena, device):
    from meswitch_kernels.errors import UnsupportedShapeError
    from meswitch_kernels.merge import merge_weight

    arena = make_arena(1, 32, 64, 0, 2)
    with pytest.raises(UnsupportedShapeError, match="slot must be from 0 to 0"):
        merge_weight(torch.zeros(32, 64, device=device), arena, 1)
    with pytest.raises(UnsupportedShapeError, match="weight must be"):
        merge_weight(torch.zeros(16, 64, device=device), arena, 0)
