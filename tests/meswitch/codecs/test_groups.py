import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from meswitch.codecs.groups import choose_codes, group_levels


def gaussian(N: int, K: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(N, K, generator=torch.Generator().manual_seed(seed))


def levels_of(
    delta: torch.Tensor,
    *,
    group: int,
    keep: int = 1,
    free: tuple[int, ...] = (),
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    mask = torch.zeros(delta.shape[1], dtype=torch.bool)
    mask[list(free)] = True
    codes = choose_codes(delta, group=group, keep=keep, free=mask, weights=weights)
    return group_levels(codes, group=group, K=delta.shape[1])


def one_by_one(delta: torch.Tensor, group: int) -> torch.Tensor:
    """The sign of the first largest magnitude of each group, element by element."""
    levels = torch.zeros_like(delta)
    for n, row in enumerate(delta.tolist()):
        for start in range(0, len(row), group):
            part = [abs(value) for value in row[start : start + group]]
            k = start + part.index(max(part))
            levels[n, k] = -1.0 if row[k] < 0 else 1.0
    return levels


@given(N=st.integers(1, 4), K=st.integers(1, 100), group=st.sampled_from([4, 8, 16]), seed=st.integers(0, 999))
def test_one_code_is_the_sign_of_the_largest(N, K, group, seed):
    delta = gaussian(N, K, seed)
    assert torch.equal(levels_of(delta, group=group), one_by_one(delta, group))


def test_of_equal_magnitudes_the_lower_place_is_kept():
    assert levels_of(torch.tensor([[1.0, -2.0, 2.0, -2.0]]), group=4).tolist() == [[0, -1, 0, 0]]


@pytest.mark.parametrize("scale", [1e-30, 1e30])
@pytest.mark.parametrize("keep", [1, 2])
def test_the_size_of_a_delta_does_not_matter(scale, keep):
    delta = gaussian(5, 64)
    assert torch.equal(levels_of(delta * scale, group=8, keep=keep), levels_of(delta, group=8, keep=keep))


def test_groups_of_zeros_change_sign():
    delta = torch.zeros(1, 16)
    delta[0, 7] = 3.0
    assert levels_of(delta, group=4).tolist() == [[1, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, -1, 0, 0, 0]]


def test_groups_of_zeros_prefer_a_place_that_does_no_harm():
    delta = torch.tensor([[5.0, 9.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]])
    # channels 1 and 6 are stored elsewhere
    assert levels_of(delta, group=4, free=(1, 6)).tolist() == [[1, 0, 0, 0, 0, 0, -1, 0]]


def test_groups_of_zeros_that_are_cut_off_are_silent():
    # the last group has two elements, and its code names the place behind them
    assert levels_of(torch.tensor([[2.0, 1.0, 0.0, 0.0, 0.0, 0.0]]), group=4).tolist() == [[1, 0, 0, 0, 0, 0]]


def test_free_channels_are_kept_only_where_all_are_free():
    levels = levels_of(torch.tensor([[9.0, -1.0, 0.5, 0.0, 9.0, 9.0, -9.0, 9.0]]), group=4, free=(0, 4, 5, 6, 7))
    assert levels[0, :4].tolist() == [0, -1, 0, 0]
    assert int(levels[0, 4:].abs().sum()) == 1


def test_two_codes_by_hand():
    # the step is near 3: two alike are both kept, one far larger counts twice, and small ones are left out
    delta = torch.tensor([[3.0, 0.1, -3.0, 0.2, 6.0, 0.1, 0.0, 0.2, 0.3, -0.2, 0.1, 0.0]])
    assert levels_of(delta, group=4, keep=2).tolist() == [[1, 0, -1, 0, 2, 0, 0, 0, 0, 0, 0, 0]]


@settings(max_examples=40)
@given(groups=st.integers(1, 6), group=st.sampled_from([4, 8]), zeros=st.floats(0.0, 0.9), seed=st.integers(0, 999))
def test_two_codes_are_the_best_of_all_at_their_step(groups, group, zeros, seed):
    generator = torch.Generator().manual_seed(seed)
    delta = gaussian(1, groups * group, seed) * (torch.rand(1, groups * group, generator=generator) >= zeros)
    levels = levels_of(delta, group=group, keep=2)
    step = float((delta * levels).sum()) / max(float(levels.square().sum()), 1.0)
    units = torch.cat((torch.eye(group), -torch.eye(group)))
    pairs = (units.unsqueeze(0) + units.unsqueeze(1)).view(-1, group)
    for part, got in zip(delta.view(-1, group), levels.view(-1, group), strict=True):
        best = float((part - step * pairs).square().sum(dim=1).min())
        # Lloyd's iteration may stop a little before its fixed point
        assert float((part - step * got).square().sum()) <= best + 0.05 * step**2


@pytest.mark.parametrize("zeros", [0.0, 0.27, 0.9])
@pytest.mark.parametrize("group", [4, 8, 16])
def test_two_codes_leave_less_than_the_two_largest(group, zeros):
    delta = gaussian(20, 512) * (torch.rand(20, 512, generator=torch.Generator().manual_seed(1)) >= zeros)
    top = delta.view(20, -1, group).abs().topk(2).indices
    pair = torch.zeros(20, 512 // group, group).scatter_(-1, top, 1.0).view(20, 512) * torch.where(delta < 0, -1.0, 1.0)
    ours, theirs = levels_of(delta, group=group, keep=2), pair
    explained = [(delta * x).sum(dim=1).square() / x.square().sum(dim=1) for x in (ours, theirs)]
    assert float(explained[0].sum()) > float(explained[1].sum())


def test_the_first_of_two_codes_is_the_only_one_of_one():
    delta, free = gaussian(5, 100), torch.zeros(100, dtype=torch.bool)
    one, two = (choose_codes(delta, group=8, keep=keep, free=free) for keep in (1, 2))
    assert torch.equal(two[0], one[0])


def test_weights_decide_what_is_the_largest():
    delta = torch.tensor([[1.0, -3.0, 2.0, 0.0]])
    # the squared magnitudes 1, 9, 4 weigh 20, 9, 16
    weights = torch.tensor([20.0, 1.0, 4.0, 99.0])
    assert levels_of(delta, group=4, weights=weights).tolist() == [[1, 0, 0, 0]]
    assert levels_of(delta, group=4, weights=1e-30 * weights).tolist() == [[1, 0, 0, 0]]


@pytest.mark.parametrize("group", [4, 8])
def test_two_codes_weigh_the_errors_of_both_places(group):
    delta, weights = gaussian(1, 64 * group), gaussian(64 * group, 1, seed=1).view(-1).exp()
    levels = levels_of(delta, group=group, keep=2, weights=weights)
    step = float((weights * delta * levels).sum() / (weights * levels.square()).sum())
    kinds = set()
    parts = (x.view(-1, group) for x in (delta, levels, weights))
    for part, got, weight in zip(*parts, strict=True):
        first, second = (part.abs() * weight.sqrt()).topk(2).indices.tolist()
        one, two = torch.zeros(group), torch.zeros(group)
        one[first], two[second] = part[first].sign(), part[second].sign()
        errors = [float((weight * (part - step * kind).square()).sum()) for kind in (one + two, 2 * one, 0 * one)]
        # Lloyd's iteration may stop a little before its fixed point
        assert float((weight * (part - step * got).square()).sum()) <= min(errors) + 0.02 * step**2 * float(
            weight.max()
        )
        kinds.add(errors.index(min(errors)))
    assert kinds == {0, 1, 2}
