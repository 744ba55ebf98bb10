import pytest
import torch

pytestmark = pytest.mark.usefixtures("poison")


def _check(make_vectors, relative_error, same_slices, device, M, K, dtype, bits, bound):
    from meswitch_kernels.activations import slice_activations
    from meswitch_kernels.norm import rms_norm
    from meswitch_kernels.reference import rms_norm_ref

    torch.manual_seed(0)
    weight = make_vectors(2, K)
    # rows of a wider tensor, whose other columns must not be read
    x = torch.full((M, K + 16), float("nan"), dtype=dtype, device=device)[:, :K]
    x.copy_(torch.randn(M, K) * torch.logspace(-2, 2, M)[:, None])
    slots = (torch.arange(M, dtype=torch.int32) % 3 - 1).to(device)
    want = rms_norm_ref(x, weight, slots, eps=1e-5)
    plain = rms_norm(x, weight, slots, eps=1e-5)
    assert relative_error(plain, want) < bound
    sliced = rms_norm(x, weight, slots, eps=1e-5, bits=bits)
    assert relative_error(sliced.x, want) < bound
    same_slices(sliced, slice_activations(sliced.x, bits=bits))


@pytest.mark.parametrize("bits", [0.5, 0.75, 1, 2, 4, 8])
@pytest.mark.parametrize(("M", "K"), [(1, 64), (7, 1100)])
def test_odd_shapes_match_the_reference_and_their_own_slices(
    make_vectors, relative_error, same_slices, device, M, K, bits
):
    _check(make_vectors, relative_error, same_slices, device, M, K, torch.float32, bits, 1e-6)


def test_half_precision_is_rounded_once(make_vectors, relative_error, same_slices, device):
    _check(make_vectors, relative_error, same_slices, device, 3, 176, torch.float16, 2, 3e-4)


def test_without_slots_or_experts_every_row_takes_the_base(make_vectors, device):
    from meswitch_kernels.norm import rms_norm
    from meswitch_kernels.rows import RowVectors

    weight, x = make_vectors(2, 100), torch.randn(3, 100, device=device)
    slots = torch.tensor([-1, 1, -1], dtype=torch.int32, device=device)
    alone = rms_norm(x, weight, eps=1e-6)
    assert torch.equal(rms_norm(x, RowVectors(base=weight.base), slots, eps=1e-6), alone)
    mixed = rms_norm(x, weight, slots, eps=1e-6)
    assert torch.equal(mixed[[0, 2]], alone[[0, 2]])
    assert not torch.equal(mixed[1], alone[1])


def test_a_row_that_is_not_finite_marks_itself_and_no_other(make_vectors, device):
    from meswitch_kernels.norm import rms_norm

    x = torch.randn(2, 64, device=device)
    x[0, 3] = float("nan")
    sliced = rms_norm(x, make_vectors(1, 64), eps=1e-6, bits=2)
    assert sliced.inverse.isnan().tolist() == [True, False]


def test_arguments_that_do_not_fit_together_are_refused(make_vectors, device):
    from meswitch_kernels.errors import UnsupportedShapeError
    from meswitch_kernels.norm import rms_norm

    weight = make_vectors(1, 64)
    with pytest.raises(UnsupportedShapeError, match="K must be 64"):
        rms_norm(torch.zeros(2, 32, device=device), weight, eps=1e-6)
    with pytest.raises(UnsupportedShapeError, match="float16, bfloat16 or float32"):
        rms_norm(torch.zeros(2, 64, dtype=torch.float64, device=device), weight, eps=1e-6)
    with pytest.raises(UnsupportedShapeError, match="slots must be"):
        rms_norm(torch.zeros(2, 64, device=device), weight, torch.zeros(1, dtype=torch.int32, device=device), eps=1e-6)


@pytest.mark.gpu
@pytest.mark.parametrize(("M", "K", "bits"), [(33, 4096, 2), (7, 5120, 4)])
def test_the_gpu_matches_the_reference(make_vectors, relative_error, same_slices, device, M, K, bits):
    _check(make_vectors, relative_error, same_slices, device, M, K, torch.bfloat16, bits, 2.5e-3)
