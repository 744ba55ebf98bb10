import pytest
import torch

from meswitch.codecs import CompressedDelta, decompress, parse_codec
from meswitch.codecs.levels import levels_of
from meswitch.errors import CodecOptionError, DeltaFormatError
from meswitch_kernels.packing import unpack

OUTLIERS = [3, 40, 77]


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def with_outliers(N: int = 30, K: int = 100) -> torch.Tensor:
    delta = gaussian(N, K) * 1e-3
    delta[:, OUTLIERS] *= 20
    return delta


def others(K: int = 100) -> list[int]:
    return [k for k in range(K) if k not in OUTLIERS]


def codes_part(compressed: CompressedDelta, bits: int) -> torch.Tensor:
    levels = levels_of(unpack(compressed.tensors["codes"], bits, compressed.shape[1]), bits)
    return compressed.tensors["step"].unsqueeze(1) * levels


@pytest.mark.parametrize("step", ["mse", "unbiased"])
def test_the_channels_that_quantise_worst_are_salient(step):
    compressed = parse_codec(f"salient:channels=3,step={step}").compress(with_outliers())
    assert compressed.tensors["salient"].tolist() == OUTLIERS


def test_calibration_changes_which_channels_are_salient():
    sums = torch.ones(100)
    sums[[5, 6]] = 1e6
    compressed = parse_codec("salient:channels=3").compress(with_outliers(), input_square_sum=sums)
    assert {5, 6} < set(compressed.tensors["salient"].tolist())


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("step", ["mse", "unbiased"])
@pytest.mark.parametrize("refit", ["true", "false"])
def test_salient_channels_are_exact_up_to_rounding(bits, step, refit):
    delta = with_outliers()
    compressed = parse_codec(f"salient:channels=3,bits={bits},step={step},refit={refit}").compress(delta)
    salient = compressed.tensors["salient"].long()
    exact, coarse = delta[:, salient], codes_part(compressed, bits)[:, salient]
    error = (decompress(compressed)[:, salient] - exact).abs()
    # FP16 rounds the remainder by 2^-11 of it, or 2^-25 where it is subnormal; three FP32 operations add the rest
    bound = (exact - coarse).abs() * 2**-11 + 2**-25 + 3 * 2**-24 * (exact.abs() + coarse.abs())
    assert bool((error <= bound).all())


def test_the_values_hold_what_the_codes_leave():
    delta = with_outliers()
    compressed = parse_codec("salient:channels=3").compress(delta)
    remainder = delta[:, OUTLIERS] - codes_part(compressed, 2)[:, OUTLIERS]
    assert torch.equal(compressed.tensors["values"], remainder.half())


def test_the_product_needs_no_mask():
    delta, x = with_outliers(), gaussian(4, 100, seed=1)
    compressed = parse_codec("salient:channels=3").compress(delta)
    expected = x @ decompress(compressed).t()
    salient = compressed.tensors["salient"].long()
    got = x @ codes_part(compressed, 2).t() + x[:, salient] @ compressed.tensors["values"].float().t()
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("step", ["mse", "unbiased"])
def test_refit_quantises_the_other_channels_as_if_alone(step):
    delta = with_outliers()
    described = decompress(parse_codec(f"salient:channels=3,step={step}").compress(delta))
    alone = decompress(parse_codec(f"rtn:bits=2,step={step}").compress(delta[:, others()]))
    assert torch.equal(described[:, others()], alone)


def test_without_refit_the_codes_are_those_of_all_channels():
    delta = with_outliers()
    compressed = parse_codec("salient:channels=3,step=mse,refit=false").compress(delta)
    plain = parse_codec("rtn:bits=2,step=mse").compress(delta)
    assert torch.equal(compressed.tensors["codes"], plain.tensors["codes"])
    assert torch.equal(compressed.tensors["step"], plain.tensors["step"])


@pytest.mark.parametrize("refit", ["true", "false"])
def test_the_unbiased_step_is_over_the_other_channels(refit):
    delta = with_outliers()
    described = decompress(parse_codec(f"salient:channels=3,refit={refit}").compress(delta))
    along = (described * delta)[:, others()].sum(dim=1)
    torch.testing.assert_close(along, delta[:, others()].square().sum(dim=1), rtol=1e-5, atol=0.0)


def test_three_exact_channels_save_most_of_the_error():
    delta = with_outliers()
    salient, plain = (
        float((decompress(parse_codec(spec).compress(delta)) - delta).norm() / delta.norm())
        for spec in ("salient:channels=3", "rtn:bits=2,step=unbiased")
    )
    assert salient < 0.25 * plain


def test_no_channels_is_round_to_nearest():
    delta = with_outliers()
    assert torch.equal(
        decompress(parse_codec("salient:channels=0").compress(delta)),
        decompress(parse_codec("rtn:bits=2").compress(delta)),
    )


def test_a_row_with_only_salient_values_has_step_zero():
    delta = with_outliers()
    delta[0, others()] = 0.0
    compressed = parse_codec("salient:channels=3").compress(delta)
    assert float(compressed.tensors["step"][0]) == 0.0
    assert torch.equal(decompress(compressed)[0], delta[0].half().float())


def test_bytes_by_hand():
    # a row: 32 bytes of codes, 4 of step, 2 for each of 8 values; then 8 indices of 4 bytes
    assert parse_codec("salient:channels=8").compress(gaussian(3, 100)).nbytes == 3 * (32 + 4 + 16) + 32


def test_the_linears_of_a_seven_billion_parameter_model_take_1_77_gb():
    # Mistral-7B: q, k, v, o, gate, up, down of 32 layers
    shapes = [(4096, 4096), (1024, 4096), (1024, 4096), (4096, 4096), (14336, 4096), (14336, 4096), (4096, 14336)]
    layout = parse_codec("salient:bits=2,channels=8").layout
    total = 32 * sum(spec.nbytes for shape in shapes for spec in layout(*shape).values())
    # 2 bits of 6.979e9 weights; 43008 rows a layer of 4 + 16 bytes; 7 times 8 indices a layer
    assert total == 6_979_321_856 // 4 + 32 * (43008 * 20 + 7 * 32)
    assert round(total / 1e9, 2) == 1.77


@pytest.mark.parametrize("K", [1, 7, 8])
def test_as_many_salient_channels_as_inputs_are_refused(K):
    with pytest.raises(CodecOptionError, match=f"codec salient: channels must be below K = {K}, got 8"):
        parse_codec("salient:channels=8").layout(4, K)
    with pytest.raises(CodecOptionError, match=f"codec salient: channels must be below K = {K}, got 8"):
        parse_codec("salient:channels=8").compress(gaussian(4, K))


def test_a_salient_value_beyond_float16_is_refused():
    delta = gaussian(4, 70)
    delta[:, 9] = 1e6
    with pytest.raises(ValueError, match=r"a value stored as torch.float16 must be at most 65504.0 in magnitude"):
        parse_codec("salient:channels=1").compress(delta)


@pytest.mark.parametrize(
    ("sums", "message"),
    [
        (torch.ones(69), r"input_square_sum must be \[70\], got \[69\]"),
        (torch.ones(70).index_fill(0, torch.tensor(4), -1.0), "at least 0, got -1.0 at channel 4"),
        (torch.ones(70).index_fill(0, torch.tensor(4), torch.nan), "at least 0, got nan at channel 4"),
    ],
)
def test_impossible_calibration_is_refused(sums, message):
    with pytest.raises(ValueError, match=message):
        parse_codec("salient").compress(gaussian(4, 70), input_square_sum=sums)


@pytest.mark.parametrize("channels", [[3, 2, 5], [-1, 2, 5], [3, 40, 100], [3, 3, 5]])
def test_channels_out_of_order_or_range_are_refused(channels):
    compressed = parse_codec("salient:channels=3").compress(with_outliers())
    damaged = {**compressed.tensors, "salient": torch.tensor(channels, dtype=torch.int32)}
    with pytest.raises(DeltaFormatError, match="channels must be ascending and from 0 to 99, got"):
        decompress(CompressedDelta(codec="salient", options=compressed.options, shape=(30, 100), tensors=damaged))


@pytest.mark.parametrize("option", ["channels", "seed"])
def test_a_negative_count_is_refused(option):
    with pytest.raises(CodecOptionError, match=f"codec salient: {option} must be at least 0, got -1"):
        parse_codec(f"salient:{option}=-1")
