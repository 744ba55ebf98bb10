import pytest
import torch

from harness.fidelity.describe import describe_one
from harness.fidelity.moments import Moments
from harness.fidelity.stacked import Stacks, has_independent_rows
from meswitch.codecs import parse_codec

SHAPES = {"a": (48, 64), "b": (48, 64), "c": (16, 64), "d": (40, 96)}


def stacks() -> Stacks:
    generator = torch.Generator().manual_seed(3)
    deltas, second = {}, {}
    for name, (N, K) in SHAPES.items():
        # outliers, so that channels differ
        scales = torch.rand(K, generator=generator) ** 4
        deltas[name] = 1e-3 * torch.randn(N, K, generator=generator) * scales
        x = torch.randn(200, K, generator=generator) * torch.rand(K, generator=generator)
        second[name] = x.T @ x
    second["b"] = second["a"]
    return Stacks(deltas, Moments(second=second, square_sums={name: m.diagonal() for name, m in second.items()}))


@pytest.mark.parametrize(
    "spec",
    [
        "rtn:bits=2,step=mse",
        "nested",
        "sparse-sign:group=8",
        "sparse-sign:group=4,keep=2",
        "ternary:density=0.3",
        "salient:bits=2,channels=4,step=mse",
        "salient:bits=2,channels=4,step=unbiased",
        "salient:bits=4,channels=4",
        "salient:bits=1,channels=4",
        "salient:bits=2,channels=4,refit=false",
        "salient:bits=2,channels=4,refit=false,step=mse",
        "salient:bits=2,channels=0",
        "salient:bits=2,channels=4,select=random",
        "salient:bits=2,channels=4,select=random,refit=false",
        "salient:bits=2,channels=4,select=magnitude",
        "salient:bits=2,channels=4,select=wanda",
        "salient:bits=2,channels=4,select=activation",
        "gptq:bits=2,step=mse",
        "gptq:bits=2,step=unbiased",
        "gptq:bits=1,step=unbiased",
        "lowrank:bits=4",
        "lowrank:bits=4,precision=mixed",
        "lowrank:rank=3,precision=mixed,step=mse",
        "eora:bits=2,rank=4",
        "eora:bits=2,rank=4,channels=2",
    ],
)
def test_matrices_described_together_are_described_as_alone(spec: str) -> None:
    codec, subject = parse_codec(spec), stacks()
    together = subject.describe(codec)
    assert together is not None
    assert together.keys() == SHAPES.keys()
    for name, delta in subject.deltas.items():
        alone = describe_one(codec, delta, subject.moments.second[name], subject.moments.square_sums[name])
        torch.testing.assert_close(
            together[name], alone, rtol=1e-4, atol=1e-7, msg=lambda words, n=name: f"{n}: {words}"
        )


def test_one_decomposition_serves_every_low_rank() -> None:
    subject = stacks()
    subject.describe(parse_codec("lowrank:rank=2"))
    kept = dict(subject.directions)
    subject.describe(parse_codec("lowrank:rank=5"))
    assert all(subject.directions[shape] is kept[shape] for shape in kept)


@pytest.mark.parametrize(
    "spec", ["bitdelta", "sparse-sign:channels=8", "sparse-sign:pick=wanda", "ternary:scope=matrix", "dare"]
)
def test_other_codecs_are_asked_for_each_matrix(spec: str) -> None:
    assert not has_independent_rows(parse_codec(spec))
    assert stacks().describe(parse_codec(spec)) is None
