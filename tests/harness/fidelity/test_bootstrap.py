import numpy as np
import pytest

from harness.fidelity.bootstrap import TaskScores, resampled


def scores(kl: list[list[list[float]]], tokens: list[float]) -> TaskScores:
    array, lengths = np.asarray(kl), np.asarray(tokens)
    zeros, seeds = np.zeros_like(array), array.shape[0]
    ends = np.ones((seeds, len(tokens))) * lengths
    return TaskScores(
        tokens=lengths,
        nll=array,
        kl=array,
        agree=zeros + lengths,
        right=zeros,
        exact=zeros,
        nll_base=4 * ends,
        nll_expert=0 * ends,
        exact_expert=np.ones((seeds, len(tokens))),
    )


def test_tasks_and_seeds_count_alike_and_items_by_their_tokens() -> None:
    # seeds: (1 + 3) / 4 = 1 and (3 + 5) / 4 = 2; the other task: 6 / 2 = 3
    draws = resampled([scores([[[1, 3]], [[3, 5]]], [1, 3]), scores([[[6]]], [2])])
    assert draws["kl"].value.tolist() == [pytest.approx((1.5 + 3) / 2)]
    assert draws["agreement"].value.tolist() == [1.0]
    assert draws["accuracy_change"].value.tolist() == [-1.0]
    # nll 4 of 16, 8 of 16, and 6 of 8
    assert draws["gap_closed"].value.tolist() == [pytest.approx(((0.75 + 0.5) / 2 + 0.25) / 2)]


def test_interval_of_a_mean_has_the_width_of_its_standard_error() -> None:
    generator = np.random.default_rng(1)
    values = generator.normal(5.0, 1.0, size=(1, 1, 400))
    estimate = resampled([scores(values.tolist(), [1.0] * 400)])["kl"].estimate(0)
    assert estimate.low is not None
    assert estimate.high is not None
    # 2 · 1.96 / sqrt(400), within what 2000 resamples and 400 draws give
    assert estimate.high - estimate.low == pytest.approx(0.196, rel=0.15)
    assert estimate.low < estimate.value < estimate.high


def test_what_two_arms_share_cancels_in_their_ratio_and_difference() -> None:
    generator = np.random.default_rng(2)
    common = generator.uniform(0.5, 1.5, size=100)
    draws = resampled([scores([[common.tolist(), (2 * common).tolist()]], [1.0] * 100)])["kl"]
    ratio = draws.ratio(1, 0)
    assert [ratio.low, ratio.value, ratio.high] == pytest.approx([2, 2, 2])
    assert draws.difference(1, 0).value == pytest.approx(common.mean())


def test_spread_between_seeds_widens_the_interval() -> None:
    narrow = resampled([scores([[[1.0] * 50], [[1.0] * 50]], [1.0] * 50)])["kl"].estimate(0)
    wide = resampled([scores([[[0.5] * 50], [[1.5] * 50]], [1.0] * 50)])["kl"].estimate(0)
    assert (narrow.low, narrow.high) == (1.0, 1.0)
    assert (wide.low, wide.high) == (0.5, 1.5)
