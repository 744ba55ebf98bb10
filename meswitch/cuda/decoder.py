"""The decoder on a GPU: one token of many rows, each of its own expert, or many tokens of one row.

    step    : norm → q/k/v → rotary, cache → attention → o → norm → gate/up → activation → down, for all rows
    prefill : the same for a chunk of one prompt, with `W + D̂` of its expert in one product

The base's products are cuBLAS, everything that differs from row to row is a kernel of `meswitch_kernels`. Norms and
activations write the integer form that `delta_matmul` reads, so that it needs no launch of its own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from meswitch.cuda.decoder_shape import DecoderShape, inverse_frequencies
from meswitch.cuda.kv_cache import KvCache
from meswitch.cuda.linear import DeltaColumns, StepGroups, SwitchLinear
from meswitch.cuda.slot_layout import MatrixPart, VectorPart
from meswitch.cuda.slots import SlotArena
from meswitch.cuda.step_state import StepState, StepTensors
from meswitch.cuda.whole_layout import LayerWeights, WholeWeights
from meswitch_kernels.activation import gated_activation
from meswitch_kernels.attention import decode_attention
from meswitch_kernels.embedding import delta_rows
from meswitch_kernels.grouping import group_rows
from meswitch_kernels.norm import rms_norm
from meswitch_kernels.rotary import rotary_and_store
from meswitch_kernels.rows import RowVectors
from meswitch_kernels.sampling import choose_tokens

__all__ = ["MIN_WIDTH", "PADDED_TOKENS", "Decoder", "RotaryTables", "rotary_tables"]

PADDED_TOKENS = 16
"""Prompts are computed in multiples of so many tokens: kernels are compiled for those apart from all other lengths."""

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

    def prefill(
        self,
        tokens: torch.Tensor,
        *,
        start: int,
        cache_row: int,
        slot: int,
        wait: Callable[[int], None],
        refined: bool = True,
    ) -> torch.Tensor:
        """The residual stream `[T, K]` after a chunk of one prompt, whose keys and values are written.

        Computed with whole tiles of `PADDED_TOKENS` tokens, so that no length of a prompt compiles kernels anew.

        Args:
            tokens: `[T]` int64, on the device.
            start: position of the first of them; those before it are in the cache.
            cache_row: of the request.
            slot: of its expert; -1 for the base.
            wait: called with a segment's index before that segment's weights are read.
            refined: whether all bit planes of the slot are in place.
        """
        T, device = tokens.shape[0], tokens.device
        padding = -T % PADDED_TOKENS
        tokens = F.pad(tokens, (0, padding))
        # a token beyond the prompt has some position of it, and no place in the cache
        positions = F.pad(torch.arange(start, start + T, device=device), (0, padding))
        rows = F.pad(torch.full((T,), cache_row, dtype=torch.int32, device=device), (0, padding), value=-1)
        slots = None if slot < 0 else torch.full((T + padding,), slot, dtype=torch.int32, device=device)
        wait(0)
        h = self._embed(tokens, slots)
        for i, layer in enumerate(self._layers):
            wait(i + 1)
            x = _plain(rms_norm(h, layer.input_norm, slots, eps=self._shape.eps))
            q = self._rotate(i, layer, layer.qkv.prefill(x, slot, refined=refined), positions, rows, slots)
            x = F.pad(self._attend(i, q[:T], start, cache_row), (0, 0, 0, padding))
            h += layer.o.prefill(x, slot, refined=refined)
            x = _plain(rms_norm(h, layer.post_norm, slots, eps=self._shape.eps))
            x = _plain(gated_activation(layer.gate_up.prefill(x, slot, refined=refined), kind=self._shape.activation))
            h += layer.down.prefill(x, slot, refined=refined)
        return h[:T]

    @property
    def has_experts(self) -> bool:
        """Whether there are slots beside the weights."""
        return self._slots is not None

    def warm_up(self, *, chunk_tokens: int) -> None:
        """Compile what prompts of up to `chunk_tokens` need, by computing some that nobody asked for in row 0."""
        slot = 0 if self._slots is not None else -1
        sizes = [1 << i for i in range(4, chunk_tokens.bit_length()) if 1 << i < chunk_tokens]
        state = StepState(1, device=self._weights.memory.device)
        for size in (*sizes, chunk_tokens):
            tokens = torch.zeros(size, dtype=torch.int64, device=self._weights.memory.device)
            h = self.prefill(tokens, start=0, cache_row=0, slot=slot, wait=lambda _: None)
            self.first_token(h, state.tensors, wait=lambda _: None)

    def first_token(self, h: torch.Tensor, state: StepTensors, *, wait: Callable[[int], None]) -> None:
        """Choose the token after the last row of `h` `[T, K]` into `state.chosen`; `state` is of that one row."""
        wait(self._shape.layers + 1)
        slots = state.slots if self._slots is not None else None
        groups = self._groups(state, MIN_WIDTH) if slots is not None else None
        bits = self._head_bits if slots is not None else None
        x = rms_norm(h[-1:], self._final_norm, slots, eps=self._shape.eps, bits=bits)
        self._choose(self._head.decode(x, groups), state)

    def _groups(self, state: StepTensors, width: int) -> StepGroups:
        has_planes = self._slots is not None and bool(self._slots.layout.refinements)
        refined = group_rows(state.refined, width=width) if has_planes else None
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
        )

    def _attend(self, index: int, q: torch.Tensor, start: int, cache_row: int) -> torch.Tensor:
        """Attention of a chunk `[T, H, D]` over its row of the cache: `[T, H * D]`."""
        T = q.shape[0]
        keys, values = (held[index, cache_row, :, : start + T][None] for held in (self._cache.keys, self._cache.values))
        mask = None
        if start:
            columns = torch.arange(start + T, device=q.device)
            mask = columns[None, :] <= columns[start:, None]
        out = F.scaled_dot_product_attention(
            q.transpose(0, 1)[None], keys, values, attn_mask=mask, is_causal=mask is None, enable_gqa=True
        )
        return out[0].transpose(0, 1).reshape(T, -1)

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
