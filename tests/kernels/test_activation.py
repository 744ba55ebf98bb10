import pytest
import torch

pytestmark = pytest.mark.usefixtures("poison")


def _check(relative_error, same_slices, device, M, F, kind, dtype, bits, bound):
    from meswitch_kernels.activation import gated_activation
    from meswitch_kernels.activations import slice_activations
    from meswitch_kernels.reference import gated_activation_ref

    torch.manual_seed(0)
    x = torch.full((M, 2 * F + 16), float("nan"), dtype=dtype, device=device)[:, : 2 * F]
    x.copy_(3 * torch.randn(M, 2 * F))
    want = gated_activation_ref(x, kind=kind)
    assert relative_error(gated_activation(x, kind=kind), want) < bound
    sliced = gated_activation(x, kind=kind, bits=bits)
    assert relative_error(sliced.x, want) < bound
    same_slices(sliced, slice_activations(sliced.x, bits=bits))


@pytest.mark.parametrize("kind", ["silu", "gelu_tanh"])
@pytest.mark.parametrize(
    ("M", "F", "bits"), [(1, 64, 1), (7, 1100, 2), (2, 8300, 4), (3, 100, 8), (2, 100, 0.5), (1, 1100, 0.75)]
)
def test_odd_shapes_match_the_reference_and_their_own_slices(relative_error, same_slices, device, M, F, kind, bits):
    _check(relative_error, same_slices, device, M, F, kind, torch.float32, bits, 1e-6)


def test_half_precision_is_rounded_once(relative_error, same_slices, device):
    _check(relative_error, same_slices, device, 3, 176, "silu", torch.float16, 2, 3e-4)


def test_the_ends_of_the_gate_are_nothing_and_itself(device):
    from meswitch_kernels.activation import gated_activation

    # exp(200) is beyond float32, and silu of -200 is 0 all the same
    gate_up = torch.tensor([[-200.0, 0.0, 200.0, 1.0, 5.0, 2.0]], device=device)
    for kind in ("silu", "gelu_tanh"):
        assert gated_activation(gate_up, kind=kind).tolist() == [[0.0, 0.0, 400.0]]


def test_arguments_that_do_not_fit_together_are_refused(device):
    from meswitch_kernels.activation import gated_activation
    from meswitch_kernels.errors import UnsupportedShapeError

    with pytest.raises(UnsupportedShapeError, match=r"must be \[M, 2F\]"):
        gated_activation(torch.zeros(2, 5, device=device), kind="silu")
    with pytest.raises(UnsupportedShapeError, match="kind must be one of"):
        gated_activation(torch.zeros(2, 4, device=device), kind="relu")


@pytest.mark.gpu
@pytest.mark.parametrize(("M", "F", "kind", "bits"), [(33, 14336, "silu", 2), (7, 18944, "gelu_tanh", 4)])
def test_the_gpu_matches_the_reference(relative_error, same_slices, device, M, F, kind, bits):
    _check(relative_error, same_slices, device, M, F, kind, torch.bfloat16, bits, 2.5e-3)
