from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from meswitch.architecture import describe
from meswitch.codecs import decompress
from meswitch.dense_cache import DenseCache
from meswitch.errors import CheckpointError, MissingShardError, ShapeMismatchError, UnsupportedModelError
from meswitch.weights import DeltaWeights, WholeModel, formed_bytes, read_whole_model, whole_model_bytes
from tests.meswitch.serving_models import delta_between, fine_tune, save_base, tiny_config

CONFIG = tiny_config()
ARCHITECTURE = describe(CONFIG)
EMBEDDING, HEAD, LINEAR, NORM = (
    "model.embed_tokens.weight",
    "lm_head.weight",
    "model.layers.1.mlp.up_proj.weight",
    "model.norm.weight",
)


def read(root: Path) -> WholeModel:
    return read_whole_model(root, architecture=ARCHITECTURE, tied=False)


def delta_weights(base: Path, expert: Path, *, room: int = 0, codec: str = "rtn:bits=4") -> DeltaWeights:
    delta, cache = delta_between(base, expert, codec=codec), DenseCache(room)
    cache.lease("e", formed_bytes(delta))
    return DeltaWeights("e", base=read(base), delta=delta, cache=cache, architecture=ARCHITECTURE)


def test_a_whole_model_is_the_checkpoint_in_float32(tmp_path: Path) -> None:
    root = save_base(tmp_path / "base", CONFIG)
    stored = {name: t.bfloat16() for name, t in load_file(root / "model.safetensors").items()}
    save_file(stored, root / "model.safetensors", metadata={"format": "pt"})
    model = read(root)
    assert torch.equal(model.vector(LINEAR), stored[LINEAR].float())
    assert model.vocabulary == 96
    assert (
        model.nbytes
        == whole_model_bytes(root, architecture=ARCHITECTURE, tied=False)
        == sum(t.numel() * 4 for t in stored.values())
    )


def test_a_tied_head_is_the_embedding(tmp_path: Path) -> None:
    config = tiny_config(tie_word_embeddings=True)
    root = save_base(tmp_path / "base", config)
    model = read_whole_model(root, architecture=describe(config), tied=True)
    assert model.vector(HEAD) is model.vector(EMBEDDING)


def matrix(weights: WholeModel | DeltaWeights, name: str, rows: int) -> torch.Tensor:
    return weights.form(name).rows(torch.arange(rows))


@pytest.mark.parametrize("codec", ["rtn:bits=4", "dense"])
@pytest.mark.parametrize("room", [0, 10**6])
def test_delta_weights_are_base_plus_delta(tmp_path: Path, room: int, codec: str) -> None:
    base = save_base(tmp_path / "base", CONFIG)
    expert = fine_tune(base, tmp_path / "e", 1, vocabulary=99)
    weights, delta = delta_weights(base, expert, room=room, codec=codec), delta_between(base, expert, codec=codec)
    plain, tuned = read(base), load_file(expert / "model.safetensors")
    for name in (LINEAR, EMBEDDING, HEAD):
        expected = torch.cat((plain.vector(name) + decompress(delta.matrices[name]), tuned[name][96:]))
        torch.testing.assert_close(matrix(weights, name, expected.shape[0]), expected, rtol=0, atol=1e-6)
    assert torch.equal(weights.vector(NORM), tuned[NORM])
    assert weights.vocabulary == 99


def test_what_was_formed_is_found_if_there_is_room(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", CONFIG)
    expert = fine_tune(base, tmp_path / "e", 1)
    roomy, tight = (delta_weights(base, expert, room=room) for room in (10**6, 0))
    for weights in (roomy, tight):
        assert weights.find(LINEAR) is None
        weights.form(LINEAR)
    assert roomy.find(LINEAR) is not None
    assert tight.find(LINEAR) is None


@pytest.mark.parametrize("codec", ["rtn:bits=2", "salient:bits=2,channels=2", "dense"])
def test_formed_bytes_are_those_of_what_is_formed(tmp_path: Path, codec: str) -> None:
    base = save_base(tmp_path / "base", CONFIG)
    expert = fine_tune(base, tmp_path / "e", 1, vocabulary=99)
    delta, cache = delta_between(base, expert, codec=codec), DenseCache(10**6)
    cache.lease("e", formed_bytes(delta))
    weights = DeltaWeights("e", base=read(base), delta=delta, cache=cache, architecture=ARCHITECTURE)
    for name in delta.matrices:
        weights.form(name)
    assert cache.used_bytes == formed_bytes(delta)


@pytest.mark.parametrize("tied_base", [False, True])
@pytest.mark.parametrize("tied_expert", [False, True])
def test_heads_may_be_tied_in_one_and_not_in_the_other(tmp_path: Path, tied_base: bool, tied_expert: bool) -> None:
    config = tiny_config(tie_word_embeddings=tied_base)
    base = save_base(tmp_path / "base", config)
    expert = fine_tune(base, tmp_path / "e", 1, tie_word_embeddings=tied_expert)
    architecture = describe(config)
    whole, tuned = (
        read_whole_model(root, architecture=architecture, tied=tied)
        for root, tied in ((base, tied_base), (expert, tied_expert))
    )
    weights = DeltaWeights(
        "e", base=whole, delta=delta_between(base, expert), cache=DenseCache(0), architecture=architecture
    )
    for name in (EMBEDDING, HEAD):
        torch.testing.assert_close(matrix(weights, name, 96), tuned.vector(name))
    assert torch.equal(matrix(weights, EMBEDDING, 96), matrix(weights, HEAD, 96)) == tied_expert


def rewrite(root: Path, **changes: torch.Tensor | None) -> Path:
    tensors = load_file(root / "model.safetensors")
    for name, value in changes.items():
        if value is None:
            del tensors[name]
        else:
            tensors[name] = value
    save_file(tensors, root / "model.safetensors", metadata={"format": "pt"})
    return root


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    root = rewrite(save_base(tmp_path / "base", CONFIG), **{LINEAR: None})
    with pytest.raises(MissingShardError, match=LINEAR):
        read(root)


def test_another_shape_is_named(tmp_path: Path) -> None:
    root = rewrite(save_base(tmp_path / "base", CONFIG), **{LINEAR: torch.zeros(3, 32)})
    with pytest.raises(ShapeMismatchError, match=rf"{LINEAR} must have shape \(48, 32\), got \(3, 32\)"):
        read(root)


def test_tables_of_different_vocabularies_are_refused(tmp_path: Path) -> None:
    root = rewrite(save_base(tmp_path / "base", CONFIG), **{HEAD: torch.zeros(97, 32)})
    with pytest.raises(ShapeMismatchError, match=f"same number of rows, got {EMBEDDING} 96, {HEAD} 97"):
        whole_model_bytes(root, architecture=ARCHITECTURE, tied=False)


def test_a_tensor_of_no_plain_floats_is_refused_and_not_taken_for_weights(tmp_path: Path) -> None:
    root = rewrite(save_base(tmp_path / "base", CONFIG), **{LINEAR: torch.zeros(48, 32, dtype=torch.float8_e4m3fn)})
    with pytest.raises(UnsupportedModelError, match=f"{LINEAR} is torch.float8_e4m3fn, already quantised"):
        read(root)


def test_a_truncated_file_is_an_error(tmp_path: Path) -> None:
    path = save_base(tmp_path / "base", CONFIG) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="truncated"):
        read(tmp_path / "base")
