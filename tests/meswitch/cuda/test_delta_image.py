"""The image of an expert holds what its delta directory says, in the places that kernels read; or none at all."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from meswitch.codecs import CompressedDelta, decompress, first_plane
from meswitch.cuda.delta_image import DeltaImageSource
from meswitch.cuda.expert_layout import layout_of
from meswitch.cuda.slot_layout import CodeShape, MatrixPart, SlotLayout, VectorPart, slot_layout
from meswitch.cuda.slots import SlotArena
from meswitch.errors import DeltaFormatError
from meswitch.format import load_expert
from meswitch.format.manifest import decode_manifest, encode_manifest
from meswitch.format.writer import hash_file
from meswitch_kernels.reference import delta_weight_ref
from tests.meswitch.cuda.delta_experts import CPU, WIDE, make_base, make_delta, opened, shape_of

CODE = CodeShape(bits=2, salient=8)
KINDS = ("linear", "embedding", "head")
CODECS = {"linear": "salient:bits=2,channels=8", "embedding": "rtn:bits=4", "head": "rtn:bits=8"}


@pytest.fixture(scope="module")
def delta(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SlotLayout]:
    root = tmp_path_factory.mktemp("delta")
    base = make_base(root / "base")
    path = make_delta(base, root / "math", **CODECS)
    return path, layout_of({"math": opened(path)}, shape_of(base))


@pytest.fixture
def copied(delta: tuple[Path, SlotLayout], tmp_path: Path) -> Path:
    """A copy of the delta that a test may damage."""
    return shutil.copytree(delta[0], tmp_path / "math")


def filled(source: DeltaImageSource) -> torch.Tensor:
    """An image that held something else before."""
    image = torch.full((source.nbytes,), 0xAB, dtype=torch.uint8)
    source.fill(image)
    return image


def check_against_codecs(path: Path, layout: SlotLayout, image: torch.Tensor) -> None:
    """Slot 1 of 2 holds the image: each matrix in it is what its codec decompresses, each vector the expert's own."""
    arena, expert = SlotArena(layout, slots=2, device=CPU), load_expert(path, base_identity=None)
    arena.memory[1].copy_(image)
    seen = set()
    for part in layout.parts():
        if isinstance(part, MatrixPart):
            found = delta_weight_ref(arena.matrix(part), 1).split(list(part.rows.values()))
            for name, weight in zip(part.rows, found, strict=True):
                torch.testing.assert_close(weight, decompress(expert.matrices[name]), rtol=1e-6, atol=0, msg=name)
            seen |= part.rows.keys()
        elif isinstance(part, VectorPart):
            found = arena.vectors(part)[1].split(list(part.lengths.values()))
            for name, vector in zip(part.lengths, found, strict=True):
                assert torch.equal(vector, expert.exact[name].float()), name
            seen |= part.lengths.keys()
    assert seen == {*expert.matrices, *expert.exact}


@pytest.mark.parametrize(
    ("kind", "changes", "codecs"),
    [
        ("llama", {}, CODECS),
        ("llama", WIDE, CODECS),
        ("qwen2", WIDE, {"linear": "bitdelta", "embedding": "bitdelta", "head": "rtn:bits=1"}),
        ("qwen3", {"head_dim": 16}, {"linear": "gptq:bits=4", "embedding": "salient:bits=4,channels=2"}),
        ("llama", {"tie_word_embeddings": True}, {"linear": "salient:bits=1,channels=0"}),
    ],
)
def test_an_image_holds_what_the_codecs_decompress(
    kind: str, changes: dict[str, object], codecs: dict[str, str], tmp_path: Path
) -> None:
    base = make_base(tmp_path / "base", kind, **changes)
    path = make_delta(base, tmp_path / "expert", **codecs)
    layout = layout_of({"expert": opened(path)}, shape_of(base, tied="tie_word_embeddings" in changes))
    source = DeltaImageSource(opened(path), layout)
    assert source.nbytes == layout.nbytes
    assert source.read_bytes == (path / "delta.safetensors").stat().st_size
    check_against_codecs(path, layout, filled(source))


def test_stacked_matrices_of_different_heights_are_among_those_tried(tmp_path: Path) -> None:
    layout = slot_layout(shape_of(make_base(tmp_path / "base", **WIDE)), **dict.fromkeys(KINDS, CODE))
    part = layout.layers[0]["qkv"]
    assert isinstance(part, MatrixPart)
    assert [len(places["salient"]) for _, places in part.places()] == [2, 1, 1]


@pytest.mark.parametrize("changes", [{}, WIDE])
def test_a_slot_of_two_planes_holds_the_first_alone_and_then_both(changes: dict[str, int], tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", **changes)
    path = make_delta(base, tmp_path / "expert", linear="nested")
    layout = layout_of({"expert": opened(path)}, shape_of(base))
    arena, expert = SlotArena(layout, slots=2, device=CPU), load_expert(path, base_identity=None)
    arena.memory[1].copy_(filled(DeltaImageSource(opened(path), layout)))
    planes = zip(layout.layers, layout.refinements, strict=True)
    parts = [(layer[key], part) for layer, refinement in planes for key, part in refinement.items()]
    assert sum(len(part.rows) for _, part in parts) == 7 * len(layout.layers)

    def check(found: torch.Tensor, part: MatrixPart, wanted: Callable[[CompressedDelta], CompressedDelta]) -> None:
        for name, weight in zip(part.rows, found.split(list(part.rows.values())), strict=True):
            torch.testing.assert_close(weight, decompress(wanted(expert.matrices[name])), rtol=1e-6, atol=0, msg=name)

    for first, _ in parts:
        check(delta_weight_ref(arena.matrix(first), 1), first, first_plane)
    arena.refine(1)
    for first, second in parts:
        both = delta_weight_ref(arena.matrix(first), 1) + delta_weight_ref(arena.matrix(second), 1)
        check(both, first, lambda compressed: compressed)


def test_nothing_of_an_earlier_image_is_left(delta: tuple[Path, SlotLayout]) -> None:
    path, layout = delta
    source = DeltaImageSource(opened(path), layout)
    clean = torch.zeros(source.nbytes, dtype=torch.uint8)
    source.fill(clean)
    assert torch.equal(filled(source), clean)


def test_an_image_read_past_the_page_cache_is_the_same(delta: tuple[Path, SlotLayout]) -> None:
    path, layout = delta
    straight = filled(DeltaImageSource(opened(path), layout))
    assert torch.equal(filled(DeltaImageSource(opened(path), layout, direct=True)), straight)


def test_any_flipped_byte_is_refused(delta: tuple[Path, SlotLayout], copied: Path) -> None:
    source = DeltaImageSource(opened(copied), delta[1])
    file = copied / "delta.safetensors"
    whole = file.read_bytes()
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    # of the header's padding, the first and the last tensor, and some between
    for at in (header - 1, header, (header + len(whole)) // 2, len(whole) - 1):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(DeltaFormatError, match="is damaged"):
            filled(source)
    file.write_bytes(whole)
    filled(source)


@pytest.mark.parametrize("left", [0, 100, -1])
def test_a_truncated_file_is_refused(left: int, delta: tuple[Path, SlotLayout], copied: Path) -> None:
    source = DeltaImageSource(opened(copied), delta[1])
    file = copied / "delta.safetensors"
    file.write_bytes(file.read_bytes()[:left])
    with pytest.raises(DeltaFormatError, match="truncated"):
        filled(source)


def test_a_vanished_file_is_refused(delta: tuple[Path, SlotLayout], copied: Path) -> None:
    source = DeltaImageSource(opened(copied), delta[1])
    (copied / "delta.safetensors").unlink()
    with pytest.raises(DeltaFormatError, match="cannot be read"):
        filled(source)


def rewrite(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Another file of tensors, and a manifest that vouches for it. Sorted by name: not in load order."""
    header, data = {}, b""
    for name in sorted(tensors):
        raw = tensors[name].contiguous().view(torch.uint8).numpy().tobytes() if tensors[name].numel() else b""
        kind = {torch.int32: "I32", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
        entry = {"dtype": kind[tensors[name].dtype], "shape": list(tensors[name].shape)}
        header[name] = {**entry, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    file, manifest = path / "delta.safetensors", path / "manifest.json"
    file.write_bytes(struct.pack("<Q", len(text)) + text + data)
    old = decode_manifest(manifest.read_bytes(), manifest)
    files = {**old.files, "delta.safetensors": hash_file(file)}
    manifest.write_bytes(encode_manifest(old.model_copy(update={"files": files})))


def stored(path: Path) -> dict[str, torch.Tensor]:
    tensors = load_file(path / "delta.safetensors")
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("~pad")}


def test_the_order_of_tensors_in_the_file_does_not_matter(delta: tuple[Path, SlotLayout], copied: Path) -> None:
    want = filled(DeltaImageSource(opened(delta[0]), delta[1]))
    rewrite(copied, stored(copied))
    assert torch.equal(filled(DeltaImageSource(opened(copied), delta[1])), want)


MATRIX = "model.layers.0.mlp.down_proj.weight"


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (f"{MATRIX}::codes", lambda x: x[:, :-1], r"codes must be \[64, 8\] torch.int32, got \[64, 7\]"),
        (f"{MATRIX}::step", lambda x: x.half(), r"step must be \[64\] torch.float32"),
        (f"{MATRIX}::step", lambda x: x[:2], r"step must be \[64\] torch.float32, got \[2\]"),
        (f"{MATRIX}::values", lambda x: x.float(), r"values must be \[64, 8\] torch.float16"),
        ("model.norm.weight::exact", lambda x: x[1:], r"exact must be \[64\] torch.float32, got \[63\]"),
        ("model.norm.weight::exact", lambda x: x.float().int(), r"exact must be .* got \[64\] torch.int32"),
    ],
)
def test_a_tensor_of_another_shape_or_type_is_refused(
    name: str, change: object, message: str, delta: tuple[Path, SlotLayout], copied: Path
) -> None:
    tensors = stored(copied)
    rewrite(copied, {**tensors, name: change(tensors[name])})
    with pytest.raises(DeltaFormatError, match=message):
        DeltaImageSource(opened(copied), delta[1])


@pytest.mark.parametrize("name", [f"{MATRIX}::codes", "model.norm.weight::exact"])
def test_an_expert_without_a_tensor_is_refused(name: str, delta: tuple[Path, SlotLayout], copied: Path) -> None:
    tensors = stored(copied)
    del tensors[name]
    rewrite(copied, tensors)
    with pytest.raises(DeltaFormatError, match=f"must hold {name}"):
        DeltaImageSource(opened(copied), delta[1])


def test_a_tensor_without_a_place_is_refused(delta: tuple[Path, SlotLayout], copied: Path) -> None:
    rewrite(copied, {**stored(copied), "model.extra.bias::exact": torch.zeros(3)})
    with pytest.raises(DeltaFormatError, match=r"holds model.extra.bias::exact, which .* no place"):
        DeltaImageSource(opened(copied), delta[1])


@pytest.mark.parametrize("channels", [[1, 0, 2, 3, 4, 5, 6, 7], [0, 1, 2, 3, 4, 5, 6, 96], [-1, 1, 2, 3, 4, 5, 6, 7]])
def test_salient_channels_must_ascend_below_the_width(
    channels: list[int], delta: tuple[Path, SlotLayout], copied: Path
) -> None:
    rewrite(copied, {**stored(copied), f"{MATRIX}::salient": torch.tensor(channels, dtype=torch.int32)})
    with pytest.raises(DeltaFormatError, match="ascending and from 0 to 95"):
        filled(DeltaImageSource(opened(copied), delta[1]))
