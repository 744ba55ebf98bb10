import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from meswitch.codecs import quantise
from meswitch.codecs.levels import largest_level, nearest_levels
from meswitch.codecs.quantise import fitted_steps, quantise_rows, row_chunks, scaled_rows


def gaussian(N: int, K: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(N, K, generator=torch.Generator().manual_seed(seed))


def deltas_of_several_kinds() -> dict[str, torch.Tensor]:
    normal = gaussian(20, 300) * 1e-3
    heavy = normal * gaussian(20, 300, seed=1).exp()
    outliers = normal.clone()
    outliers[:, ::100] *= 30
    sparse = normal * (gaussian(20, 300, seed=2) > 0.6)
    return {"normal": normal, "heavy": heavy, "outliers": outliers, "sparse": sparse, "flat": normal.sign() * 1e-3}


def test_absmax_by_hand():
    levels, step = quantise_rows(torch.tensor([[3.0, -3.0, 1.0, 0.0]]), bits=2, rule="absmax")
    # the largest level is 1.5, so the step is 2
    assert step.tolist() == [2.0]
    assert levels.tolist() == [[1.5, -1.5, 0.5, 0.5]]


def test_least_squares_of_signs_is_the_mean_magnitude():
    levels, step = quantise_rows(torch.tensor([[1.0, -2.0, 3.0, -4.0]]), bits=1, rule="mse")
    # levels are ±1/2 and the mean magnitude is 2.5
    assert step.tolist() == [5.0]
    assert levels.tolist() == [[0.5, -0.5, 0.5, -0.5]]


def test_unbiased_step_of_signs_by_hand():
    _, step = quantise_rows(torch.tensor([[1.0, -2.0, 3.0, -4.0]]), bits=1, rule="unbiased")
    # ‖D‖² = 30 and ⟨D, level⟩ = 5
    assert step.tolist() == [6.0]


@pytest.mark.parametrize("kind", deltas_of_several_kinds())
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_least_squares_is_as_good_as_the_best_of_a_fine_grid(bits, kind):
    delta = deltas_of_several_kinds()[kind].to(torch.float64)
    levels, step = quantise_rows(delta.to(torch.float32), bits=bits, rule="mse")
    got = (delta - step.unsqueeze(1) * levels).square().sum(dim=1)
    best = torch.full_like(got, math.inf)
    for ratio in torch.linspace(0.005, 2.0, 800).tolist():
        grid_step = delta.abs().amax(dim=1, keepdim=True) / largest_level(bits) * ratio
        error = (delta - grid_step * nearest_levels(delta / grid_step, bits)).square().sum(dim=1)
        best = torch.minimum(best, error)
    # the mean, because a single row may end in a neighbouring minimum
    assert float(got.mean()) <= 1.01 * float(best.mean()) + 1e-12


@pytest.mark.parametrize("kind", ["normal", "heavy", "outliers"])
def test_least_squares_ends_where_no_level_changes_any_more(kind):
    delta = deltas_of_several_kinds()[kind]
    levels, step = quantise_rows(delta, bits=2, rule="mse")
    moved = levels != nearest_levels(delta / step.unsqueeze(1), 2)
    # one element may lie on an edge
    assert int(moved.sum()) <= 1


@pytest.mark.parametrize("kind", deltas_of_several_kinds())
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_least_squares_is_never_worse_than_absmax(bits, kind):
    delta = deltas_of_several_kinds()[kind]
    least, widest = (
        (delta - step.unsqueeze(1) * levels).square().sum(dim=1)
        for levels, step in (quantise_rows(delta, bits=bits, rule=rule) for rule in ("mse", "absmax"))
    )
    # the squares of 300 FP32 differences
    assert bool((least <= widest * (1 + 1e-3) + 1e-15).all())


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_least_squares_leaves_a_remainder_orthogonal_to_the_levels(bits):
    delta = gaussian(10, 200)
    levels, step = quantise_rows(delta, bits=bits, rule="mse")
    along = ((delta - step.unsqueeze(1) * levels) * levels).sum(dim=1)
    assert float((along / (delta.norm(dim=1) * levels.norm(dim=1))).abs().max()) < 1e-5


@given(
    N=st.integers(1, 4),
    K=st.integers(1, 100),
    bits=st.sampled_from([1, 2, 4, 8]),
    exponent=st.integers(-30, 30),
    seed=st.integers(0, 999),
)
def test_unbiased_step_keeps_the_length_along_the_delta(N, K, bits, exponent, seed):
    delta = gaussian(N, K, seed) * 10.0**exponent
    levels, step = quantise_rows(delta, bits=bits, rule="unbiased")
    exact = delta.to(torch.float64)
    described = step.to(torch.float64).unsqueeze(1) * levels
    torch.testing.assert_close((exact * described).sum(dim=1), exact.square().sum(dim=1), rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_unbiased_keeps_the_levels_of_least_squares(bits):
    delta = gaussian(10, 200)
    mse, unbiased = (quantise_rows(delta, bits=bits, rule=rule)[0] for rule in ("mse", "unbiased"))
    assert torch.equal(mse, unbiased)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_unbiased_step_is_at_most_twice_the_largest_magnitude(bits):
    # every level has at least half a step, so ⟨D, level⟩ ≥ Σ|D| / 2
    delta = deltas_of_several_kinds()["outliers"]
    _, step = quantise_rows(delta, bits=bits, rule="unbiased")
    assert bool((step <= 2 * delta.abs().amax(dim=1)).all())


@pytest.mark.parametrize("rule", ["absmax", "mse", "unbiased"])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_row_of_zeros_has_step_zero(bits, rule):
    levels, step = quantise_rows(torch.tensor([[0.0, 0.0], [1.0, -1.0]]), bits=bits, rule=rule)
    assert float(step[0]) == 0.0
    assert float(step[1]) > 0.0
    assert bool(levels.isfinite().all())


@pytest.mark.parametrize("rule", ["absmax", "mse", "unbiased"])
def test_no_row_depends_on_another(rule):
    delta = gaussian(6, 130)
    levels, step = quantise_rows(delta, bits=2, rule=rule)
    for n in range(6):
        alone_levels, alone_step = quantise_rows(delta[n : n + 1], bits=2, rule=rule)
        assert torch.equal(alone_levels[0], levels[n])
        torch.testing.assert_close(alone_step[0], step[n], rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("rule", ["mse", "unbiased"])
def test_a_delta_orthogonal_to_its_levels_gets_step_zero(rule):
    levels = torch.tensor([[0.5, 0.5], [-0.5, -0.5]])
    assert fitted_steps(torch.tensor([[1.0, -1.0], [1.0, 1.0]]), levels, rule=rule).tolist() == [0.0, 0.0]


def test_steps_for_given_levels_by_hand():
    delta, levels = torch.tensor([[3.0, -4.0, 1.0]]), torch.tensor([[1.0, -1.0, 0.0]])
    # ⟨D, level⟩ = 7, ‖level‖² = 2, ‖D‖² = 26
    assert fitted_steps(delta, levels, rule="mse").tolist() == [3.5]
    assert fitted_steps(delta, levels, rule="unbiased").tolist() == [pytest.approx(26 / 7)]


def test_a_step_beyond_float32_is_refused():
    with pytest.raises(ValueError, match=r"a step must fit float32, got a delta of magnitude 3\.0"):
        quantise_rows(torch.full((1, 2), 3e38), bits=1, rule="absmax")


@given(N=st.integers(1, 5000), K=st.integers(1, 3_000_000))
def test_row_chunks_cover_every_row_once(N, K):
    chunks = list(row_chunks(min(N, 50), K))
    assert [chunk.start for chunk in chunks] == [0, *(chunk.stop for chunk in chunks[:-1])]
    assert chunks[-1].stop == min(N, 50)
    assert all((chunk.stop - chunk.start - 1) * K < 1 << 20 for chunk in chunks)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_memory_that_is_written_again_changes_no_bit(bits):
    delta = torch.randn(40, 100, generator=torch.Generator().manual_seed(5)) * 1e-3
    delta[3] = 0
    delta[4, 7] = 1.0

    def fit(unit, step):
        # the same expressions, each with memory of its own
        levels = nearest_levels(unit / step.unsqueeze(1), bits)
        along, energy = torch.linalg.vecdot(unit, levels), torch.linalg.vecdot(levels, levels)
        fits = (along > 0) & (energy > 0)
        return torch.where(fits, along / energy, step), torch.where(fits, along * along / energy, 0.0)

    _, unit = scaled_rows(delta)
    room = (torch.empty_like(unit), torch.empty_like(unit))
    step = torch.full((40,), 0.3 / largest_level(bits))
    for _ in range(3):
        found, wanted = quantise._refit(unit, step, bits, room), fit(unit, step)
        assert torch.equal(found[0], wanted[0])
        assert torch.equal(found[1], wanted[1])
        step = found[0]


@pytest.mark.parametrize("bits", [2, 8])
def test_pieces_of_rows_are_quantised_as_the_whole(bits):
    delta = torch.randn(37, 70, generator=torch.Generator().manual_seed(6))
    whole = quantise_rows(delta, bits=bits, rule="unbiased")
    for size in (1, 8):
        pieces = [quantise_rows(part, bits=bits, rule="unbiased") for part in delta.split(size)]
        assert torch.equal(whole[0], torch.cat([levels for levels, _ in pieces]))
        assert torch.equal(whole[1], torch.cat([steps for _, steps in pieces]))


def test_a_gpu_takes_longer_pieces() -> None:
    # 2²³ elements instead of 2²⁰; other devices are treated as the CPU is
    assert [len(list(row_chunks(4096, 4096, torch.device(name)))) for name in ("cpu", "cuda", "meta")] == [16, 2, 16]
