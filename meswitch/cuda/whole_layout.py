"""Where each tensor of a whole model lies in one byte image: the base, or one of the models that are swapped.

The same segments as a slot (slot_layout.py): embedding, each layer, final norm and head. Matrices of the same input
are stacked along N, so that the base's product of a step is one call for q, k and v, and one for gate and up.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from meswitch.codecs.base import TensorSpec
from meswitch.cuda.decoder_shape import DecoderShape
from meswitch.cuda.slot_layout import ALIGNMENT_BYTES, Place

__all__ = ["LayerWeights", "WholeLayout", "WholeWeights", "whole_layout"]

STACKS: Mapping[str, tuple[str, ...]] = {
    "qkv": ("q", "k", "v"),
    "o": ("o",),
    "gate_up": ("gate", "up"),
    "down": ("down",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeLayout:
    """The image of a whole model.

    Attributes:
        shape: of the decoder.
        dtype: of matrices; norms and biases are float32.
        tensors: of each layer's stacked tensors and of the model's own, where and what, by key: `embedding`,
            `final_norm`, `head`, and `<layer>.<key>`.
        segments: first byte and the byte after the last one of each segment.
    """

    shape: DecoderShape
    dtype: torch.dtype
    tensors: Mapping[str, Place]
    segments: tuple[tuple[int, int], ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the image, padding included."""
        return self.segments[-1][1]

    def places(self) -> Iterator[tuple[str, Place]]:
        """Each parameter by the name that checkpoints use, and where it goes."""
        yield "model.embed_tokens.weight", self.tensors["embedding"]
        for layer in range(self.shape.layers):
            yield from self._layer_places(layer)
        yield "model.norm.weight", self.tensors["final_norm"]
        if "head" in self.tensors:
            yield "lm_head.weight", self.tensors["head"]

    def _layer_places(self, layer: int) -> Iterator[tuple[str, Place]]:
        shape, prefix = self.shape, f"model.layers.{layer}"
        heights = {"q": shape.q_rows, "k": shape.kv_rows, "v": shape.kv_rows, "gate": shape.F, "up": shape.F}
        heights |= {"o": shape.K, "down": shape.K}
        for key, names in STACKS.items():
            block = f"{prefix}.{'self_attn' if key in ('qkv', 'o') else 'mlp'}"
            yield from _stacked(self.tensors[f"{layer}.{key}"], {f"{block}.{n}_proj.weight": heights[n] for n in names})
        if shape.qkv_bias:
            biases = {f"{prefix}.self_attn.{n}_proj.bias": heights[n] for n in STACKS["qkv"]}
            yield from _stacked(self.tensors[f"{layer}.qkv_bias"], biases)
        yield f"{prefix}.input_layernorm.weight", self.tensors[f"{layer}.input_norm"]
        yield f"{prefix}.post_attention_layernorm.weight", self.tensors[f"{layer}.post_norm"]
        for name in ("q_norm", "k_norm") if shape.qk_norm else ():
            yield f"{prefix}.self_attn.{name}.weight", self.tensors[f"{layer}.{name}"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerWeights:
    """One layer's tensors: matrices `[N, K]`, norms and biases float32; `None` where the model has none."""

    qkv: torch.Tensor
    o: torch.Tensor
    gate_up: torch.Tensor
    down: torch.Tensor
    input_norm: torch.Tensor
    post_norm: torch.Tensor
    qkv_bias: torch.Tensor | None
    q_norm: torch.Tensor | None
    k_norm: torch.Tensor | None


class WholeWeights:
    """A whole model in one allocation.

    Attributes:
        layout: of the image.
        memory: `[nbytes]` uint8.
        embedding, head: tables `[V, K]`, the same tensor where the head is tied.
        final_norm: `[K]` float32.
        layers: the rest.
    """

    def __init__(self, layout: WholeLayout, memory: torch.Tensor) -> None:
        self.layout = layout
        self.memory = memory
        self.embedding = self._tensor("embedding")
        self.final_norm = self._tensor("final_norm")
        self.head = self._tensor("head") if "head" in layout.tensors else self.embedding
        self.layers = tuple(self._layer(layer) for layer in range(layout.shape.layers))

    @property
    def nbytes(self) -> int:
        """Bytes of the image."""
        return self.memory.numel()

    def _layer(self, layer: int) -> LayerWeights:
        def own(key: str) -> torch.Tensor:
            return self._tensor(f"{layer}.{key}")

        bias, norms = self.layout.shape.qkv_bias, self.layout.shape.qk_norm
        return LayerWeights(
            qkv=own("qkv"),
            o=own("o"),
            gate_up=own("gate_up"),
            down=own("down"),
            input_norm=own("input_norm"),
            post_norm=own("post_norm"),
            qkv_bias=own("qkv_bias") if bias else None,
            q_norm=own("q_norm") if norms else None,
            k_norm=own("k_norm") if norms else None,
        )

    def _tensor(self, key: str) -> torch.Tensor:
        place = self.layout.tensors[key]
        piece = self.memory[place.offset : place.offset + place.spec.nbytes]
        return piece.view(place.spec.dtype).view(place.spec.shape)


def whole_layout(shape: DecoderShape, dtype: torch.dtype) -> WholeLayout:
    """The layout of whole models of `shape` with matrices of `dtype`."""
    tensors: dict[str, Place] = {}
    segments: list[tuple[int, int]] = []
    end = 0
    for specs in _segments(shape, dtype):
        for key, spec in specs.items():
            start = -(-end // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
            tensors[key], end = Place(start, spec), start + spec.nbytes
        first = segments[-1][1] if segments else 0
        segments.append((first, -(-end // ALIGNMENT_BYTES) * ALIGNMENT_BYTES))
    return WholeLayout(shape=shape, dtype=dtype, tensors=tensors, segments=tuple(segments))


def _segments(shape: DecoderShape, dtype: torch.dtype) -> Iterator[dict[str, TensorSpec]]:
    table, norm = TensorSpec((shape.vocabulary, shape.K), dtype), TensorSpec((shape.K,), torch.float32)
    yield {"embedding": table}
    for layer in range(shape.layers):
        specs = {
            "input_norm": norm,
            "qkv": TensorSpec((shape.qkv_rows, shape.K), dtype),
            "o": TensorSpec((shape.K, shape.q_rows), dtype),
            "post_norm": norm,
            "gate_up": TensorSpec((2 * shape.F, shape.K), dtype),
            "down": TensorSpec((shape.K, shape.F), dtype),
        }
        if shape.qkv_bias:
            specs["qkv_bias"] = TensorSpec((shape.qkv_rows,), torch.float32)
        if shape.qk_norm:
            specs |= {name: TensorSpec((shape.head_dim,), torch.float32) for name in ("q_norm", "k_norm")}
        yield {f"{layer}.{key}": spec for key, spec in specs.items()}
    yield {"final_norm": norm} if shape.tied else {"final_norm": norm, "head": table}


def _stacked(place: Place, rows: Mapping[str, int]) -> Iterator[tuple[str, Place]]:
    offset, width = place.offset, place.spec.shape[1:]
    for name, N in rows.items():
        spec = TensorSpec((N, *width), place.spec.dtype)
        yield name, Place(offset, spec)
        offset += spec.nbytes
