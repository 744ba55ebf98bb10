import pytest
import torch


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_each_token_gets_the_row_of_its_own_expert(make_arena, spread, device, bits):
    from meswitch_kernels.embedding import delta_rows
    from meswitch_kernels.reference import delta_rows_ref

    arena = make_arena(2, 40, 176, 8, bits)
    y = torch.randn(5, 176, device=device)
    tokens = torch.tensor([3, 3, 39, 0, 17], device=device)
    slots = torch.tensor([0, 1, -1, 1, 0], dtype=torch.int32, device=device)
    want = delta_rows_ref(y, tokens, arena, slots)
    assert torch.allclose(delta_rows(y.clone(), tokens, arena, slots), want, rtol=0, atol=1e-7)
    assert torch.allclose(delta_rows(y.clone(), tokens, spread(arena), slots), want, rtol=0, atol=1e-7)


def test_arguments_that_do_not_fit_together_are_refused(make_arena, device):
    from meswitch_kernels.embedding import delta_rows
    from meswitch_kernels.errors import UnsupportedShapeError

    arena = make_arena(1, 8, 64, 0, 4)
    y, slots = torch.zeros(2, 64, device=device), torch.zeros(2, dtype=torch.int32, device=device)
    with pytest.raises(UnsupportedShapeError, match="int64"):
        delta_rows(y, torch.zeros(2, dtype=torch.int32, device=device), arena, slots)
    with pytest.raises(UnsupportedShapeError, match="y must be"):
        delta_rows(y[:, :32], torch.zeros(2, dtype=torch.int64, device=device), arena, slots)
