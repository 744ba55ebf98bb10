"""The decoder on a GPU: one token of many rows, each of its own expert, or many tokens of one row.

    step    : norm → q/k/v → rotary, cache → attention → o → norm → gate/up → activation → down, for all rows
    prompt  : the same for a chunk of one prompt, with `W + D̂` of its expert in one product; in pieces, so that
              what lies between two attentions can be one CUDA graph

The base's products are cuBLAS, everything that differs from row to row is a kernel of `meswitch_kernels`. Norms and
activations write the integer form that `delta_matmul` reads, so that it needs no launch of its own.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from meswitch.cuda.decoder_shape import DecoderShape, inverse_frequencies
from meswitch.cuda.kv_cache import KvCache
from meswitch.cuda.linear import DeltaColumns, StepGroups, SwitchLinear
from meswitch.cuda.prompt_attention import prompt_attention
from meswitch.cuda.prompt_state import PromptTensors
from meswitch.cuda.slot_layout import MatrixPart, VectorPart
from meswitch.cuda.slots import SlotArena
from meswitch.cuda.step_state import StepTensors
from meswitch.cuda.whole_layout import LayerWeights, WholeWeights
from meswitch_kernels.activation import gated_activation
from meswitch_kernels.attention import decode_attention
from meswitch_kernels.embedding import delta_rows
from meswitch_kernels.grouping import group_rows
from meswitch_kernels.norm import rms_norm
from meswitch_kernels.rotary import rotary_and_store
from meswitch_kernels.rows import RowVectors
from meswitch_kernels.sampling import choose_tokens

__all__ = ["MIN_WIDTH", "Decoder", "RotaryTables", "rotary_tables"]

MIN_WIDTH = 2
"""Rows of a tile that cost no more than one: the tensor cores' columns hold two."""


@dataclass(frozen=True, slots=True)
class RotaryTables:
    """Cosines and sines of every position, `[positions, head_dim / 2]` float32."""

    cos: torch.Tensor
    sin: torch.Tensor


def rotary_tables(config: Any, *, positions: int, device: torch.device) -> RotaryTables:
    """The tables of a model's config."""
    frequencies, scaling = inverse_frequencies(config)
    angles = torch.arange(positions, dtype=torch.float32)[:, None] * frequencies[None, :]
    return RotaryTables((angles.cos() * scaling).to(device), (angles.sin() * scaling).to(device))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    """One layer's operands; vectors of the base and of every slot."""

    input_norm: RowVectors
    qkv: SwitchLinear
    qkv_bias: RowVectors | None
    q_norm: RowVectors | None
    k_norm: RowVectors | None
    o: SwitchLinear
    post_norm: RowVectors
    gate_up: SwitchLinear
    down: SwitchLinear


class Decoder:
    """Computes with one set of whole weights, and with the deltas in the slots beside it.

    Args:
        shape: of the model.
        weights: the base, or a whole model by itself.
        slots: of the experts; `None` where `weights` are all there is.
        cache: of keys and values.
        rotary: for every position of the cache.
    """

    def __init__(
        self,
        shape: DecoderShape,
        weights: WholeWeights,
        slots: SlotArena | None,
        cache: KvCache,
        rotary: RotaryTables,
    ) -> None:
        self._shape = shape
        self._weights = weights
        self._cache = cache
        self._rotary = rotary
        self._slots = slots
        self._layers = tuple(_layer(slots, i, layer) for i, layer in enumerate(weights.layers))
        self._table = slots.matrix(slots.layout.embedding) if slots is not None else None
        self._final_norm = RowVectors(
            base=weights.final_norm, experts=slots.vectors(slots.layout.final_norm) if slots is not None else None
        )
        self._head = SwitchLinear(weights.head, _columns(slots, [slots.layout.head_part] if slots is not None else []))
        self._bits = slots.layout.linear_code.bits if slots is not None else None
        self._head_bits = slots.layout.head_part.code.bits if slots is not None else None

    def step(self, state: StepTensors, *, width: int | None) -> None:
        """Choose the next token of each row of `state`, and advance them. Never waits for the device.

        Args:
            state: of the rows; keys and values of their newest tokens are written.
            width: most rows of an expert that share a read of its codes; `None` if every row is the base's.
        """
        slots = state.slots if width is not None and self._slots is not None else None
        groups = self._groups(state, width) if slots is not None and width is not None else None
        bits, head_bits = (self._bits, self._head_bits) if slots is not None else (None, None)
        h = self._embed(state.tokens, slots)
        for i, layer in enumerate(self._layers):
            x = rms_norm(h, layer.input_norm, slots, eps=self._shape.eps, bits=bits)
            q = self._rotate(i, layer, layer.qkv.decode(x, groups), state.positions, state.cache_rows, slots)
            x = decode_attention(
                q,
                self._cache.keys[i],
                self._cache.values[i],
                rows=state.cache_rows,
                lengths=state.lengths,
                scale=self._shape.head_dim**-0.5,
                bits=bits,
            )
            layer.o.accumulate(h, x, groups)
            x = rms_norm(h, layer.post_norm, slots, eps=self._shape.eps, bits=bits)
            x = gated_activation(layer.gate_up.decode(x, groups), kind=self._shape.activation, bits=bits)
            layer.down.accumulate(h, x, groups)
        x = rms_norm(h, self._final_norm, slots, eps=self._shape.eps, bits=head_bits)
        self._choose(self._head.decode(x, groups), state)
        state.advance()

    @property
    def has_experts(self) -> bool:
        """Whether there are slots beside the weights."""
        return self._slots is not None

    @property
    def has_planes(self) -> bool:
        """Whether slots have a second bit plane, which may come later than the first."""
        return self._slots is not None and bool(self._slots.layout.refinements)

    @property
    def pieces(self) -> int:
        """Into how many pieces attention cuts a prompt: one more than there are layers."""
        return self._shape.layers + 1

    @property
    def last_segment(self) -> int:
        """The segment of the weights behind the layers."""
        return self._shape.layers + 1

    def segments_of(self, piece: int) -> tuple[int, ...]:
        """The segments of the weights that `piece` is the first to read."""
        return (0, 1) if piece == 0 else (piece + 1,) if piece < self._shape.layers else ()

    def compute(self, piece: int, prompt: PromptTensors, *, has_expert: bool, refined: bool) -> None:
        """What lies between two attentions of a prompt: the end of a layer, and the beginning of the next.

        The first piece begins with the tokens' embeddings, the last one ends with the residual stream. Keys and values
        of the tokens are written to the cache. Never waits for the device.

        Args:
            piece: from 0 to `pieces`, in order.
            prompt: read and written.
            has_expert: whether the slot of `prompt` is an expert's; else the base computes.
            refined: whether all bit planes of that slot are in place.
        """
        slots = prompt.slots if has_expert else None
        if piece == 0:
            torch.index_select(self._weights.embedding, 0, prompt.tokens, out=prompt.h)
            if slots is not None and self._table is not None:
                delta_rows(prompt.h, prompt.tokens, self._table, slots)
        else:
            self._finish(self._layers[piece - 1], prompt, slots, refined=refined)
        if piece < self._shape.layers:
            layer = self._layers[piece]
            x = _plain(rms_norm(prompt.h, layer.input_norm, slots, eps=self._shape.eps))
            qkv = layer.qkv.prefill(x, slots, refined=refined)
            self._rotate(piece, layer, qkv, prompt.positions, prompt.cache_rows, slots, out=prompt.queries)

    def attend(self, layer: int, prompt: PromptTensors, *, tokens: int, start: int, cache_row: int) -> None:
        """Attention of the queries of `prompt` over their row of the cache.

        Args:
            layer: whose queries they are.
            prompt: its first `tokens` rows are attended for.
            start: position of the first of them.
            cache_row: of the request.
        """
        keys, values = (held[layer, cache_row, :, : start + tokens] for held in (self._cache.keys, self._cache.values))
        x = prompt_attention(prompt.queries[:tokens], keys, values)
        prompt.attended[:tokens].view_as(x).copy_(x)

    def first_token(self, h: torch.Tensor, state: StepTensors) -> None:
        """Choose the token after the one whose residual stream is `h` `[1, K]` into `state.chosen`, of that one row."""
        slots = state.slots if self._slots is not None else None
        groups = self._groups(state, MIN_WIDTH) if slots is not None else None
        bits = self._head_bits if slots is not None else None
        x = rms_norm(h, self._final_norm, slots, eps=self._shape.eps, bits=bits)
        self._choose(self._head.decode(x, groups), state)

    def _finish(self, layer: _Layer, prompt: PromptTensors, slots: torch.Tensor | None, *, refined: bool) -> None:
        """What follows attention in a layer."""
        h = prompt.h
        h += layer.o.prefill(prompt.attended, slots, refined=refined)
        x = _plain(rms_norm(h, layer.post_norm, slots, eps=self._shape.eps))
        x = _plain(gated_activation(layer.gate_up.prefill(x, slots, refined=refined), kind=self._shape.activation))
        h += layer.down.prefill(x, slots, refined=refined)

    def _groups(self, state: StepTensors, width: int) -> StepGroups:
        refined = group_rows(state.refined, width=width) if self.has_planes else None
        return StepGroups(group_rows(state.slots, width=width), refined)

    def _embed(self, tokens: torch.Tensor, slots: torch.Tensor | None) -> torch.Tensor:
        h = F.embedding(tokens, self._weights.embedding)
        if slots is not None and self._table is not None:
            delta_rows(h, tokens, self._table, slots)
        return h

    def _rotate(
        self,
        index: int,
        layer: _Layer,
        qkv: torch.Tensor,
        positions: torch.Tensor,
        cache_rows: torch.Tensor,
        slots: torch.Tensor | None,
        out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        return rotary_and_store(
            qkv,
            cos=self._rotary.cos,
            sin=self._rotary.sin,
            positions=positions,
            cache_rows=cache_rows,
            keys=self._cache.keys[index],
            values=self._cache.values[index],
            heads=self._shape.heads,
            kv_heads=self._shape.kv_heads,
            bias=layer.qkv_bias,
            q_norm=layer.q_norm,
            k_norm=layer.k_norm,
            slots=slots,
            eps=self._shape.eps,
            out=out,
        )

    def _choose(self, logits: torch.Tensor, state: StepTensors) -> None:
        state.chosen.copy_(
            choose_tokens(
                logits,
                vocabulary=state.vocabulary,
                temperature=state.temperature,
                seeds=state.seeds,
                positions=state.positions,
            )
        )


def _layer(slots: SlotArena | None, index: int, weights: LayerWeights) -> _Layer:
    parts = slots.layout.layers[index] if slots is not None else {}
    planes = slots.layout.refinements[index] if slots is not None and slots.layout.refinements else {}

    def vectors(key: str, base: torch.Tensor | None) -> RowVectors | None:
        if base is None:
            return None
        part = parts.get(key)
        experts = slots.vectors(part) if slots is not None and isinstance(part, VectorPart) else None
        return RowVectors(base=base, experts=experts)

    def linear(keys: tuple[str, ...], weight: torch.Tensor) -> SwitchLinear:
        found = [part for key in keys if isinstance(part := parts.get(key), MatrixPart)]
        second = [planes[key] for key in keys if key in planes]
        return SwitchLinear(weight, _columns(slots, found), _columns(slots, second))

    input_norm, post_norm = vectors("input_norm", weights.input_norm), vectors("post_norm", weights.post_norm)
    assert input_norm is not None
    assert post_norm is not None
    return _Layer(
        input_norm=input_norm,
        qkv=linear(("qkv", "q", "k", "v"), weights.qkv),
        qkv_bias=vectors("qkv_bias", weights.qkv_bias),
        q_norm=vectors("q_norm", weights.q_norm),
        k_norm=vectors("k_norm", weights.k_norm),
        o=linear(("o",), weights.o),
        post_norm=post_norm,
        gate_up=linear(("gate_up", "gate", "up"), weights.gate_up),
        down=linear(("down",), weights.down),
    )


def _columns(slots: SlotArena | None, parts: list[MatrixPart]) -> tuple[DeltaColumns, ...]:
    columns: list[DeltaColumns] = []
    if slots is not None:
        start = 0
        for part in parts:
            columns.append(DeltaColumns(slots.matrix(part), start, start + part.N))
            start += part.N
    return tuple(columns)


def _plain(x: Any) -> torch.Tensor:
    assert isinstance(x, torch.Tensor)
    return x
