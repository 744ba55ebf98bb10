"""A delta directory is read exactly as it was written, or refused by name."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from meswitch.codecs import decompress, parse_codec
from meswitch.compress import CompressConfig, compress_expert
from meswitch.errors import BaseMismatchError, DeltaFormatError, UnknownCodecError
from meswitch.format import load_expert, open_delta
from meswitch.format.manifest import decode_manifest, encode_manifest
from meswitch.identity import base_identity
from tests.meswitch.checkpoints import fine_tune, save_model, tensors_of, tiny_config


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("models")
    base = save_model(root / "base", tiny_config(), dtype=torch.bfloat16)
    return base, fine_tune(base, root / "expert", vocabulary=41)


@pytest.fixture(scope="module")
def pristine(models: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    base, expert = models
    output = tmp_path_factory.mktemp("pristine") / "delta"
    compress_expert(CompressConfig(base=base, expert=expert, output=output, name="math"))
    return output


@pytest.fixture
def delta(pristine: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return shutil.copytree(pristine, tmp_path / "delta")


def rewrite_manifest(delta: Path, **changes: Any) -> None:
    """A manifest with other content and a checksum that fits it."""
    path = delta / "manifest.json"
    manifest = decode_manifest(path.read_bytes(), path)
    path.write_bytes(encode_manifest(manifest.model_copy(update=changes)))


def test_loaded_expert_is_what_the_codec_made(models: tuple[Path, Path], delta: Path) -> None:
    base, expert = (tensors_of(root) for root in models)
    loaded = load_expert(delta, base_identity=base_identity(models[0]))
    codec = parse_codec("salient:bits=2,channels=8,step=unbiased")
    assert loaded.name == "math"
    for name, matrix in loaded.matrices.items():
        if name.endswith("proj.weight"):
            want = codec.compress(expert[name].float() - base[name].float())
            assert matrix.tensors.keys() == want.tensors.keys()
            assert all(torch.equal(matrix.tensors[k], want.tensors[k]) for k in want.tensors), name
            assert torch.equal(decompress(matrix), decompress(want))
    assert all(torch.equal(values, expert[name]) for name, values in loaded.exact.items())
    assert {*loaded.matrices, *loaded.exact} == set(expert)
    assert torch.equal(loaded.added_rows["lm_head.weight"], expert["lm_head.weight"][40:])


def test_file_is_plain_safetensors_in_load_order_with_aligned_tensors(delta: Path) -> None:
    stored = load_file(delta / "delta.safetensors")
    assert "model.layers.0.self_attn.q_proj.weight::codes" in stored
    content = (delta / "delta.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header.pop("__metadata__")
    starts = {name: 8 + length + entry["data_offsets"][0] for name, entry in header.items()}
    assert all(start % 16 == 0 for name, start in starts.items() if not name.startswith("~pad"))
    parameters = [name.split("::")[0] for name in sorted(starts, key=starts.__getitem__) if "::" in name]
    order = list(dict.fromkeys(parameters))
    assert order == [record.name for record in open_delta(delta).manifest.parameters]
    assert order[0] == "model.embed_tokens.weight"
    assert order.index("model.layers.0.mlp.up_proj.weight") < order.index("model.layers.1.self_attn.q_proj.weight")
    assert order[-1] == "lm_head.weight"


def test_other_base_is_refused(models: tuple[Path, Path], delta: Path) -> None:
    with pytest.raises(BaseMismatchError, match="math was made from base base"):
        load_expert(delta, base_identity=base_identity(models[1]))


def test_same_base_in_another_dtype_is_refused(models: tuple[Path, Path], delta: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(models[0]).to(torch.float16).save_pretrained(tmp_path / "fp16")
    with pytest.raises(BaseMismatchError):
        load_expert(delta, base_identity=base_identity(tmp_path / "fp16"))


@pytest.mark.parametrize(
    "name", ["delta.safetensors", "manifest.json", "tokenizer/tokenizer.json", "tokenizer/config.json"]
)
@pytest.mark.parametrize("place", [0.01, 0.5, 0.99])
def test_one_flipped_bit_anywhere_is_refused(name: str, place: float, delta: Path) -> None:
    path = delta / name
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1
    path.write_bytes(content)
    with pytest.raises(DeltaFormatError, match=path.name):
        open_delta(delta)
    if name in ("delta.safetensors", "manifest.json"):
        with pytest.raises(DeltaFormatError, match=path.name):
            load_expert(delta, base_identity=None)
    else:
        with pytest.raises(DeltaFormatError, match=path.name):
            open_delta(delta, verify=False).check_companions()


def test_companions_are_checked_without_the_tensors(delta: Path) -> None:
    path = delta / "delta.safetensors"
    path.write_bytes(bytes(path.stat().st_size))
    open_delta(delta, verify=False).check_companions()


def test_a_file_that_nobody_vouches_for_is_refused(delta: Path) -> None:
    (delta / "tokenizer" / "chat_template.jinja").write_text("x")
    with pytest.raises(DeltaFormatError, match=r"chat_template\.jinja is not listed in manifest\.json"):
        open_delta(delta, verify=False)


@pytest.mark.parametrize("name", ["delta.safetensors", "manifest.json", "tokenizer/tokenizer.json"])
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.999])
def test_truncated_file_is_refused(name: str, keep: float, delta: Path) -> None:
    path = delta / name
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    for read in (open_delta, lambda p: load_expert(p, base_identity=None, verify=False)):
        with pytest.raises(DeltaFormatError, match=path.name):
            read(delta)


@pytest.mark.parametrize("name", ["delta.safetensors", "manifest.json", "tokenizer/tokenizer.json"])
def test_lost_file_is_refused_by_name(name: str, delta: Path) -> None:
    (delta / name).unlink()
    with pytest.raises(DeltaFormatError, match=Path(name).name):
        open_delta(delta)


def test_directory_that_is_no_delta_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DeltaFormatError, match="is not a directory"):
        open_delta(tmp_path / "none")
    with pytest.raises(DeltaFormatError, match=r"manifest\.json"):
        open_delta(tmp_path)


def test_schema_of_the_future_is_refused(delta: Path) -> None:
    content = json.loads((delta / "manifest.json").read_text())
    content["schema_version"] = "meswitch-delta/9"
    (delta / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(DeltaFormatError, match="must have schema_version 'meswitch-delta/1', got 'meswitch-delta/9'"):
        open_delta(delta)


def test_codec_that_is_not_installed_is_named(delta: Path) -> None:
    manifest = open_delta(delta).manifest
    foreign = tuple(r.model_copy(update={"codec": "alien"}) if r.kind == "linear" else r for r in manifest.parameters)
    rewrite_manifest(delta, parameters=foreign)
    with pytest.raises(UnknownCodecError, match="alien"):
        load_expert(delta, base_identity=None)


def test_parameter_that_the_file_lacks_is_refused(delta: Path) -> None:
    manifest = open_delta(delta).manifest
    renamed = manifest.parameters[3].model_copy(update={"name": "model.layers.7.mlp.up_proj.weight"})
    rewrite_manifest(delta, parameters=(*manifest.parameters[:3], renamed, *manifest.parameters[4:]))
    with pytest.raises(DeltaFormatError, match=r"layers\.7"):
        load_expert(delta, base_identity=None)


def test_other_options_than_the_tensors_were_made_with_are_refused(delta: Path) -> None:
    manifest = open_delta(delta).manifest
    changed = tuple(
        r.model_copy(update={"options": {**r.options, "bits": 4}}) if r.kind == "linear" else r
        for r in manifest.parameters
    )
    rewrite_manifest(delta, parameters=changed)
    with pytest.raises(DeltaFormatError, match="codes"):
        load_expert(delta, base_identity=None)


def test_manifest_may_not_point_outside_its_directory(delta: Path) -> None:
    files = open_delta(delta).manifest.files
    rewrite_manifest(delta, files={**files, "../secret": files["delta.safetensors"]})
    with pytest.raises(DeltaFormatError, match="inside its directory"):
        open_delta(delta)
