"""Calibration texts: read in both forms, run through the expert, and visible in what is compressed."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from meswitch.calibration_file import read_texts
from meswitch.calibration_stream import collect_statistics
from meswitch.codecs import parse_codec
from meswitch.compress import CompressConfig, compress_expert
from meswitch.errors import CheckpointError
from meswitch.format import load_expert
from meswitch.pair import open_pair
from tests.meswitch.checkpoints import fine_tune, save_model, tiny_config

NAME = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("models")
    base = save_model(root / "base", tiny_config())
    return base, fine_tune(base, root / "expert", size=0.05)


def squares_by_hand(model: torch.nn.Module, root: Path, texts: list[str]) -> torch.Tensor:
    """`Σ x²` of the first query projection's input: the normalised embedding."""
    tokenizer, total = AutoTokenizer.from_pretrained(root), torch.zeros(32)
    with torch.inference_mode():
        for text in texts:
            ids = torch.tensor([tokenizer(text)["input_ids"]])
            embedded = model.get_input_embeddings()(ids)
            total += model.model.layers[0].input_layernorm(embedded)[0].square().sum(0)
    return total


def test_texts_are_lines_or_objects_with_text_or_prompt_and_answer(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\n  two \n")
    assert read_texts(tmp_path / "a.txt") == ("one", "  two ")
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n{"prompt": "2+2=", "answer": "4"}\n\n{"prompt": "x"}\n')
    assert read_texts(tmp_path / "a.jsonl") == ("one", "2+2=4", "x")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "\n \n", "at least one text"),
        ("a.jsonl", '{"text": "x"}\n{\n', "line 2"),
        ("a.jsonl", '{"texts": "x"}\n', "line 1"),
        ("a.jsonl", '{"text": 3}\n', "line 1"),
        ("a.jsonl", "[1]\n", "line 1"),
    ],
)
def test_malformed_file_is_refused_by_line(name: str, content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(CheckpointError, match=message):
        read_texts(tmp_path / name)


def test_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.txt cannot be read: no such file$"):
        read_texts(tmp_path / "none.txt")
    with pytest.raises(CheckpointError, match=r"cannot be read: Is a directory$"):
        read_texts(tmp_path)
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1"))
    with pytest.raises(CheckpointError, match=r"cannot be read as UTF-8 text: 'utf-8' codec"):
        read_texts(tmp_path / "latin.txt")


def test_statistics_are_those_of_the_expert_and_not_of_the_base(models: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("abc\nhello\n")
    statistics = collect_statistics(open_pair(*models), tmp_path / "texts.txt")
    expert = AutoModelForCausalLM.from_pretrained(models[1])
    want = squares_by_hand(expert, models[1], ["abc", "hello"])
    torch.testing.assert_close(statistics.square_sums[NAME], want, rtol=1e-5, atol=1e-6)
    assert statistics.record.texts == 2


def test_statistics_of_an_adapter_are_those_of_its_merge(models: tuple[Path, Path], tmp_path: Path) -> None:
    base = models[0]
    config = LoraConfig(r=4, lora_alpha=16, target_modules=["o_proj"], init_lora_weights=False)
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    adapted.save_pretrained(tmp_path / "adapter")
    (tmp_path / "texts.txt").write_text("abc\nhello\n")
    statistics = collect_statistics(open_pair(base, tmp_path / "adapter"), tmp_path / "texts.txt")
    seen = []
    merged = adapted.merge_and_unload().eval()
    layer = merged.model.layers[1].mlp.down_proj
    layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][0].square().sum(0)))
    tokenizer = AutoTokenizer.from_pretrained(base)
    with torch.inference_mode():
        for text in ("abc", "hello"):
            merged(torch.tensor([tokenizer(text)["input_ids"]]))
    got = statistics.square_sums["model.layers.1.mlp.down_proj.weight"]
    torch.testing.assert_close(got, seen[0] + seen[1], rtol=1e-4, atol=1e-6)


pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def test_calibration_changes_what_is_kept_and_is_recorded(models: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("aaaa\naab\n")
    base, expert = models
    linear = "salient:bits=2,channels=4,step=unbiased"
    for name, texts in (("plain", None), ("calibrated", tmp_path / "texts.txt")):
        config = CompressConfig(
            base=base, expert=expert, output=tmp_path / name, name=name, linear=linear, calibration=texts
        )
        manifest = compress_expert(config)
    assert manifest.calibration is not None
    assert (manifest.calibration.file, manifest.calibration.texts) == ("texts.txt", 2)
    assert "2 calibration texts" in manifest.selection
    plain, calibrated = (load_expert(tmp_path / name, base_identity=None) for name in ("plain", "calibrated"))
    indices = [d.matrices[NAME].tensors["salient"] for d in (plain, calibrated)]
    assert not torch.equal(*indices)


def test_expert_without_a_tokenizer_is_refused(models: tuple[Path, Path], tmp_path: Path) -> None:
    expert = fine_tune(models[0], tmp_path / "expert")
    for path in expert.glob("tokenizer*"):
        path.unlink()
    (tmp_path / "texts.txt").write_text("abc\n")
    with pytest.raises(CheckpointError, match="needs the expert's tokenizer"):
        collect_statistics(open_pair(models[0], expert), tmp_path / "texts.txt")


def test_second_moments_reach_the_codecs_that_use_them(models: tuple[Path, Path], tmp_path: Path) -> None:
    base, expert = models
    texts = tmp_path / "texts.txt"
    texts.write_text("aaaa\naab\n")
    config = CompressConfig(
        base=base, expert=expert, output=tmp_path / "e", name="e", linear="gptq:bits=2", calibration=texts
    )
    manifest = compress_expert(config)
    assert manifest.selection.endswith("; second moments of the inputs of 2 calibration texts")
    pair = open_pair(base, expert)
    moments = collect_statistics(pair, texts, second_moments=[NAME]).second_moments
    assert list(moments) == [NAME]
    delta = pair.expert.values(NAME).float() - pair.base.read(NAME).float()
    want = parse_codec("gptq:bits=2").compress(delta, input_second_moment=moments[NAME])
    got = load_expert(tmp_path / "e", base_identity=None).matrices[NAME]
    assert all(torch.equal(got.tensors[name], want.tensors[name]) for name in want.tensors)
    plain = parse_codec("rtn:bits=2").compress(delta)
    assert not torch.equal(got.tensors["codes"], plain.tensors["codes"])


def test_elements_picked_by_their_inputs_are_recorded(models: tuple[Path, Path], tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("abc\n")
    base, expert = models
    config = CompressConfig(
        base=base, expert=expert, output=tmp_path / "e", name="e", linear="sparse-sign:pick=wanda", calibration=texts
    )
    manifest = compress_expert(config)
    assert manifest.selection.endswith("; elements picked by the inputs of 1 calibration texts")


def test_without_texts_the_manifest_says_that_inputs_were_taken_as_independent(
    models: tuple[Path, Path], tmp_path: Path
) -> None:
    base, expert = models
    config = CompressConfig(base=base, expert=expert, output=tmp_path / "e", name="e", linear="eora:rank=2")
    manifest = compress_expert(config)
    assert manifest.selection.endswith("; inputs taken as independent and equal: no calibration texts were given")


def test_second_moments_of_an_embedding_are_not_collected(models: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("abc\n")
    names = ["model.embed_tokens.weight", NAME]
    statistics = collect_statistics(open_pair(*models), tmp_path / "texts.txt", second_moments=names)
    assert list(statistics.second_moments) == [NAME]
