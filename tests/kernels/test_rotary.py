import pytest
import torch

pytestmark = pytest.mark.usefixtures("poison")


def _tables(positions, D, device):
    frequencies = 10000.0 ** (-torch.arange(0, D, 2) / D)
    angles = torch.arange(positions)[:, None] * frequencies
    return angles.cos().to(device), angles.sin().to(device)


def _call(M, H, G, D, device, dtype):
    cos, sin = _tables(40, D, device)
    return {
        "qkv": torch.randn(M, (H + 2 * G) * D).to(device, dtype),
        "cos": cos,
        "sin": sin,
        "positions": (torch.arange(M) * 5 % 23).to(device),
        "cache_rows": (torch.arange(M, dtype=torch.int32) - int(M > 1)).to(device),
        "keys": torch.full((M, G, 24, D), float("nan"), dtype=dtype, device=device),
        "values": torch.full((M, G, 24, D), float("nan"), dtype=dtype, device=device),
        "heads": H,
        "kv_heads": G,
    }


def _check(relative_error, call, bound):
    from meswitch_kernels.reference import rotary_and_store_ref
    from meswitch_kernels.rotary import rotary_and_store

    expected = {**call, "keys": call["keys"].clone(), "values": call["values"].clone()}
    want = rotary_and_store_ref(expected.pop("qkv"), **expected)
    q = rotary_and_store(call["qkv"], **{name: value for name, value in call.items() if name != "qkv"})
    assert relative_error(q, want) < bound
    for name in ("keys", "values"):
        got, kept = call[name], expected[name]
        # the cache was all NaN: what is not written stays so
        assert torch.equal(got.isnan(), kept.isnan())
        assert relative_error(got.nan_to_num(), kept.nan_to_num()) < 2 * bound


@pytest.mark.parametrize(("M", "H", "G", "D"), [(1, 1, 1, 64), (7, 6, 2, 32), (3, 4, 4, 96)])
def test_queries_turn_and_keys_and_values_reach_their_places(relative_error, device, M, H, G, D):
    torch.manual_seed(0)
    _check(relative_error, _call(M, H, G, D, device, torch.float32), 1e-6)


@pytest.mark.parametrize("with_slots", [True, False])
def test_biases_and_head_norms_are_those_of_the_rows_expert(make_vectors, relative_error, device, with_slots):
    torch.manual_seed(0)
    call = _call(7, 4, 2, 32, device, torch.float32)
    slots = (torch.arange(7, dtype=torch.int32) % 3 - 1).to(device)
    call |= {"bias": make_vectors(2, 8 * 32), "q_norm": make_vectors(2, 32), "k_norm": make_vectors(2, 32, 128)}
    _check(relative_error, {**call, "slots": slots if with_slots else None, "eps": 1e-5}, 1e-6)


def test_half_precision_is_rounded_once(relative_error, device):
    torch.manual_seed(0)
    _check(relative_error, _call(5, 4, 2, 64, device, torch.float16), 3e-4)


def test_a_quarter_turn_swaps_the_halves(device):
    from meswitch_kernels.rotary import rotary_and_store

    call = _call(1, 1, 1, 64, device, torch.float32)
    call |= {"cos": torch.zeros(1, 64, device=device), "sin": torch.ones(1, 64, device=device)}
    call |= {
        "positions": torch.zeros(1, dtype=torch.int64, device=device),
        "cache_rows": torch.zeros_like(call["positions"]),
    }
    first, second = call["qkv"][0, :32].tolist(), call["qkv"][0, 32:64].tolist()
    q = rotary_and_store(call.pop("qkv"), **call)
    assert q[0, 0].tolist() == [-v for v in second] + first


def test_rows_that_are_not_in_use_write_nothing(device):
    from meswitch_kernels.rotary import rotary_and_store

    call = _call(3, 2, 1, 64, device, torch.float32)
    call["cache_rows"] = torch.tensor([-1, 0, 1], device=device)
    call["positions"] = torch.tensor([2, 24, -1], device=device)
    assert not rotary_and_store(call.pop("qkv"), **call).isnan().any()
    assert call["keys"].isnan().all()
    assert call["values"].isnan().all()


def test_arguments_that_do_not_fit_together_are_refused(make_vectors, device):
    from meswitch_kernels.errors import UnsupportedShapeError
    from meswitch_kernels.rotary import rotary_and_store

    def refused(message, **changes):
        call = {**_call(2, 2, 1, 64, device, torch.float32), **changes}
        with pytest.raises(UnsupportedShapeError, match=message):
            rotary_and_store(call.pop("qkv"), **call)

    refused(r"qkv must be \[M, 320\]", heads=3)
    refused("D must be even", keys=torch.zeros(2, 1, 8, 63), values=torch.zeros(2, 1, 8, 63))
    refused("positions must be", positions=torch.zeros(2, dtype=torch.int32))
    refused("cos must be", cos=torch.zeros(4, 16))
    refused("both or none", q_norm=make_vectors(1, 64))
    refused("bias must be vectors of 256", bias=make_vectors(1, 64))


@pytest.mark.gpu
@pytest.mark.parametrize("vectors", [True, False])
def test_the_gpu_matches_the_reference(make_vectors, relative_error, device, vectors):
    torch.manual_seed(0)
    call = _call(33, 32, 8, 128, device, torch.bfloat16)
    if vectors:
        call |= {"bias": make_vectors(2, 48 * 128), "q_norm": make_vectors(2, 128), "k_norm": make_vectors(2, 128)}
        call["slots"] = (torch.arange(33, dtype=torch.int32) % 3 - 1).to(device)
    _check(relative_error, call, 2.5e-3)
