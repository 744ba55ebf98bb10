"""Random experts and models of the right shapes and bytes: for memory and speed, never for quality.

A few random numbers are drawn for each image and repeated: to move them takes as long as what a codec would have
made, and nobody reads meaning into them.
"""

import zlib
from collections.abc import Callable, Hashable, MutableMapping, Sequence
from typing import Generic, TypeVar

import torch

from meswitch.architecture import ParameterKind
from meswitch.codecs import parse_codec
from meswitch.config import SyntheticConfig
from meswitch.cuda.code_shapes import code_shape
from meswitch.cuda.decoder_shape import DecoderShape
from meswitch.cuda.image import ImageSource, piece
from meswitch.cuda.slot_layout import SlotLayout, VectorPart, slot_layout
from meswitch.cuda.whole_layout import WholeLayout

__all__ = ["SyntheticImageSource", "SyntheticWholeSource", "shared_sources", "synthetic_layout"]

DRAWN = (1 << 22) - 3
"""Numbers drawn at once; odd, so that no two layers get the same ones."""

STEP = 2e-4
"""About the step of a 2-bit delta of a fine-tuned 7B model, which is small beside its weights."""

WEIGHT = 0.02
"""Standard deviation of a model's weights."""

L = TypeVar("L", SlotLayout, WholeLayout)


class _DrawnSource(Generic[L]):
    """What is drawn and not read.

    Args:
        layout: of the image.
        seed: of all sources.
        name: of this one.
        drawn: of all sources that write into the same images, what each of those holds, by its address: one that has
            the same already is left as it is. `None` remembers nothing.
    """

    def __init__(self, layout: L, *, seed: int, name: str, drawn: MutableMapping[int, Hashable] | None = None) -> None:
        self._layout: L = layout
        self._seed = _own_seed(seed, name)
        self._drawn = drawn

    @property
    def nbytes(self) -> int:
        """Bytes of the image."""
        return self._layout.nbytes

    @property
    def read_bytes(self) -> int:
        """Bytes that are made: there is no file."""
        return self._layout.nbytes

    def fill(self, image: torch.Tensor) -> None:
        """Write all of `image`, unless it holds the same from an engine before."""
        if self._drawn is None:
            self._draw(image)
            return
        # layouts are dataclasses of numbers all the way down, so that its words tell one from any other
        content = (type(self).__name__, repr(self._layout), self._seed)
        # gone while it is written: half of it is nothing that anybody asks for
        if self._drawn.pop(image.data_ptr(), None) != content:
            self._draw(image)
        self._drawn[image.data_ptr()] = content

    def _draw(self, image: torch.Tensor) -> None:
        raise NotImplementedError


class SyntheticImageSource(_DrawnSource[SlotLayout]):
    """Random codes and steps, norms of 1 and biases of 0, of an expert."""

    def _draw(self, image: torch.Tensor) -> None:
        generator = torch.Generator().manual_seed(self._seed)
        words = torch.randint(-(1 << 31), 1 << 31, (DRAWN,), dtype=torch.int32, generator=generator)
        _repeat(image.view(torch.int32), words)
        steps = torch.rand(1 << 18, generator=generator).add_(0.5).mul_(STEP)
        values = torch.randn(1 << 20, generator=generator).mul_(STEP).half()
        for part in self._layout.parts():
            if isinstance(part, VectorPart):
                _fill_vectors(image, part)
                continue
            for _, places in part.places():
                _repeat(piece(image, places[part.stored[1]][0]), steps)
                _repeat(piece(image, places["values"][0]).view(-1), values)
                channels = torch.randperm(part.K, generator=generator)[: part.code.salient].sort().values
                for place in places["salient"]:
                    piece(image, place).copy_(channels)


class SyntheticWholeSource(_DrawnSource[WholeLayout]):
    """Random matrices, norms of 1 and biases of 0, of a whole model."""

    def _draw(self, image: torch.Tensor) -> None:
        generator = torch.Generator().manual_seed(self._seed)
        drawn = torch.randn(DRAWN, generator=generator).mul_(WEIGHT).to(self._layout.dtype)
        _repeat(image.view(self._layout.dtype), drawn)
        for name, place in self._layout.places():
            if len(place.spec.shape) == 1:
                piece(image, place).fill_(_neutral(name))


def synthetic_layout(config: SyntheticConfig, shape: DecoderShape) -> SlotLayout:
    """The layout of experts that the config's codecs would make.

    Raises:
        DeltaError: a codec spec is wrong.
        UnsupportedModelError: no kernel covers a codec.
    """
    specs = {
        ParameterKind.LINEAR: config.linear,
        ParameterKind.EMBEDDING: config.embedding,
        ParameterKind.HEAD: config.head,
    }
    linear, embedding, head = (code_shape(parse_codec(spec), kind) for kind, spec in specs.items())
    return slot_layout(shape, linear=linear, embedding=embedding, head=None if shape.tied else head)


def shared_sources(
    names: Sequence[str], make: Callable[[str], ImageSource], *, images: int | None
) -> dict[str, ImageSource]:
    """The source of each name; at most `images` different ones, each for the names of equal index modulo `images`.

    Names of one source share its image in host memory.

    Args:
        names: of experts, in order.
        make: the source of a name.
        images: `None` gives each name its own.
    """
    own = [make(name) for name in names[:images]]
    return {name: own[i % len(own)] for i, name in enumerate(names)}


def _fill_vectors(image: torch.Tensor, part: VectorPart) -> None:
    for name, place in part.places():
        piece(image, place).fill_(_neutral(name))


def _neutral(name: str) -> float:
    return 0.0 if name.endswith(".bias") else 1.0


def _repeat(target: torch.Tensor, drawn: torch.Tensor) -> None:
    """Fill `target` `[n]` with `drawn` again and again."""
    for start in range(0, len(target), len(drawn)):
        target[start : start + len(drawn)] = drawn[: len(target) - start]


def _own_seed(seed: int, name: str) -> int:
    # the generator looks at 32 bits only
    return zlib.crc32(f"{seed} {name}".encode())
