import pytest
import torch

BITS = (1, 2, 4, 8)


def _restore(sliced, K):
    """x from its bytes, through the packing order of a row of codes that spell their own element."""
    from meswitch_kernels.packing import BLOCK

    P, WORDS = 8 // sliced.bits, 2 * sliced.bits
    weights = torch.tensor([1.0, 256.0, 256.0**2, 256.0**3], dtype=torch.float64)
    values = (sliced.slices.cpu().double() * weights[:, None, None]).sum(1)
    restored = torch.zeros(values.shape[0], values.shape[2] * P, dtype=torch.float64)
    for p in range(P):
        for byte in range(values.shape[2]):
            block, rest = divmod(byte, 8 * sliced.bits)
            restored[:, block * BLOCK + rest // 4 + WORDS * (rest % 4 * P + p)] = values[:, p, byte]
    return restored[:, :K] * sliced.inverse.cpu().double()[:, None], restored[:, K:]


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_bytes_spell_the_activations_in_the_order_of_the_codes(device, bits, dtype):
    from meswitch_kernels.activations import slice_activations

    torch.manual_seed(0)
    x = (torch.randn(3, 176) * torch.tensor([[1.0], [1e-3], [1e4]])).to(dtype)
    sliced = slice_activations(x.to(device), bits=bits)
    restored, padding = _restore(sliced, 176)
    # the unit is at most 2^-29 of the row's largest value
    assert ((restored - x.double()).abs().amax(1) <= x.double().abs().amax(1) * 2.0**-29).all()
    assert (padding == 0).all()
    assert torch.equal(sliced.sums.sum(1), sliced.slices.int().sum((2, 3), dtype=torch.int32))


def test_a_row_of_zeros_stays_zero_and_an_infinity_marks_its_row(device):
    from meswitch_kernels.activations import slice_activations

    x = torch.zeros(3, 64)
    x[1, 5], x[2, 7] = float("inf"), float("nan")
    sliced = slice_activations(x.to(device), bits=2)
    assert sliced.inverse.isnan().tolist() == [False, True, True]
    assert not sliced.slices[0].any()


def test_what_no_kernel_covers_is_refused(device):
    from meswitch_kernels.activations import slice_activations
    from meswitch_kernels.errors import UnsupportedShapeError

    with pytest.raises(UnsupportedShapeError, match="float16, bfloat16 or float32"):
        slice_activations(torch.zeros(1, 64, dtype=torch.float64, device=device), bits=2)
    with pytest.raises(UnsupportedShapeError, match="bits must be one of"):
        slice_activations(torch.zeros(1, 64, device=device), bits=3)
