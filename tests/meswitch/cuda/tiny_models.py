"""Tiny decoders with experts, as the CUDA path holds them and as `transformers` computes them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from meswitch.codecs import decompress, parse_codec
from meswitch.codecs.nested import first_plane
from meswitch.cuda.decoder import Decoder, rotary_tables
from meswitch.cuda.decoder_shape import DecoderShape, decoder_shape
from meswitch.cuda.kv_cache import KvCache
from meswitch.cuda.slot_layout import CodeShape, MatrixPart, Place, SlotLayout, VectorPart, slot_layout
from meswitch.cuda.slots import SlotArena
from meswitch.cuda.whole_layout import WholeWeights, whole_layout

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 67,
    "max_position_embeddings": 64,
}
CONFIGS = {"llama": LlamaConfig, "mistral": MistralConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}
TABLE = CodeShape(bits=4, salient=0)
CODES = {"salient:bits=2,channels=3": CodeShape(bits=2, salient=3), "nested": CodeShape(bits=1, salient=0, planes=2)}
CPU = torch.device("cpu")
EXPERTS = 2
TABLES = ("model.embed_tokens.weight", "lm_head.weight")
TABLE_CODEC = "rtn:bits=4"


@dataclass(frozen=True, slots=True, kw_only=True)
class TinyModel:
    """A decoder of two experts, and three `transformers` models: the experts, and the base last."""

    config: Any
    shape: DecoderShape
    weights: WholeWeights
    slots: SlotArena
    cache: KvCache
    decoder: Decoder
    models: list[Any]


def tiny_model(
    kind: str,
    *,
    layers: int = 1,
    tied: bool = False,
    rows: int = 4,
    tokens: int = 32,
    codec: str = "salient:bits=2,channels=3",
    planes: int = 2,
) -> TinyModel:
    """Random float32 weights, the same at each call; the experts with both planes of `nested`, or the first alone."""
    torch.manual_seed(0)
    rope = {"rope_type": "default", "rope_theta": 100.0}
    config = CONFIGS[kind](**SIZES, num_hidden_layers=layers, tie_word_embeddings=tied, rope_parameters=rope)
    config.head_dim = 16
    base = _perturbed(AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval(), None, 0.3)
    shape = decoder_shape(config, tied=tied)
    weights = whole_weights(shape, base.state_dict())
    layout = slot_layout(shape, linear=CODES[codec], embedding=TABLE, head=None if tied else TABLE)
    slots = SlotArena(layout, slots=EXPERTS, device=CPU)
    models = [_expert(config, base, slots, slot, codec, planes) for slot in range(EXPERTS)]
    for slot in range(EXPERTS) if planes == 2 else ():
        slots.refine(slot)
    cache = KvCache(shape, rows=rows, tokens=tokens, dtype=torch.float32, device=CPU)
    # what was never written must never be read
    cache.keys.fill_(float("nan"))
    cache.values.fill_(float("nan"))
    decoder = Decoder(shape, weights, slots, cache, rotary_tables(config, positions=tokens, device=CPU))
    return TinyModel(
        config=config, shape=shape, weights=weights, slots=slots, cache=cache, decoder=decoder, models=[*models, base]
    )


def whole_weights(shape: DecoderShape, state: dict[str, torch.Tensor]) -> WholeWeights:
    """A state dict in the layout of the CUDA path."""
    layout = whole_layout(shape, torch.float32)
    memory = torch.zeros(layout.nbytes, dtype=torch.uint8)
    for name, place in layout.places():
        write(memory, place, state[name])
    return WholeWeights(layout, memory)


def write(memory: torch.Tensor, place: Place, value: torch.Tensor) -> None:
    """Put `value` where `place` says."""
    piece = memory[place.offset : place.offset + place.spec.nbytes]
    piece.view(place.spec.dtype).view(place.spec.shape).copy_(value)


def _expert(config: Any, base: Any, slots: SlotArena, slot: int, codec: str, planes: int) -> Any:
    generator = torch.Generator().manual_seed(slot + 1)
    expert = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    state = {name: value.clone() for name, value in base.state_dict().items()}
    for name, places in _places(slots.layout).items():
        compressed = parse_codec(TABLE_CODEC if name in TABLES else codec).compress(
            0.1 * torch.randn(state[name].shape, generator=generator)
        )
        for local, where in places.items():
            for place in where:
                if local in compressed.tensors:
                    write(slots.memory[slot], place, compressed.tensors[local])
        alone = planes == 1 and compressed.codec == "nested"
        state[name] += decompress(first_plane(compressed) if alone else compressed)
    for part in slots.layout.parts():
        if isinstance(part, VectorPart):
            for name, place in part.places():
                state[name] = state[name] * (1 + 0.2 * torch.rand(state[name].shape, generator=generator)) + 0.1
                write(slots.memory[slot], place, state[name])
    if slots.layout.head is None:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    expert.load_state_dict(state)
    return expert


def _places(layout: SlotLayout) -> dict[str, dict[str, Sequence[Place]]]:
    found: dict[str, dict[str, Sequence[Place]]] = {}
    for part in layout.parts():
        if isinstance(part, MatrixPart):
            for name, places in part.places():
                found.setdefault(name, {}).update(places)
    return found


@torch.no_grad()
def _perturbed(model: Any, seed: int | None, size: float) -> Any:
    generator = torch.Generator().manual_seed(seed or 0)
    for parameter in model.parameters():
        parameter += size * torch.randn(parameter.shape, generator=generator) / parameter.shape[-1] ** 0.5
    return model
