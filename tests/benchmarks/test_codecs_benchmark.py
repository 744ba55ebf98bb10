"""How long each codec takes for one 1024 × 1024 delta on this machine. Run by `make bench`."""

import pytest
import torch

from meswitch.codecs import decompress, parse_codec

pytestmark = pytest.mark.benchmark

SPECS = [
    "dense",
    "rtn:bits=1",
    "rtn:bits=2",
    "rtn:bits=4",
    "rtn:bits=8",
    "rtn:bits=2,step=absmax",
    "bitdelta",
    "salient:bits=2,channels=8",
    "nested",
    "sparse-sign:group=4",
    "sparse-sign:group=8,channels=8",
    "sparse-sign:group=8,keep=2",
    "ternary",
    "dare",
    "lowrank:bits=2",
    "lowrank:bits=2,precision=mixed",
    "gptq:bits=2",
    "eora",
]


@pytest.fixture(scope="module")
def delta():
    return torch.randn(1024, 1024, generator=torch.Generator().manual_seed(0)) * 1e-3


@pytest.mark.parametrize("spec", SPECS)
def test_compress(benchmark, delta, spec):
    codec = parse_codec(spec)
    benchmark.extra_info["bits_per_weight"] = 8 * sum(t.nbytes for t in codec.layout(1024, 1024).values()) / 2**20
    compressed = benchmark(codec.compress, delta)
    # no time is shown for a result that is not one
    assert float(torch.cosine_similarity(decompress(compressed).view(-1), delta.view(-1), dim=0)) > 0.25


@pytest.mark.parametrize("spec", SPECS)
def test_decompress(benchmark, delta, spec):
    compressed = parse_codec(spec).compress(delta)
    described = benchmark(decompress, compressed)
    assert described.shape == (1024, 1024)
