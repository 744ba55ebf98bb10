import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from meswitch.codecs import CompressedDelta, decompress, parse_codec
from meswitch.errors import CodecOptionError, DeltaFormatError

OUTLIERS = [3, 40, 77]


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def with_outliers(N: int = 30, K: int = 100) -> torch.Tensor:
    delta = gaussian(N, K) * 1e-3
    delta[:, OUTLIERS] *= 20
    return delta


def others(K: int = 100) -> list[int]:
    return [k for k in range(K) if k not in OUTLIERS]


def relative_error(spec: str, delta: torch.Tensor) -> float:
    described = decompress(parse_codec(spec).compress(delta))
    return float((described - delta).square().sum() / delta.square().sum())


def test_one_of_four_by_hand():
    delta = torch.tensor([[1.0, -4.0, 2.0, 0.0, 2.0, 1.0, 0.0, -1.0]])
    # the kept magnitudes are 4 and 2: the least-squares step is their mean
    described = decompress(parse_codec("sparse-sign:step=mse").compress(delta))
    assert described.tolist() == [[0, -3, 0, 0, 3, 0, 0, 0]]
    # ‖D‖² = 27 and ⟨D, level⟩ = 6
    described = decompress(parse_codec("sparse-sign").compress(delta))
    assert described.tolist() == [[0, -4.5, 0, 0, 4.5, 0, 0, 0]]


def test_words_by_hand():
    delta = torch.zeros(1, 64)
    delta[0, 3], delta[0, 8 + 5] = -1.0, 1.0
    compressed = parse_codec("sparse-sign:group=8").compress(delta)
    # place 3 negative, place 5 positive; then groups of zeros, the odd ones negative
    assert compressed.tensors["codes"].numpy().view("uint32").tolist() == [[[0x8080_805B]]]


@given(
    N=st.integers(1, 5),
    K=st.integers(4, 150),
    group=st.sampled_from([4, 8, 16]),
    keep=st.sampled_from([1, 2]),
    exponent=st.integers(-20, 20),
    seed=st.integers(0, 999),
)
def test_the_unbiased_step_keeps_the_length_along_the_delta(N, K, group, keep, exponent, seed):
    delta = gaussian(N, K, seed=seed) * 10.0**exponent
    described = decompress(parse_codec(f"sparse-sign:group={group},keep={keep}").compress(delta)).double()
    exact = delta.double()
    torch.testing.assert_close((described * exact).sum(dim=1), exact.square().sum(dim=1), rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("keep", [1, 2])
def test_the_least_squares_step_leaves_a_remainder_orthogonal_to_the_description(keep):
    delta = gaussian(10, 256)
    described = decompress(parse_codec(f"sparse-sign:keep={keep},step=mse").compress(delta))
    along = ((delta - described) * described).sum(dim=1) / (delta.norm(dim=1) * described.norm(dim=1))
    assert float(along.abs().max()) < 1e-6


def test_the_product_is_a_gather_of_inputs():
    delta, x = gaussian(12, 128), gaussian(5, 128, seed=1)
    compressed = parse_codec("sparse-sign:group=8,step=mse").compress(delta)
    expected = torch.zeros(5, 12)
    for n in range(12):
        for g in range(16):
            part = delta[n, 8 * g : 8 * g + 8]
            k = int(part.abs().argmax())
            expected[:, n] += x[:, 8 * g + k] * part[k].sign() * compressed.tensors["step"][n]
    torch.testing.assert_close(x @ decompress(compressed).t(), expected, rtol=1e-5, atol=1e-5)


def test_errors_of_gaussian_deltas_are_those_of_order_statistics():
    # of G normal numbers the largest magnitude has mean m: least squares leave 1 - m² / G, the unbiased step G / m² - 1
    delta = gaussian(64, 2048)
    for group, mean in ((4, 1.4647), (8, 1.7835), (16, 2.0779)):
        assert relative_error(f"sparse-sign:group={group},step=mse", delta) == pytest.approx(
            1 - mean**2 / group, rel=0.01
        )
        assert relative_error(f"sparse-sign:group={group}", delta) == pytest.approx(group / mean**2 - 1, rel=0.01)


@pytest.mark.parametrize(("group", "keep"), [(4, 1), (8, 1), (16, 1), (4, 2), (8, 2)])
def test_salient_channels_are_exact_up_to_rounding(group, keep):
    delta = with_outliers()
    compressed = parse_codec(f"sparse-sign:group={group},keep={keep},channels=3").compress(delta)
    assert compressed.tensors["salient"].tolist() == OUTLIERS
    error = (decompress(compressed) - delta)[:, OUTLIERS].abs()
    # FP16 rounds by 2^-11 of the value, or 2^-25 where it is subnormal
    assert bool((error <= delta[:, OUTLIERS].abs() * 2**-11 + 2**-25).all())


@pytest.mark.parametrize("step", ["mse", "unbiased"])
def test_salient_channels_do_not_touch_the_others(step):
    delta = with_outliers()
    described = decompress(parse_codec(f"sparse-sign:channels=3,step={step}").compress(delta))
    without = delta.clone()
    without[:, OUTLIERS] = 0.0
    alone = decompress(parse_codec(f"sparse-sign:step={step}").compress(without))
    torch.testing.assert_close(described[:, others()], alone[:, others()], rtol=1e-6, atol=0.0)


def test_neighbours_that_are_all_salient_are_exact_too():
    delta = gaussian(9, 64) * 1e-3
    delta[:, 8:12] *= 50
    compressed = parse_codec("sparse-sign:channels=4").compress(delta)
    assert compressed.tensors["salient"].tolist() == [8, 9, 10, 11]
    error = (decompress(compressed) - delta)[:, 8:12].abs()
    step = compressed.tensors["step"].unsqueeze(1)
    assert bool((error <= (delta[:, 8:12].abs() + step) * 2**-11 + 2**-25).all())


def test_calibration_changes_which_channels_are_salient():
    sums = torch.ones(100)
    sums[[5, 6]] = 1e6
    compressed = parse_codec("sparse-sign:channels=3").compress(with_outliers(), input_square_sum=sums)
    assert {5, 6} < set(compressed.tensors["salient"].tolist())


def test_exact_zeros_cost_one_of_four_little_at_the_share_of_real_fine_tunes():
    # 27 % zeros leave 0.5 % of the groups of four with nothing to keep
    zeros = torch.rand(64, 2048, generator=torch.Generator().manual_seed(1)) < 0.27
    delta = gaussian(64, 2048).masked_fill(zeros, 0.0)
    empty = (delta.view(64, -1, 4) == 0).all(dim=-1)
    assert float(empty.float().mean()) == pytest.approx(0.27**4, rel=0.3)
    described = decompress(parse_codec("sparse-sign:group=4").compress(delta))
    wasted = described.view(64, -1, 4)[empty].square().sum() / described.square().sum()
    assert float(wasted) == pytest.approx(0.27**4, rel=0.3)
    assert relative_error("sparse-sign:group=4", delta) < relative_error("sparse-sign:group=4", gaussian(64, 2048))


def test_groups_of_zeros_do_not_move_the_output_along_the_mean_of_the_inputs():
    delta = gaussian(64, 512).view(64, -1, 4)
    delta[:, torch.rand(128, generator=torch.Generator().manual_seed(1)) < 0.5] = 0.0
    delta = delta.view(64, 512)
    described = decompress(parse_codec("sparse-sign").compress(delta))
    on_zeros = described.masked_fill(delta != 0, 0.0).view(64, -1, 4)
    empty = (delta.view(64, -1, 4) == 0).all(dim=-1)
    count = int(empty[0].sum())
    # as many plus as minus up to chance: a mean input of 1 moves an output by less than 4 √n steps, not by n
    drift = on_zeros.sum(dim=(1, 2)).abs() / described.abs().amax(dim=1)
    assert bool((drift <= 4 * count**0.5).all())
    assert count > 16


def test_two_of_four_leave_groups_of_zeros_alone():
    delta = gaussian(8, 256)
    delta[:, 64:128] = 0.0
    assert not decompress(parse_codec("sparse-sign:keep=2").compress(delta))[:, 64:128].any()


def test_a_row_of_zeros_stays_exactly_the_base():
    delta = gaussian(3, 64)
    delta[1] = 0.0
    assert not decompress(parse_codec("sparse-sign:channels=2").compress(delta))[1].any()


@pytest.mark.parametrize(
    ("spec", "row_bytes"),
    [
        # K = 576 is 9 blocks: 4 + 2 bytes each, 4 bytes each, 2 bytes each and 3 units of signs
        ("sparse-sign:group=4", 9 * 6),
        ("sparse-sign:group=8", 9 * 4),
        ("sparse-sign:group=16", 9 * 2 + 3 * 2),
        ("sparse-sign:group=8,keep=2", 2 * 9 * 4),
    ],
)
def test_bytes_by_hand(spec, row_bytes):
    assert parse_codec(spec).compress(gaussian(5, 576)).nbytes == 5 * (row_bytes + 4)


def test_bytes_of_salient_channels_by_hand():
    # a row: 9 words, a step, 8 values of 2 bytes; then 8 indices of 4 bytes
    nbytes = parse_codec("sparse-sign:group=8,channels=8").compress(gaussian(5, 576)).nbytes
    assert nbytes == 5 * (36 + 4 + 16) + 32


def test_half_a_bit_carries_a_seven_billion_parameter_expert_in_a_quarter_of_two_bits():
    # Mistral-7B: q, k, v, o, gate, up, down of 32 layers
    shapes = [(4096, 4096), (1024, 4096), (1024, 4096), (4096, 4096), (14336, 4096), (14336, 4096), (4096, 14336)]
    layout = parse_codec("sparse-sign:group=8,channels=8").layout
    total = 32 * sum(spec.nbytes for shape in shapes for spec in layout(*shape).values())
    assert total == 6_979_321_856 // 16 + 32 * (43008 * 20 + 7 * 32)
    assert round(total / 1e9, 2) == 0.46


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("sparse-sign:group=5", "codec sparse-sign: group must be one of 4, 8, 16, got 5"),
        ("sparse-sign:keep=3", "codec sparse-sign: keep must be one of 1, 2, got 3"),
        ("sparse-sign:step=absmax", "codec sparse-sign: step must be one of mse, unbiased, got absmax"),
        ("sparse-sign:pick=random", "codec sparse-sign: pick must be one of magnitude, wanda, got random"),
        ("sparse-sign:channels=-1", "codec sparse-sign: channels must be at least 0, got -1"),
        ("sparse-sign:seed=-1", "codec sparse-sign: seed must be at least 0, got -1"),
    ],
)
def test_wrong_options_are_refused(spec, message):
    with pytest.raises(CodecOptionError, match=message):
        parse_codec(spec)


def test_as_many_salient_channels_as_inputs_are_refused():
    with pytest.raises(CodecOptionError, match="codec sparse-sign: channels must be below K = 8, got 8"):
        parse_codec("sparse-sign:channels=8").layout(4, 8)


def test_channels_out_of_range_are_refused():
    compressed = parse_codec("sparse-sign:channels=3").compress(with_outliers())
    damaged = {**compressed.tensors, "salient": torch.tensor([3, 40, 100], dtype=torch.int32)}
    with pytest.raises(DeltaFormatError, match="codec sparse-sign: channels must be ascending and from 0 to 99, got"):
        decompress(CompressedDelta(codec="sparse-sign", options=compressed.options, shape=(30, 100), tensors=damaged))


def test_codes_on_salient_channels_do_not_weigh_in_the_step():
    delta = torch.tensor([[9.0, 0.0, 0.0, 0.0, 0.0, 0.0, 2.0, 0.0]])
    compressed = parse_codec("sparse-sign:channels=1,step=mse").compress(delta)
    # the first group has nothing but its salient channel, where its code falls; the second keeps 2
    assert compressed.tensors["step"].tolist() == [2.0]
    assert compressed.tensors["values"].tolist() == [[7.0]]
    assert torch.equal(decompress(compressed), delta)


def test_the_largest_by_wanda_by_hand():
    delta = torch.tensor([[1.0, -4.0, 2.0, 0.0, 2.0, 1.0, 0.0, -1.0]])
    sums = torch.tensor([100.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    codec = parse_codec("sparse-sign:pick=wanda,step=mse")
    described = decompress(codec.compress(delta, input_square_sum=sums))
    # 1 · 10 is more than 4 · 1; each sum is taken with a hundredth of their mean, 107 / 8, added
    first, second = 100 + 0.01 * 107 / 8, 1 + 0.01 * 107 / 8
    step = (first * 1 + second * 2) / (first + second)
    torch.testing.assert_close(described, step * torch.tensor([[1.0, 0, 0, 0, 1, 0, 0, 0]]))


@pytest.mark.parametrize("keep", [1, 2])
@pytest.mark.parametrize("group", [4, 8])
def test_wanda_is_unbiased_and_nearer_in_the_output(group, keep):
    delta, scale = gaussian(40, 256), (0.7 * gaussian(256, seed=1)).exp()
    x = gaussian(4000, 256, seed=2) * scale
    outputs = x @ delta.t()
    errors = []
    for pick in ("magnitude", "wanda"):
        codec = parse_codec(f"sparse-sign:group={group},keep={keep},pick={pick}")
        got = x @ decompress(codec.compress(delta, input_square_sum=x.square().sum(dim=0))).t()
        # inputs that vary independently; 4000 tokens of 40 outputs
        assert float((got * outputs).sum() / outputs.square().sum()) == pytest.approx(1.0, abs=0.05)
        errors.append(float((got - outputs).square().sum() / outputs.square().sum()))
    assert errors[1] < 0.85 * errors[0]


def test_equal_inputs_make_wanda_the_magnitude():
    delta = with_outliers()
    plain = parse_codec("sparse-sign:keep=2,channels=3,select=magnitude").compress(delta)
    wanda = parse_codec("sparse-sign:keep=2,channels=3,select=magnitude,pick=wanda")
    for sums in (torch.full((100,), 7.0), torch.zeros(100)):
        compressed = wanda.compress(delta, input_square_sum=sums)
        assert torch.equal(compressed.tensors["codes"], plain.tensors["codes"])
        torch.testing.assert_close(compressed.tensors["step"], plain.tensors["step"])


def test_wanda_asks_for_calibration():
    with pytest.raises(CodecOptionError, match="pick=wanda needs calibration texts; give them, or choose pick=mag"):
        parse_codec("sparse-sign:pick=wanda").compress(gaussian(4, 70))
