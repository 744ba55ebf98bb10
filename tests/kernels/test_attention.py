import pytest
import torch

pytestmark = pytest.mark.usefixtures("poison")


def _call(B, H, G, D, T, lengths, device, dtype):
    """Arguments, with NaN in the cache wherever no row may look."""
    torch.manual_seed(0)
    rows = torch.randperm(B + 1)[:B].to(torch.int32)
    keys, values = (torch.full((B + 1, G, T, D), float("nan")) for _ in range(2))
    for row, length in zip(rows.tolist(), lengths, strict=True):
        keys[row, :, :length] = torch.randn(G, length, D)
        values[row, :, :length] = torch.randn(G, length, D)
    tensors = (torch.randn(B, H, D), keys, values)
    q, keys, values = (t.to(device, dtype) for t in tensors)
    places = {"rows": rows.to(device), "lengths": torch.tensor(lengths, dtype=torch.int32, device=device)}
    return (q, keys, values), {**places, "scale": D**-0.5}


def _check(relative_error, same_slices, tensors, options, bits, bound):
    from meswitch_kernels.activations import slice_activations
    from meswitch_kernels.attention import decode_attention
    from meswitch_kernels.reference import decode_attention_ref

    want = decode_attention_ref(*tensors, **options)
    got = decode_attention(*tensors, **options, bits=bits)
    assert relative_error(got if bits is None else got.x, want) < bound
    if bits is not None:
        same_slices(got, slice_activations(got.x, bits=bits))


@pytest.mark.parametrize(
    ("H", "G", "D", "lengths", "window", "bits"),
    [
        (1, 1, 64, [1], None, 1),
        (6, 2, 32, [7, 0, 130], None, None),
        (4, 4, 16, [64, 65], None, 4),
        (16, 1, 128, [200], 70, 8),
        (4, 2, 32, [3, 150, 64], 64, None),
        (10, 2, 128, [600, 5], None, 2),
        (40, 8, 128, [3], None, 2),
        (6, 2, 32, [7], None, 0.75),
        (10, 2, 128, [5], None, 0.5),
        # splits of more than one tile
        (8, 8, 16, [700], None, None),
    ],
)
def test_odd_shapes_match_the_reference_and_their_own_slices(
    relative_error, same_slices, device, H, G, D, lengths, window, bits
):
    tensors, options = _call(len(lengths), H, G, D, max(lengths) + 3, lengths, device, torch.float32)
    _check(relative_error, same_slices, tensors, {**options, "window": window}, bits, 1e-6)


def test_half_precision_matches_the_reference(relative_error, same_slices, device):
    tensors, options = _call(2, 4, 2, 64, 100, [90, 31], device, torch.float16)
    # probabilities are rounded to float16 before they weigh the values
    _check(relative_error, same_slices, tensors, options, 2, 6e-4)


def test_a_row_that_is_not_in_use_gets_zeros_and_reads_nothing(device):
    from meswitch_kernels.attention import decode_attention

    tensors, options = _call(2, 2, 1, 32, 16, [0, 4], device, torch.float32)
    options["rows"][0] = -1
    sliced = decode_attention(*tensors, **options, bits=2)
    assert not sliced.x[0].any()
    assert not sliced.slices[0].any()
    assert sliced.x[1].any()


def test_an_answer_is_the_same_to_the_last_bit_in_any_batch(device):
    from meswitch_kernels.attention import decode_attention

    (q, keys, values), options = _call(3, 4, 1, 32, 200, [190, 3, 70], device, torch.float32)
    together = decode_attention(q, keys, values, **options)
    for b in range(3):
        one = {"rows": options["rows"][b : b + 1], "lengths": options["lengths"][b : b + 1], "scale": options["scale"]}
        assert torch.equal(decode_attention(q[b : b + 1], keys, values, **one)[0], together[b])


def test_equal_scores_give_the_mean_of_the_values(device):
    from meswitch_kernels.attention import decode_attention

    tensors, options = _call(1, 1, 1, 16, 8, [3], device, torch.float32)
    tensors[1].zero_()
    tensors[2][:, :, :3] = torch.tensor([1.0, 2.0, 6.0], device=device)[:, None]
    assert torch.allclose(decode_attention(*tensors, **options), torch.full((1, 16), 3.0, device=device))


def test_arguments_that_do_not_fit_together_are_refused(device):
    from meswitch_kernels.attention import decode_attention
    from meswitch_kernels.errors import UnsupportedShapeError

    (q, keys, values), options = _call(2, 4, 2, 32, 8, [1, 2], device, torch.float32)

    def refused(message, tensors, **changes):
        with pytest.raises(UnsupportedShapeError, match=message):
            decode_attention(*tensors, **{**options, **changes})

    refused("D one of", (q[..., :31], keys, values))
    refused(r"keys and values must be \[R, G, T, 32\]", (q, keys[..., :16], values))
    refused("1 to 16 query heads, got 3 and 2", (q[:, :3], keys, values))
    refused("must be of neighbours and torch.float32", (q, keys.half(), values.half()))
    refused(r"lengths must be \[2\] int32", (q, keys, values), lengths=options["lengths"].long())
    refused("window must be at least 1", (q, keys, values), window=0)


@pytest.mark.gpu
@pytest.mark.parametrize(("H", "G", "window", "bits"), [(32, 8, None, 2), (28, 4, 256, 4), (28, 4, None, None)])
def test_the_gpu_matches_the_reference(relative_error, same_slices, device, H, G, window, bits):
    lengths = [512, 1, 0, 700, 2048, 33, 64]
    tensors, options = _call(7, H, G, 128, 2048, lengths, device, torch.bfloat16)
    _check(relative_error, same_slices, tensors, {**options, "window": window}, bits, 4e-3)
