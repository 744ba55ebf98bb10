"""Shapes by name and by config, their sizes by hand, and what is refused by name."""

import json
from pathlib import Path

import pytest
import torch

from meswitch.cuda.whole_layout import whole_layout
from meswitch.errors import FamilyError, UnsupportedModelError
from meswitch.families import list_shape_families, load_family, load_shape_family

MISTRAL = Path(__file__).parents[3] / "meswitch" / "families" / "shapes" / "mistral-7b" / "config.json"


def test_the_shapes_that_ship_are_listed() -> None:
    assert list_shape_families() == ["llama-2-13b", "mistral-7b", "qwen2.5-7b"]


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        # 2 V K + L (K (Q + 2 G) + Q K + 3 F K + 2 K) + K, and Q + 2 G biases a layer for Qwen
        ("mistral-7b", 2 * 32000 * 4096 + 32 * (4096 * 6144 + 4096 * 4096 + 3 * 14336 * 4096 + 2 * 4096) + 4096),
        ("llama-2-13b", 2 * 32000 * 5120 + 40 * (5120 * 15360 + 5120 * 5120 + 3 * 13824 * 5120 + 2 * 5120) + 5120),
        (
            "qwen2.5-7b",
            2 * 152064 * 3584 + 28 * (3584 * 4608 + 3584 * 3584 + 3 * 18944 * 3584 + 2 * 3584 + 4608) + 3584,
        ),
    ],
)
def test_a_shape_has_the_parameters_of_the_published_model(name: str, parameters: int) -> None:
    layout = whole_layout(load_shape_family(name).shape, torch.float32)
    sizes = [place.spec.nbytes // 4 for _, place in layout.places()]
    assert sum(sizes) == parameters
    # published as 7.24, 13.0 and 7.62 billion
    assert round(parameters / 1e9, 2) == {"mistral-7b": 7.24, "llama-2-13b": 13.02, "qwen2.5-7b": 7.62}[name]


def test_experts_are_numbered_names() -> None:
    family = load_shape_family("mistral-7b")
    assert family.experts(2) == ("expert-000", "expert-001")
    assert len(set(family.experts(128))) == 128
    with pytest.raises(ValueError, match="count must be at least 0, got -1"):
        family.experts(-1)


@pytest.mark.parametrize("given", ["directory", "file"])
def test_any_config_of_a_supported_type_is_a_family(given: str, tmp_path: Path) -> None:
    root = tmp_path / "mine"
    root.mkdir()
    content = json.loads(MISTRAL.read_text()) | {"num_hidden_layers": 2, "tie_word_embeddings": True}
    (root / "config.json").write_text(json.dumps(content))
    family = load_shape_family(root if given == "directory" else str(root / "config.json"))
    assert (family.name, family.shape.layers, family.shape.tied) == ("mine", 2, True)


def test_a_shape_that_the_gpu_path_does_not_compute_is_refused_when_it_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gemma", "hidden_size": 64}))
    with pytest.raises(UnsupportedModelError, match="must be one of llama, mistral, qwen2, qwen3, got gemma"):
        load_shape_family(tmp_path)


def test_an_unknown_shape_names_those_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(FamilyError, match=r"unknown shape 'giant'; give llama-2-13b, mistral-7b, qwen2\.5-7b, a"):
        load_shape_family("giant")
    with pytest.raises(FamilyError, match="unknown shape"):
        load_shape_family(tmp_path)


def test_a_command_that_needs_weights_says_what_the_shapes_are() -> None:
    with pytest.raises(FamilyError, match=r"unknown family 'mistral-7b'; give pocket .*shapes only"):
        load_family("mistral-7b")
