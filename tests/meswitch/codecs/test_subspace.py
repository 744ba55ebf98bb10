import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from meswitch.codecs.subspace import balanced_factors, leading_directions, weighted_directions


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def best(matrix: torch.Tensor, rank: int) -> torch.Tensor:
    """The best approximation of that rank, by another solver."""
    U, s, V = torch.linalg.svd(matrix, full_matrices=False)
    return (U[:, :rank] * s[:rank]) @ V[:rank]


def projected(matrix: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    return directions @ (directions.T @ matrix)


@settings(max_examples=40)
@given(N=st.integers(1, 20), K=st.integers(1, 20), seed=st.integers(0, 999), share=st.floats(0.0, 1.0))
def test_the_projection_is_the_best_of_its_rank(N, K, seed, share):
    matrix, rank = gaussian(N, K, seed=seed), max(1, round(share * min(N, K)))
    directions = leading_directions(matrix, rank)
    assert directions.shape == (N, rank)
    torch.testing.assert_close(projected(matrix, directions), best(matrix, rank), rtol=0.0, atol=1e-6)


@pytest.mark.parametrize("shape", [(6, 15), (15, 6)])
def test_directions_are_orthonormal_with_a_positive_largest_component(shape):
    directions = leading_directions(gaussian(*shape), 4)
    torch.testing.assert_close(directions.T @ directions, torch.eye(4, dtype=torch.float64))
    largest = directions.gather(0, directions.abs().argmax(dim=0, keepdim=True))
    assert bool((largest > 0).all())


@pytest.mark.parametrize("shape", [(6, 15), (15, 6)])
def test_beyond_the_rank_of_the_matrix_directions_are_zero(shape):
    N, K = shape
    matrix = gaussian(N, 2) @ gaussian(2, K, seed=1)
    directions = leading_directions(matrix, 5)
    assert directions[:, 2:].abs().max() == 0.0
    torch.testing.assert_close(projected(matrix, directions), matrix)


def test_a_matrix_of_zeros_has_no_directions():
    assert not leading_directions(torch.zeros(4, 3), 2).any()


@pytest.mark.parametrize("shape", [(6, 15), (15, 6)])
def test_weighted_directions_lose_least_in_the_output(shape):
    N, K = shape
    matrix, x = gaussian(N, K), gaussian(40, K, seed=1) * torch.linspace(0.1, 3.0, K)
    moment = x.T @ x
    left = (matrix - projected(matrix, weighted_directions(matrix, 3, moment))) @ x.T
    # the outputs X · Aᵀ of the best matrix of rank 3 are their best approximation of rank 3
    expected = matrix @ x.T - best(matrix @ x.T, 3)
    torch.testing.assert_close(left.norm(), expected.norm(), rtol=1e-6, atol=0.0)
    unweighted = (matrix - best(matrix, 3)) @ x.T
    assert float(left.norm()) < float(unweighted.norm())


def test_inputs_that_never_occur_do_not_count():
    matrix = torch.tensor([[1.0, 0.0], [0.0, 9.0]])
    moment = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    torch.testing.assert_close(
        weighted_directions(matrix, 1, moment), torch.tensor([[1.0], [0.0]], dtype=torch.float64)
    )


def test_factors_are_balanced_and_multiply_to_the_projection():
    matrix = gaussian(8, 12)
    directions = leading_directions(matrix, 3)
    left, right = balanced_factors(matrix, directions)
    torch.testing.assert_close((left @ right).double(), projected(matrix, directions), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(left.norm(dim=0), right.norm(dim=1))


def test_factors_of_zeros_are_zeros():
    matrix = torch.zeros(4, 3)
    left, right = balanced_factors(matrix, leading_directions(matrix, 2))
    assert not left.any()
    assert not right.any()
