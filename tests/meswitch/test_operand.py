import pytest
import torch

from meswitch.codecs import decompress, parse_codec
from meswitch.codecs.base import CompressedDelta
from meswitch.operand import DenseOperand, LevelOperand, has_levels, level_operand, level_operand_bytes

SPECS = [
    "bitdelta",
    "rtn:bits=1",
    "rtn:bits=2",
    "rtn:bits=4",
    "rtn:bits=8",
    "salient:bits=2,channels=3",
    "salient:bits=4,channels=1",
]
EPS = torch.finfo(torch.float32).eps

SHAPES = [(7, 33), (64, 64), (5, 130)]


def tensor(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def operand(spec: str, N: int, K: int, added: int = 0) -> tuple[LevelOperand, CompressedDelta, torch.Tensor]:
    """The operand, its compressed delta, and the matrix that it stands for."""
    delta = tensor(N, K, seed=1) * 0.1
    delta[0] = 0
    compressed, base = parse_codec(spec).compress(delta), tensor(N, K, seed=2)
    rest = tensor(added, K, seed=3) if added else None
    whole = base + decompress(compressed)
    return (
        level_operand(compressed, base=base, added=rest),
        compressed,
        whole if rest is None else torch.cat((whole, rest)),
    )


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize(("N", "K"), SHAPES)
def test_rows_are_those_of_base_plus_delta(spec: str, N: int, K: int) -> None:
    held, _, whole = operand(spec, N, K)
    torch.testing.assert_close(held.rows(torch.arange(N)), whole, rtol=0, atol=EPS * float(whole.abs().max()))


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize(("N", "K"), SHAPES)
def test_products_are_those_of_base_plus_delta(spec: str, N: int, K: int) -> None:
    held, _, whole = operand(spec, N, K)
    x, bias = tensor(2, 3, K, seed=4), tensor(N, seed=5)
    expected = torch.nn.functional.linear(x.double(), whole.double(), bias.double())
    # float32 rounds each of K terms and a few sums of them
    bound = 4 * EPS * K**0.5 * float(expected.abs().max())
    torch.testing.assert_close(held.product(x, bias).double(), expected, rtol=0, atol=bound)


def test_added_rows_are_used_as_they_are() -> None:
    held, _, whole = operand("salient:bits=2,channels=3", 7, 33, added=2)
    ids = torch.tensor([8, 0, 7, 6])
    torch.testing.assert_close(held.rows(ids), whole[ids], rtol=0, atol=EPS * float(whole.abs().max()))
    x, bias = tensor(2, 33, seed=4), tensor(9, seed=5)
    expected = torch.nn.functional.linear(x, whole, bias)
    torch.testing.assert_close(held.product(x, bias), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("added", [0, 2])
def test_bytes_are_known_before_it_is_made(spec: str, added: int) -> None:
    held, compressed, whole = operand(spec, 7, 33, added=added)
    assert held.nbytes == level_operand_bytes(compressed, whole[7:] if added else None)


def test_two_bit_levels_take_a_byte_a_weight_and_a_step_a_row() -> None:
    held, _, _ = operand("rtn:bits=2", 64, 64)
    assert held.nbytes == 64 * 64 + 64 * 4
    assert held.levels.unique().tolist() == [-3, -1, 1, 3]
    assert DenseOperand(held.base).nbytes == 64 * 64 * 4


def test_a_row_without_a_delta_is_exactly_the_base() -> None:
    held, _, _ = operand("rtn:bits=2", 7, 33)
    assert torch.equal(held.rows(torch.tensor([0]))[0], held.base[0])


def test_other_codecs_have_no_levels() -> None:
    assert not has_levels(parse_codec("dense").compress(tensor(4, 4)))
