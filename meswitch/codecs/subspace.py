"""The best approximations of low rank, by projection.

A is a matrix `[N, K]`, or a stack of them `[…, N, K]`, R a rank. With the R leading left singular vectors U of A,
`U · Uᵀ · A` is the best matrix of rank R (Eckart and Young). Where errors count by the inputs `M = Σ x xᵀ`, the vectors
are those of `A · M^½`.
"""

import torch

__all__ = ["balanced_factors", "leading_directions", "moment_root", "weighted_directions"]

# a singular value below this share of the largest is rounding: eigenvalues of the Gram matrix are its square
_NEGLIGIBLE = 1e-7


def leading_directions(matrix: torch.Tensor, rank: int) -> torch.Tensor:
    """The `rank` leading left singular vectors of `matrix` `[…, N, K]`, `[…, N, rank]` float64; 0 beyond its rank.

    Found from the smaller Gram matrix. The largest component of every vector is positive, so that equal inputs give
    equal vectors whatever the solver's signs.
    """
    matrix = matrix.to(torch.float64).contiguous()
    N, K = matrix.shape[-2:]
    if N <= K:
        values, vectors = torch.linalg.eigh(matrix @ matrix.mT)
        directions = vectors.flip(-1)[..., :rank]
    else:
        values, vectors = torch.linalg.eigh(matrix.mT @ matrix)
        directions = matrix @ vectors.flip(-1)[..., :rank]
    sizes = values.flip(-1)[..., :rank].clamp(min=0).sqrt().unsqueeze(-2)
    real = sizes > _NEGLIGIBLE * sizes[..., :1]
    lengths = torch.where(real, directions.norm(dim=-2, keepdim=True), 1.0)
    directions = torch.where(real, directions / lengths, 0.0)
    largest = directions.gather(-2, directions.abs().argmax(dim=-2, keepdim=True))
    return torch.where(largest < 0, -directions, directions)


def moment_root(second_moment: torch.Tensor) -> torch.Tensor:
    """`M^½` of `second_moment` `M` `[…, K, K]`, float64, up to a rotation of the inputs.

    Left singular vectors of `A · M^½` do not see such a rotation.

    Args:
        second_moment: symmetric and positive semi-definite.
    """
    values, vectors = torch.linalg.eigh(second_moment.to(torch.float64))
    root: torch.Tensor = vectors * values.clamp(min=0).sqrt().unsqueeze(-2)
    return root


def weighted_directions(matrix: torch.Tensor, rank: int, second_moment: torch.Tensor) -> torch.Tensor:
    """The `rank` leading left singular vectors of `matrix · M^½`, `[…, N, rank]` float64, for `M` `[…, K, K]`."""
    return leading_directions(matrix.to(torch.float64) @ moment_root(second_moment), rank)


def balanced_factors(matrix: torch.Tensor, directions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`left` `[…, N, R]` and `right` `[…, R, K]` float32 with `left · right = U · Uᵀ · matrix`.

    The two vectors of each component have equal length, so that neither is small for a narrow type.
    """
    right = directions.mT @ matrix.to(torch.float64)
    roots = right.norm(dim=-1).sqrt()
    left = directions * roots.unsqueeze(-2)
    right = right / torch.where(roots > 0, roots, 1.0).unsqueeze(-1)
    return left.to(torch.float32), right.to(torch.float32)
