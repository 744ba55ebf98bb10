"""Adapters as experts: the merged result equals peft's own merge; whatever else peft can do is refused by name."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from meswitch.codecs import decompress
from meswitch.compress import CompressConfig, compress_expert
from meswitch.errors import CheckpointError, ShapeMismatchError, UnsupportedModelError
from meswitch.format import Manifest, load_expert
from meswitch.merge import merge
from tests.meswitch.checkpoints import edit_json, logits_of, save_model, save_tokenizer, tensors_of, tiny_config

# peft's own calls, not ours
pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers` to `True`:UserWarning"),
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning"),
]

ATTENTION = ["q_proj", "v_proj"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("base") / "base", tiny_config())


@pytest.fixture(scope="module")
def tied_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("base") / "tied", tiny_config("qwen2", tie_word_embeddings=True))


def save_adapter(base: Path, root: Path, **options: Any) -> Any:
    """An adapter with random factors in `root`; the model that peft makes of it."""
    settings = {"r": 4, "lora_alpha": 16, "target_modules": ATTENTION, "task_type": "CAUSAL_LM", **options}
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(**settings))
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(3)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(root)
    return model


def compressed(base: Path, adapter: Path, output: Path, **options: Any) -> Manifest:
    settings = {"linear": "dense", "embedding": "dense", "head": "dense", **options}
    return compress_expert(CompressConfig(base=base, expert=adapter, output=output, name="adapted", **settings))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True},
        {"target_modules": "all-linear", "bias": "none", "lora_dropout": 0.1},
        {"target_modules": [*ATTENTION, "down_proj"], "rank_pattern": {"v_proj": 2}, "alpha_pattern": {"q_proj": 3}},
        {"alpha_pattern": {"layers.1.self_attn.q_proj": 40}},
        {"target_modules": [*ATTENTION, "embed_tokens", "lm_head"]},
        {"modules_to_save": ["lm_head"]},
        {"modules_to_save": ["embed_tokens", "lm_head"]},
        {"layers_to_transform": [1]},
    ],
    ids=lambda o: "-".join(o) or "plain",
)
def test_merged_adapter_equals_the_merge_of_peft(options: dict[str, Any], base: Path, tmp_path: Path) -> None:
    model = save_adapter(base, tmp_path / "adapter", **options)
    manifest = compressed(base, tmp_path / "adapter", tmp_path / "delta")
    merge(base, tmp_path / "delta", tmp_path / "merged")
    want = model.merge_and_unload().eval()
    got = tensors_of(tmp_path / "merged")
    for name, parameter in want.state_dict().items():
        torch.testing.assert_close(got[name], parameter, rtol=0, atol=1e-6, msg=name)
    with torch.inference_mode():
        logits = want(input_ids=torch.arange(24).view(2, 12)).logits
    torch.testing.assert_close(logits_of(tmp_path / "merged"), logits, rtol=0, atol=1e-5)
    assert float((logits_of(base) - logits).abs().max()) > 1e-2
    assert manifest.expert.kind == "adapter"


def test_biases_trained_beside_the_factors_are_exact(tmp_path: Path) -> None:
    base = save_model(tmp_path / "base", tiny_config("qwen2"))
    model = save_adapter(base, tmp_path / "adapter", bias="all")
    compressed(base, tmp_path / "adapter", tmp_path / "delta")
    merge(base, tmp_path / "delta", tmp_path / "merged")
    name = "model.layers.0.self_attn.q_proj.bias"
    got = tensors_of(tmp_path / "merged")[name]
    assert torch.equal(got, model.merge_and_unload().state_dict()[name])
    assert not torch.equal(got, tensors_of(base)[name])


def test_matrices_that_the_adapter_leaves_alone_stay_exactly_the_base(base: Path, tmp_path: Path) -> None:
    save_adapter(base, tmp_path / "adapter")
    compressed(base, tmp_path / "adapter", tmp_path / "delta", linear="salient:bits=2,channels=4,step=unbiased")
    delta = load_expert(tmp_path / "delta", base_identity=None)
    described = decompress(delta.matrices["model.layers.0.mlp.up_proj.weight"])
    assert torch.equal(described, torch.zeros(48, 32))
    assert float(decompress(delta.matrices["model.layers.0.self_attn.q_proj.weight"]).abs().max()) > 0


def test_adapter_with_a_grown_vocabulary_keeps_its_rows(base: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(42, mean_resizing=False)
    adapted = get_peft_model(
        model, LoraConfig(r=2, target_modules=ATTENTION, modules_to_save=["embed_tokens", "lm_head"])
    )
    adapted.save_pretrained(tmp_path / "adapter")
    save_tokenizer(tmp_path / "adapter")
    manifest = compressed(base, tmp_path / "adapter", tmp_path / "delta")
    assert manifest.expert.vocabulary_rows == 42
    delta = load_expert(tmp_path / "delta", base_identity=None)
    assert torch.equal(delta.added_rows["model.embed_tokens.weight"], model.get_input_embeddings().weight[40:])
    merge(base, tmp_path / "delta", tmp_path / "merged")
    assert logits_of(tmp_path / "merged").shape[-1] == 42


def test_grown_vocabulary_on_a_tied_base_stays_tied(tied_base: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tied_base)
    model.resize_token_embeddings(42, mean_resizing=False)
    get_peft_model(model, LoraConfig(r=2, target_modules=ATTENTION)).save_pretrained(tmp_path / "adapter")
    manifest = compressed(tied_base, tmp_path / "adapter", tmp_path / "delta")
    assert (manifest.expert.tied_head, manifest.expert.vocabulary_rows) == (True, 42)


def test_adapter_on_a_tied_base_stays_tied(tied_base: Path, tmp_path: Path) -> None:
    model = save_adapter(tied_base, tmp_path / "adapter")
    assert compressed(tied_base, tmp_path / "adapter", tmp_path / "delta").expert.tied_head
    merge(tied_base, tmp_path / "delta", tmp_path / "merged")
    with torch.inference_mode():
        logits = model.merge_and_unload().eval()(input_ids=torch.arange(24).view(2, 12)).logits
    torch.testing.assert_close(logits_of(tmp_path / "merged"), logits, rtol=0, atol=1e-5)


def test_head_trained_on_a_tied_base_becomes_the_experts_own(tied_base: Path, tmp_path: Path) -> None:
    save_adapter(tied_base, tmp_path / "adapter", modules_to_save=["lm_head"])
    assert compressed(tied_base, tmp_path / "adapter", tmp_path / "delta").expert.tied_head is False
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    merge(tied_base, tmp_path / "delta", tmp_path / "merged")
    head = tensors_of(tmp_path / "merged")["lm_head.weight"]
    torch.testing.assert_close(head, saved["base_model.model.lm_head.weight"], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "options", [{"target_modules": ["q_proj", "embed_tokens"]}, {"modules_to_save": ["embed_tokens"]}]
)
def test_embedding_alone_on_a_tied_base_is_refused(options: dict[str, Any], tied_base: Path, tmp_path: Path) -> None:
    save_adapter(tied_base, tmp_path / "adapter", **options)
    with pytest.raises(UnsupportedModelError, match="merge the adapter with peft"):
        compressed(tied_base, tmp_path / "adapter", tmp_path / "delta")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"peft_type": "IA3"}, "peft_type must be LORA, got 'IA3'"),
        ({"use_dora": True}, "use_dora"),
        ({"use_qalora": True}, "use_qalora"),
        ({"lora_bias": True}, "lora_bias"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"layer_replication": [[0, 1]]}, "layer_replication"),
        ({"trainable_token_indices": [3]}, "trainable_token_indices"),
        ({"target_parameters": ["experts"]}, "target_parameters"),
        ({"a_kind_of_next_year": 1}, "a_kind_of_next_year"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa_niter_4"),
        ({"init_lora_weights": "olora"}, "olora"),
    ],
)
def test_other_kinds_of_adapter_are_refused_by_name(
    changes: dict[str, Any], field: str, base: Path, tmp_path: Path
) -> None:
    save_adapter(base, tmp_path / "adapter")
    edit_json(tmp_path / "adapter" / "adapter_config.json", **changes)
    with pytest.raises(UnsupportedModelError, match=field):
        compressed(base, tmp_path / "adapter", tmp_path / "delta")
    assert not (tmp_path / "delta").exists()


@pytest.mark.parametrize("pattern", [{"q_proj(": 3}, {"q_proj": "three"}, {"q_proj": None}, "q_proj"])
def test_malformed_alpha_pattern_is_named(pattern: object, base: Path, tmp_path: Path) -> None:
    save_adapter(base, tmp_path / "adapter")
    edit_json(tmp_path / "adapter" / "adapter_config.json", alpha_pattern=pattern)
    with pytest.raises(
        CheckpointError, match=r"adapter_config\.json must have an alpha_pattern of regular expressions"
    ):
        compressed(base, tmp_path / "adapter", tmp_path / "delta")


def test_adapter_of_dora_as_peft_saves_it_is_refused(base: Path, tmp_path: Path) -> None:
    save_adapter(base, tmp_path / "adapter", use_dora=True)
    with pytest.raises(UnsupportedModelError, match="use_dora"):
        compressed(base, tmp_path / "adapter", tmp_path / "delta")
    # not even when its config hides it
    edit_json(tmp_path / "adapter" / "adapter_config.json", use_dora=False)
    with pytest.raises(UnsupportedModelError, match="lora_magnitude_vector"):
        compressed(base, tmp_path / "adapter", tmp_path / "delta")


def test_adapter_of_a_larger_model_is_refused(base: Path, tmp_path: Path) -> None:
    other = save_model(tmp_path / "other", tiny_config(hidden_size=64))
    save_adapter(other, tmp_path / "adapter")
    with pytest.raises(ShapeMismatchError, match="q_proj"):
        compressed(base, tmp_path / "adapter", tmp_path / "delta")


def test_adapter_of_a_deeper_model_is_refused(base: Path, tmp_path: Path) -> None:
    other = save_model(tmp_path / "other", tiny_config(num_hidden_layers=3))
    save_adapter(other, tmp_path / "adapter")
    with pytest.raises(UnsupportedModelError, match=r"layers\.2"):
        compressed(base, tmp_path / "adapter", tmp_path / "delta")


def test_lost_factor_and_lost_file_are_named(base: Path, tmp_path: Path) -> None:
    save_adapter(base, tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors.pop("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight")
    save_file(tensors, file)
    with pytest.raises(CheckpointError, match="q_proj"):
        compressed(base, tmp_path / "adapter", tmp_path / "delta")
    file.unlink()
    with pytest.raises(CheckpointError, match=r"adapter_model\.safetensors"):
        compressed(base, tmp_path / "adapter", tmp_path / "delta")
