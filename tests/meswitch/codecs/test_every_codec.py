"""What holds for each codec alike."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from meswitch.codecs import CompressedDelta, decompress, format_spec, parse_codec, quantise, scale_delta
from meswitch.errors import DeltaFormatError

LOSSLESS = ["dense"]
LOSSY = [
    "dense:dtype=bfloat16",
    "dense:dtype=float16",
    "rtn:bits=1,step=absmax",
    "rtn:bits=2,step=mse",
    "rtn:bits=4",
    "rtn:bits=8",
    "bitdelta",
    "salient:channels=3",
    "salient:channels=3,bits=1,step=mse,refit=false",
    "salient:channels=3,bits=4,select=random,seed=7",
    "salient:channels=0,bits=8",
    "dare:drop=0.5",
    "eora:rank=1",
    "eora:rank=1,channels=3,bits=1,step=unbiased",
    "gptq",
    "gptq:bits=4,step=mse",
    "lowrank:rank=1",
    "lowrank:rank=1,precision=mixed",
    "nested",
    "nested:step=mse",
    "sparse-sign",
    "sparse-sign:group=8,channels=3",
    "sparse-sign:group=16,step=mse,channels=3,select=random",
    "sparse-sign:group=4,keep=2,channels=2",
    "sparse-sign:group=8,keep=2,step=mse",
    "ternary",
    "ternary:scope=matrix,step=std,density=0.5",
]
SPECS = LOSSLESS + LOSSY


def gaussian(N: int, K: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(N, K, generator=torch.Generator().manual_seed(seed)) * 1e-3


def stored(compressed: CompressedDelta) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in compressed.tensors.items()}


@given(spec=st.sampled_from(SPECS), N=st.integers(1, 9), K=st.integers(4, 140), seed=st.integers(0, 999))
def test_size_is_known_before_any_work(spec, N, K, seed):
    codec = parse_codec(spec)
    layout = codec.layout(N, K)
    compressed = codec.compress(gaussian(N, K, seed))
    assert {name: (tuple(t.shape), t.dtype) for name, t in compressed.tensors.items()} == {
        name: (spec.shape, spec.dtype) for name, spec in layout.items()
    }
    assert compressed.nbytes == sum(spec.nbytes for spec in layout.values())
    assert compressed.shape == (N, K)


@given(spec=st.sampled_from(SPECS), N=st.integers(1, 9), K=st.integers(4, 140), seed=st.integers(0, 999))
def test_decompressing_gives_a_float32_matrix_like_the_delta(spec, N, K, seed):
    delta = gaussian(N, K, seed)
    described = decompress(parse_codec(spec).compress(delta))
    assert described.shape == delta.shape
    assert described.dtype == torch.float32
    # every codec points the same way as the delta, and no further than the shortest sign code leaves it
    assert float((described * delta).sum()) > 0
    assert bool(described.isfinite().all())


@pytest.mark.parametrize("spec", ["dense", "rtn:bits=1", "rtn:bits=8,step=absmax", "bitdelta", "salient:channels=0"])
def test_a_single_element_is_described(spec):
    described = decompress(parse_codec(spec).compress(torch.tensor([[-0.25]])))
    torch.testing.assert_close(described, torch.tensor([[-0.25]]))


@pytest.mark.parametrize("spec", SPECS)
def test_a_delta_of_zeros_stays_the_base(spec):
    assert not decompress(parse_codec(spec).compress(torch.zeros(3, 70))).any()


@pytest.mark.parametrize("spec", SPECS)
def test_inputs_are_not_modified(spec):
    delta, sums = gaussian(5, 70), torch.rand(70, generator=torch.Generator().manual_seed(1))
    before = delta.clone(), sums.clone()
    compressed = parse_codec(spec).compress(delta, input_square_sum=sums)
    tensors = stored(compressed)
    decompress(compressed).fill_(7.0)
    assert torch.equal(delta, before[0])
    assert torch.equal(sums, before[1])
    assert all(torch.equal(compressed.tensors[name], tensors[name]) for name in tensors)
    delta.fill_(7.0)
    assert all(torch.equal(compressed.tensors[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("spec", SPECS)
def test_the_same_delta_gives_the_same_bytes(spec):
    first, second = (stored(parse_codec(spec).compress(gaussian(5, 70))) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("gain", [0.25, 0.9, 1.1])
@pytest.mark.parametrize("spec", SPECS)
def test_a_gain_multiplies_what_is_described(spec, gain):
    compressed = parse_codec(spec).compress(gaussian(5, 70))
    tensors = stored(compressed)
    scaled = scale_delta(compressed, gain)
    # FP16 and BF16 values and factors are rounded again, or land among the subnormals
    described = decompress(compressed)
    error = decompress(scaled) - gain * described
    coarse = any(tensor.dtype == torch.bfloat16 for tensor in tensors.values())
    assert float(error.norm() / described.norm()) < (2**-8 if coarse else 2**-10)
    assert (scaled.codec, scaled.options, scaled.shape, scaled.nbytes) == (
        compressed.codec, compressed.options, compressed.shape, compressed.nbytes
    )  # fmt: skip
    assert all(torch.equal(compressed.tensors[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("spec", SPECS)
def test_strides_of_the_delta_do_not_matter(spec):
    delta = gaussian(5, 70)
    strided = delta.t().contiguous().t()
    expected, got = (stored(parse_codec(spec).compress(d)) for d in (delta, strided))
    assert all(torch.equal(expected[name], got[name]) for name in expected)


@pytest.mark.parametrize("spec", SPECS)
def test_working_in_pieces_does_not_matter(spec, monkeypatch):
    delta = gaussian(9, 70)
    whole = decompress(parse_codec(spec).compress(delta))
    monkeypatch.setattr(quantise, "_CHUNK_ELEMENTS", {"cpu": 150})
    torch.testing.assert_close(decompress(parse_codec(spec).compress(delta)), whole, rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("spec", SPECS)
def test_meta_deltas_give_meta_tensors_of_the_layout(spec):
    codec = parse_codec(spec)
    compressed = codec.compress(torch.empty(5, 70, device="meta"))
    assert all(t.is_meta for t in compressed.tensors.values())
    assert compressed.nbytes == sum(spec.nbytes for spec in codec.layout(5, 70).values())
    assert decompress(compressed).is_meta


@pytest.mark.parametrize("spec", SPECS)
def test_a_lower_precision_delta_is_accepted(spec):
    delta = gaussian(5, 70).to(torch.bfloat16)
    expected, got = (stored(parse_codec(spec).compress(d)) for d in (delta.to(torch.float32), delta))
    assert all(torch.equal(expected[name], got[name]) for name in expected)


@pytest.mark.parametrize("spec", SPECS)
def test_options_survive_the_spec_string(spec):
    codec = parse_codec(spec)
    assert parse_codec(format_spec(codec.name, codec.options)) == codec


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("spec", SPECS)
def test_a_delta_that_is_not_finite_is_refused_by_place(spec, bad):
    delta = gaussian(4, 70)
    delta[2, 5] = bad
    with pytest.raises(ValueError, match=f"a delta must be finite, got {bad} at row 2, column 5"):
        parse_codec(spec).compress(delta)


@pytest.mark.parametrize("delta", [torch.zeros(4), torch.zeros(0, 4), torch.zeros(4, 4, dtype=torch.int32)])
@pytest.mark.parametrize("spec", SPECS)
def test_what_is_not_a_matrix_of_floats_is_refused(spec, delta):
    with pytest.raises(ValueError, match=r"a delta must be a non-empty floating-point matrix \[N, K\], got"):
        parse_codec(spec).compress(delta)


@pytest.mark.parametrize("spec", SPECS)
def test_tensors_of_another_shape_are_refused(spec):
    codec = parse_codec(spec)
    compressed = codec.compress(gaussian(4, 70))
    name = next(iter(compressed.tensors))
    cut = {**compressed.tensors, name: compressed.tensors[name][:-1]}
    damaged = CompressedDelta(codec=codec.name, options=codec.options, shape=(4, 70), tensors=cut)
    with pytest.raises(DeltaFormatError, match=f"codec {codec.name}: tensor {name} must be "):
        decompress(damaged)


@pytest.mark.parametrize("spec", SPECS)
def test_a_missing_tensor_is_refused(spec):
    codec = parse_codec(spec)
    damaged = CompressedDelta(codec=codec.name, options=codec.options, shape=(4, 70), tensors={})
    with pytest.raises(DeltaFormatError, match=rf"codec {codec.name} stores the tensors .*, got none"):
        decompress(damaged)


@pytest.mark.gpu
@pytest.mark.parametrize("spec", SPECS)
def test_cuda_describes_like_the_cpu(spec):
    delta = gaussian(33, 200)
    compressed = parse_codec(spec).compress(delta.cuda())
    assert all(t.is_cuda for t in compressed.tensors.values())
    difference = decompress(compressed).cpu() - decompress(parse_codec(spec).compress(delta))
    # sums in another order may move a value that is halfway between two levels
    assert float(difference.norm() / delta.norm()) < 1e-2
