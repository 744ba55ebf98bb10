"""Where each tensor of an expert lies in its slot: one byte image, the same in host memory and on the device.

    segment 0: embedding    segment 1..L: one layer each    segment L + 1: final norm and head
    segment L + 2..2L + 1: what refines each layer, where the codec has bit planes

A layer is one contiguous run of bytes, so that a switch is one copy a segment and a request can start on the first
layer while the others are on their way. Layers of the same input (q, k and v; gate and up) are stacked along N where
their rows are whole tiles of the kernels, and then share one launch.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import gcd

import torch

from meswitch.codecs.base import TensorSpec
from meswitch.cuda.decoder_shape import DecoderShape
from meswitch_kernels.packing import words_per_row
from meswitch_kernels.sparse_packing import plane_shapes

__all__ = ["ALIGNMENT_BYTES", "CodeShape", "MatrixPart", "Place", "SlotLayout", "VectorPart", "slot_layout"]

ALIGNMENT_BYTES = 256
"""Where parts and slots start: what the copy engines and the widest loads ask for."""

STACK_ROWS = 128
"""Layers are stacked only in multiples of so many rows, so that no tile of a kernel spans two of them."""

EMBEDDING = "model.embed_tokens.weight"
FINAL_NORM = "model.norm.weight"
HEAD = "lm_head.weight"


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeShape:
    """How a codec describes a matrix.

    Attributes:
        bits: of a code, for each element that it describes.
        salient: input channels with exact values.
        planes: 2 where codes of `bits` bits serve alone, and as many more refine them.
        group: neighbours along the input that share a code, which is the place and the sign of one of them.
        keep: codes of a group.
    """

    bits: float
    salient: int
    planes: int = 1
    group: int = 1
    keep: int = 1


@dataclass(frozen=True, slots=True)
class Place:
    """Bytes of one stored tensor: `offset` in the image, and what is stored there."""

    offset: int
    spec: TensorSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixPart:
    """Codes, steps, salient channels and their values of matrices stacked along N.

    Attributes:
        rows: output channels of each matrix, by parameter name, in order.
        K: input dimension.
        code: how the codec describes them.
        codes, steps, index, values: byte offsets in the image; those of `[N, W]` int32, `[N]` float32, `[G, S]` int32
            and `[N, S]` float16, where G lists of N / G rows each cover the matrices. Codes of groups are
            `[keep, N, W]`.
        signs: that of the codes' signs, `[keep, N, sign_units]` int16, where they do not lie in the codes.
        stored: what the codec calls the codes and the steps.
    """

    rows: Mapping[str, int]
    K: int
    code: CodeShape
    codes: int
    signs: int
    steps: int
    index: int
    values: int
    stored: tuple[str, str] = ("codes", "step")

    @property
    def N(self) -> int:  # noqa: N802 - a dimension
        """Rows of all matrices."""
        return sum(self.rows.values())

    @property
    def groups(self) -> int:
        """G: lists of salient channels."""
        return self.N // gcd(*self.rows.values())

    @property
    def words(self) -> int:
        """W: words of a row of codes."""
        return _row_units(self.K, self.code)[0]

    @property
    def sign_units(self) -> int:
        """16-bit units of a row of signs that lie apart from their codes."""
        return _row_units(self.K, self.code)[1]

    @property
    def end(self) -> int:
        """The byte after the last one."""
        return self.values + 2 * self.N * self.code.salient

    def places(self) -> Iterator[tuple[str, Mapping[str, Sequence[Place]]]]:
        """Each matrix, and where its stored tensors go by their local names; an index goes to each of its lists."""
        first, S = 0, self.code.salient
        size = self.N // self.groups
        for name, rows in self.rows.items():
            lists = range(first // size, (first + rows) // size)
            yield (
                name,
                {
                    **self._code_places(first, rows),
                    self.stored[1]: (Place(self.steps + 4 * first, TensorSpec((rows,), torch.float32)),),
                    "salient": tuple(Place(self.index + 4 * S * g, TensorSpec((S,), torch.int32)) for g in lists),
                    "values": (Place(self.values + 2 * first * S, TensorSpec((rows, S), torch.float16)),),
                },
            )
            first += rows

    def _code_places(self, first: int, rows: int) -> dict[str, Sequence[Place]]:
        """Codes, and signs that lie apart, of the matrix whose first row is `first` of all."""
        name, offset = self.stored[0], self.codes + 4 * first * self.words
        if self.code.group == 1:
            return {name: (Place(offset, TensorSpec((rows, self.words), torch.int32)),)}
        signs = self.signs + 2 * first * self.sign_units
        return {
            name: (Place(offset, TensorSpec((self.code.keep, rows, self.words), torch.int32)),),
            "signs": (Place(signs, TensorSpec((self.code.keep, rows, self.sign_units), torch.int16)),),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorPart:
    """A norm's weight or a bias, float32, of parameters one after the other: `lengths` by parameter name."""

    lengths: Mapping[str, int]
    offset: int

    @property
    def end(self) -> int:
        """The byte after the last one."""
        return self.offset + 4 * sum(self.lengths.values())

    def places(self) -> Iterator[tuple[str, Place]]:
        """Each parameter and where it goes."""
        offset = self.offset
        for name, length in self.lengths.items():
            yield name, Place(offset, TensorSpec((length,), torch.float32))
            offset += 4 * length


Part = MatrixPart | VectorPart


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotLayout:
    """The image of an expert.

    Attributes:
        embedding: of the table; the head's codes too, where `head` is `None`.
        layers: the parts of each layer by their key: `qkv` or `q`, `k` and `v`; `o`; `gate_up` or `gate` and `up`;
            `down`; `input_norm`, `post_norm`, and where the model has them `qkv_bias`, `q_norm`, `k_norm`.
        final_norm: before the head.
        head: `None` where it is tied to the embedding.
        refinements: of each layer's matrices by the same keys, where the codec has bit planes; else empty.
        segments: first byte and the byte after the last one of each segment.
    """

    embedding: MatrixPart
    layers: tuple[Mapping[str, Part], ...]
    final_norm: VectorPart
    head: MatrixPart | None
    refinements: tuple[Mapping[str, MatrixPart], ...]
    segments: tuple[tuple[int, int], ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the image, padding included."""
        return self.segments[-1][1]

    @property
    def serving_segments(self) -> int:
        """Segments that a forward pass needs; those after them refine it."""
        return len(self.layers) + 2

    @property
    def linear_code(self) -> CodeShape:
        """How the linears are described."""
        return next(part.code for part in self.layers[0].values() if isinstance(part, MatrixPart))

    @property
    def head_part(self) -> MatrixPart:
        """The head's codes, which are the embedding's where it is tied."""
        return self.head if self.head is not None else self.embedding

    def parts(self) -> Iterator[Part]:
        """All parts in the order of their bytes."""
        yield self.embedding
        for layer in self.layers:
            yield from layer.values()
        yield self.final_norm
        if self.head is not None:
            yield self.head
        for layer in self.refinements:
            yield from layer.values()


def slot_layout(shape: DecoderShape, *, linear: CodeShape, embedding: CodeShape, head: CodeShape | None) -> SlotLayout:
    """The layout of experts whose matrices are all described alike.

    Args:
        shape: of the decoder.
        linear, embedding, head: the codes of each kind; no `head` where it is tied.
    """
    cursor = _Cursor()
    table = cursor.matrix({EMBEDDING: shape.vocabulary}, shape.K, embedding)
    cursor.end_segment()
    layers = []
    for index in range(shape.layers):
        layers.append(_layer(cursor, shape, f"model.layers.{index}", linear))
        cursor.end_segment()
    norm = cursor.vector({FINAL_NORM: shape.K})
    top = None if head is None else cursor.matrix({HEAD: shape.vocabulary}, shape.K, head)
    cursor.end_segment()
    refinements = []
    for layer in layers if linear.planes > 1 else ():
        refinements.append(
            {key: cursor.refinement(part) for key, part in layer.items() if isinstance(part, MatrixPart)}
        )
        cursor.end_segment()
    return SlotLayout(
        embedding=table,
        layers=tuple(layers),
        final_norm=norm,
        head=top,
        refinements=tuple(refinements),
        segments=tuple(cursor.segments),
    )


def _layer(cursor: "_Cursor", shape: DecoderShape, prefix: str, code: CodeShape) -> dict[str, Part]:
    attention, mlp = f"{prefix}.self_attn", f"{prefix}.mlp"
    qkv = {"q": shape.q_rows, "k": shape.kv_rows, "v": shape.kv_rows}
    parts: dict[str, Part] = {"input_norm": cursor.vector({f"{prefix}.input_layernorm.weight": shape.K})}
    if shape.qkv_bias:
        parts["qkv_bias"] = cursor.vector({f"{attention}.{name}_proj.bias": rows for name, rows in qkv.items()})
    if shape.qk_norm:
        for name in ("q_norm", "k_norm"):
            parts[name] = cursor.vector({f"{attention}.{name}.weight": shape.head_dim})
    parts |= cursor.stack(attention, qkv, shape.K, code)
    parts |= cursor.stack(attention, {"o": shape.K}, shape.q_rows, code)
    parts["post_norm"] = cursor.vector({f"{prefix}.post_attention_layernorm.weight": shape.K})
    parts |= cursor.stack(mlp, {"gate": shape.F, "up": shape.F}, shape.K, code)
    parts |= cursor.stack(mlp, {"down": shape.K}, shape.F, code)
    return parts


def _row_units(K: int, code: CodeShape) -> tuple[int, int]:
    """Words of a row of codes, and 16-bit units of its signs where they lie apart."""
    if code.group == 1:
        return words_per_row(K, int(code.bits)), 0
    (words, _), (sign_units, _) = plane_shapes(K, code.group)
    return words, sign_units


class _Cursor:
    """Gives out aligned places, one after the other."""

    def __init__(self) -> None:
        self._next = 0
        self.segments: list[tuple[int, int]] = []

    def end_segment(self) -> None:
        """Everything since the last call is one segment."""
        start = self.segments[-1][1] if self.segments else 0
        self.segments.append((start, self._take(0)))

    def vector(self, lengths: Mapping[str, int]) -> VectorPart:
        """A place for vectors."""
        return VectorPart(lengths=lengths, offset=self._take(4 * sum(lengths.values())))

    def matrix(self, rows: Mapping[str, int], K: int, code: CodeShape) -> MatrixPart:
        """A place for matrices stacked along N."""
        N, S = sum(rows.values()), code.salient
        lists = N // gcd(*rows.values())
        words, sign_units = _row_units(K, code)
        return MatrixPart(
            rows=rows,
            K=K,
            code=code,
            codes=self._take(4 * code.keep * N * words),
            signs=self._take(2 * code.keep * N * sign_units),
            steps=self._take(4 * N),
            index=self._take(4 * lists * S),
            values=self._take(2 * N * S),
            stored=("codes", "step") if code.planes == 1 else ("signs", "sign_step"),
        )

    def refinement(self, part: MatrixPart) -> MatrixPart:
        """A place for the second plane of the matrices of `part`."""
        second = self.matrix(part.rows, part.K, part.code)
        return replace(second, stored=("refinement", "step"))

    def stack(self, prefix: str, rows: Mapping[str, int], K: int, code: CodeShape) -> dict[str, Part]:
        """One part for all matrices, or one for each where tiles would span two of them.

        Two codes of a group lie in two planes of a matrix, and those of matrices side by side would not be planes.
        """
        names = {name: f"{prefix}.{name}_proj.weight" for name in rows}
        if gcd(*rows.values()) % STACK_ROWS == 0 and code.keep == 1:
            key = {"q": "qkv", "gate": "gate_up"}.get(next(iter(rows)), next(iter(rows)))
            return {key: self.matrix({names[name]: N for name, N in rows.items()}, K, code)}
        return {name: self.matrix({names[name]: N}, K, code) for name, N in rows.items()}

    def _take(self, nbytes: int) -> int:
        start = -(-self._next // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        self._next = start + nbytes
        return start
