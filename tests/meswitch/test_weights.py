from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from meswitch.architecture import describe
from meswitch.codecs import decompress
from meswitch.dense_cache import DenseCache
from meswitch.errors import CheckpointError, MissingShardError, ShapeMismatchError
from meswitch.weights import DeltaWeights, WholeModel, dense_bytes, read_whole_model, whole_model_bytes
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
    return read_whole_model(root, architecture=ARCHITECTURE, base_config=CONFIG)


def delta_weights(base: Path, expert: Path, *, room: int = 0, codec: str = "rtn:bits=4") -> DeltaWeights:
    delta, cache = delta_between(base, expert, codec=codec), DenseCache(room)
    cache.lease("e", dense_bytes(delta))
    return DeltaWeights("e", base=read(base), delta=delta, cache=cache, architecture=ARCHITECTURE)


def test_a_whole_model_is_the_checkpoint_in_float32(tmp_path: Path) -> None:
    root = save_base(tmp_path / "base", CONFIG)
    stored = {name: t.bfloat16() for name, t in load_file(root / "model.safetensors").items()}
    save_file(stored, root / "model.safetensors", metadata={"format": "pt"})
    model = read(root)
    assert torch.equal(model.find(LINEAR), stored[LINEAR].float())
    assert model.vocabulary == 96
    assert model.nbytes == whole_model_bytes(root, ARCHITECTURE) == sum(t.numel() * 4 for t in stored.values())


def test_a_tied_head_is_the_embedding(tmp_path: Path) -> None:
    config = tiny_config(tie_word_embeddings=True)
    root = save_base(tmp_path / "base", config)
    model = read_whole_model(root, architecture=describe(config), base_config=config)
    assert model.find(HEAD) is model.find(EMBEDDING)


@pytest.mark.parametrize("room", [0, 10**6])
def test_delta_weights_are_base_plus_delta(tmp_path: Path, room: int) -> None:
    base = save_base(tmp_path / "base", CONFIG)
    expert = fine_tune(base, tmp_path / "e", 1, vocabulary=99)
    weights, delta = delta_weights(base, expert, room=room), delta_between(base, expert, codec="rtn:bits=4")
    plain, tuned = read(base), load_file(expert / "model.safetensors")
    for name in (LINEAR, EMBEDDING, HEAD):
        expected = plain.find(name) + decompress(delta.matrices[name])
        assert torch.equal(weights.form(name)[: expected.shape[0]], expected)
        assert torch.equal(weights.form(name)[expected.shape[0] :], tuned[name][expected.shape[0] :])
    assert torch.equal(weights.form(NORM), tuned[NORM])
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


def test_dense_bytes_are_those_of_what_is_formed(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", CONFIG)
    expert = fine_tune(base, tmp_path / "e", 1, vocabulary=99)
    delta, cache = delta_between(base, expert), DenseCache(10**6)
    cache.lease("e", dense_bytes(delta))
    weights = DeltaWeights("e", base=read(base), delta=delta, cache=cache, architecture=ARCHITECTURE)
    for parameter in ARCHITECTURE.parameters:
        weights.form(parameter.name)
    assert cache.used_bytes == dense_bytes(delta)


@pytest.mark.parametrize("tied_base", [False, True])
@pytest.mark.parametrize("tied_expert", [False, True])
def test_heads_may_be_tied_in_one_and_not_in_the_other(tmp_path: Path, tied_base: bool, tied_expert: bool) -> None:
    config = tiny_config(tie_word_embeddings=tied_base)
    base = save_base(tmp_path / "base", config)
    expert = fine_tune(base, tmp_path / "e", 1, tie_word_embeddings=tied_expert)
    architecture = describe(config)
    whole, tuned = (read_whole_model(root, architecture=architecture, base_config=config) for root in (base, expert))
    weights = DeltaWeights(
        "e", base=whole, delta=delta_between(base, expert), cache=DenseCache(0), architecture=architecture
    )
    for name in (EMBEDDING, HEAD):
        torch.testing.assert_close(weights.form(name), tuned.find(name))
    assert torch.equal(weights.form(EMBEDDING), weights.form(HEAD)) == tied_expert


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


def test_a_truncated_file_is_an_error(tmp_path: Path) -> None:
    path = save_base(tmp_path / "base", CONFIG) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="truncated"):
        read(tmp_path / "base")
