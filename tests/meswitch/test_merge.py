"""Merged checkpoints: plain files that transformers loads, in the dtype and shards that were asked for."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from meswitch.compress import CompressConfig, compress_expert
from meswitch.errors import BaseMismatchError, CheckpointError, DeltaFormatError
from meswitch.merge import merge
from tests.meswitch.checkpoints import fine_tune, save_model, tensors_of, tiny_config


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("models")
    base = save_model(root / "base", tiny_config(), dtype=torch.bfloat16)
    expert = fine_tune(base, root / "expert", size=0.02)
    (expert / "chat_template.jinja").write_text("{{ messages[0].content }}")
    compress_expert(CompressConfig(base=base, expert=expert, output=root / "delta", name="math"))
    return base, root / "delta"


@pytest.mark.parametrize("dtype", [None, torch.float32, torch.float16])
def test_merged_checkpoint_has_the_dtype_that_was_asked_for(
    dtype: torch.dtype | None, models: tuple[Path, Path], tmp_path: Path
) -> None:
    merge(*models, tmp_path / "merged", dtype)
    want = dtype or torch.bfloat16
    assert {t.dtype for t in tensors_of(tmp_path / "merged").values()} == {want}
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype="auto").dtype == want


def test_smaller_dtypes_are_roundings_of_the_float32_merge(models: tuple[Path, Path], tmp_path: Path) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        merge(*models, tmp_path / str(dtype), dtype)
    exact, rounded = tensors_of(tmp_path / "torch.float32"), tensors_of(tmp_path / "torch.bfloat16")
    assert all(torch.equal(rounded[name], exact[name].bfloat16()) for name in exact)


def test_shards_and_index_hold_what_one_file_holds(models: tuple[Path, Path], tmp_path: Path) -> None:
    merge(*models, tmp_path / "one")
    merge(*models, tmp_path / "many", shard_bytes=6000)
    index = json.loads((tmp_path / "many" / "model.safetensors.index.json").read_text())
    files = sorted(p.name for p in (tmp_path / "many").glob("*.safetensors"))
    assert len(files) > 3
    assert sorted(set(index["weight_map"].values())) == files
    assert all((tmp_path / "many" / f).stat().st_size < 6000 + 3000 for f in files)
    one, many = tensors_of(tmp_path / "one"), tensors_of(tmp_path / "many")
    assert one.keys() == many.keys() == index["weight_map"].keys()
    assert all(torch.equal(one[name], many[name]) for name in one)
    assert index["metadata"]["total_size"] == sum(t.numel() * t.element_size() for t in one.values())
    a, b = (AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("one", "many"))
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def test_tokenizer_template_and_generation_config_are_the_experts(models: tuple[Path, Path], tmp_path: Path) -> None:
    merge(*models, tmp_path / "merged")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert tokenizer("abc")["input_ids"] == [3, 4, 5]
    message = [{"role": "user", "content": "hello"}]
    assert tokenizer.apply_chat_template(message, tokenize=False) == "hello"
    assert GenerationConfig.from_pretrained(tmp_path / "merged").eos_token_id == 2


def test_other_base_is_refused_and_nothing_written(models: tuple[Path, Path], tmp_path: Path) -> None:
    other = save_model(tmp_path / "other", tiny_config(), seed=9)
    with pytest.raises(BaseMismatchError):
        merge(other, models[1], tmp_path / "merged")
    assert [p.name for p in tmp_path.iterdir()] == ["other"]


def test_existing_output_is_never_overwritten(models: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "merged").mkdir()
    (tmp_path / "merged" / "mine.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="must not exist yet"):
        merge(*models, tmp_path / "merged")
    assert [p.name for p in (tmp_path / "merged").iterdir()] == ["mine.txt"]


def test_damaged_delta_is_refused_and_nothing_written(models: tuple[Path, Path], tmp_path: Path) -> None:
    import shutil

    shutil.copytree(models[1], tmp_path / "delta")
    file = tmp_path / "delta" / "delta.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(DeltaFormatError, match="BLAKE3"):
        merge(models[0], tmp_path / "delta", tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
