import pytest
import torch

from meswitch.codecs import decompress, parse_codec
from meswitch.errors import CodecOptionError


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def decaying(N: int = 80, K: int = 120) -> torch.Tensor:
    """A delta whose singular values fall like that of a fine-tune: a few large ones, a long tail."""
    U, V = (torch.linalg.qr(gaussian(n, 80, seed=n)).Q for n in (N, K))
    return 1e-2 * (U * torch.arange(1, 81).float().pow(-0.7)) @ V.T


def best(matrix: torch.Tensor, rank: int) -> torch.Tensor:
    U, s, V = torch.linalg.svd(matrix.double(), full_matrices=False)
    return ((U[:, :rank] * s[:rank]) @ V[:rank]).float()


def relative_error(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got - want).norm() / want.norm())


@pytest.mark.parametrize("shape", [(20, 50), (50, 20)])
@pytest.mark.parametrize("rank", [1, 7, 20])
def test_it_is_the_truncated_singular_value_decomposition(shape, rank):
    delta = gaussian(*shape) * 1e-3
    described = decompress(parse_codec(f"lowrank:rank={rank}").compress(delta))
    # FP16 rounds both factors of every component by up to 2^-11
    assert relative_error(described, best(delta, rank)) < 2**-10


def test_a_delta_of_that_rank_is_exact_up_to_rounding():
    delta = 1e-3 * gaussian(30, 2) @ gaussian(2, 40, seed=1)
    assert relative_error(decompress(parse_codec("lowrank:rank=5").compress(delta)), delta) < 2**-10


def test_bits_are_a_budget_of_bytes():
    codec = parse_codec("lowrank:bits=2")
    # 2 bits of 80 · 120 are 2400 bytes; a component takes 2 · 200
    assert codec.layout(80, 120)["left"].shape == (80, 6)
    assert codec.compress(decaying()).nbytes == 2400


def test_no_more_components_than_the_delta_can_have():
    assert parse_codec("lowrank:bits=32").layout(4, 4)["left"].shape == (4, 4)


def test_mixed_precision_spends_more_bits_on_the_first_components():
    layout = parse_codec("lowrank:bits=4,precision=mixed").layout(512, 512)
    steps = {name: spec.shape[0] for name, spec in layout.items() if name.endswith("step")}
    # 131072 bytes: 2 · 1032 at 8 bits, 32 · 520 at 4 bits, and 264 each of the rest
    assert steps == {
        "left8_step": 2, "right8_step": 2, "left4_step": 32, "right4_step": 32, "left2_step": 425, "right2_step": 425
    }  # fmt: skip
    assert sum(spec.nbytes for spec in layout.values()) == 2 * 1032 + 32 * 520 + 425 * 264


def test_mixed_precision_is_the_product_of_rounded_vectors():
    delta = decaying()
    compressed = parse_codec("lowrank:rank=50,precision=mixed,step=mse").compress(delta)
    U, s, V = torch.linalg.svd(delta.double(), full_matrices=False)
    expected = torch.zeros_like(delta)
    for i in range(50):
        bits = 8 if i < 2 else 4 if i < 34 else 2
        left, right = (
            decompress(parse_codec(f"rtn:bits={bits},step=mse").compress((s[i].sqrt() * vector).float().unsqueeze(0)))
            for vector in (U[:, i], V[i])
        )
        expected += left.T @ right
    assert relative_error(decompress(compressed), expected) < 1e-3


@pytest.mark.parametrize("precision", ["float16", "mixed"])
def test_more_components_describe_better(precision):
    delta = decaying()
    errors = [
        relative_error(decompress(parse_codec(f"lowrank:rank={rank},precision={precision}").compress(delta)), delta)
        for rank in (1, 2, 8, 32)
    ]
    assert errors == sorted(errors, reverse=True)


def test_equal_bytes_describe_better_in_mixed_precision():
    delta = decaying()
    half, mixed = (parse_codec(f"lowrank:bits=4,precision={p}").compress(delta) for p in ("float16", "mixed"))
    assert mixed.nbytes <= half.nbytes
    assert relative_error(decompress(mixed), delta) < relative_error(decompress(half), delta)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("lowrank:rank=-1", "codec lowrank: rank must be at least 0, got -1"),
        ("lowrank:bits=0", "codec lowrank: bits must be above 0 and at most 32, got 0.0"),
        ("lowrank:bits=nan", "codec lowrank: bits must be above 0 and at most 32, got nan"),
        ("lowrank:precision=int8", "codec lowrank: precision must be one of float16, mixed, got int8"),
        ("lowrank:step=absmax", "codec lowrank: step must be one of mse, unbiased, got absmax"),
    ],
)
def test_wrong_options_are_refused(spec, message):
    with pytest.raises(CodecOptionError, match=message):
        parse_codec(spec)


def test_a_rank_that_the_delta_cannot_have_is_refused():
    with pytest.raises(CodecOptionError, match=r"codec lowrank: rank must be at most 4 for \[4, 9\], got 5"):
        parse_codec("lowrank:rank=5").layout(4, 9)


def test_a_budget_below_one_component_is_refused():
    with pytest.raises(CodecOptionError, match=r"bits must afford at least one component of \[4, 9\], got 2.0; raise"):
        parse_codec("lowrank:bits=2").layout(4, 9)
