"""The one layout that all experts of an engine share: slots are alike, so their codecs must store alike."""

from collections.abc import Mapping

from meswitch.architecture import ParameterKind
from meswitch.codecs import format_spec, get_codec
from meswitch.cuda.code_shapes import code_shape
from meswitch.cuda.decoder_shape import DecoderShape
from meswitch.cuda.slot_layout import CodeShape, SlotLayout, slot_layout
from meswitch.errors import UnsupportedModelError
from meswitch.format.manifest import Manifest
from meswitch.format.reader import DeltaDirectory

__all__ = ["layout_of"]

SMALLEST = CodeShape(bits=1, salient=0)
"""Of slots that no expert fills."""


def layout_of(directories: Mapping[str, DeltaDirectory], shape: DecoderShape) -> SlotLayout:
    """The layout of the slots that hold any of these experts.

    Args:
        directories: of all experts of an engine, by name.
        shape: of the base.

    Raises:
        UnsupportedModelError: an expert stores what no kernel covers, or not in the shape of the others.
    """
    shapes: dict[str, CodeShape] = {}
    said_by: dict[str, tuple[str, str]] = {}
    for name, directory in directories.items():
        _check_tables(name, directory.manifest, shape)
        for kind, (code, spec) in _codes(name, directory.manifest).items():
            if shapes.setdefault(kind, code) != code:
                other, other_spec = said_by[kind]
                raise UnsupportedModelError(
                    f"experts of one GPU must store equal bits and channels: {other} has --{kind} {other_spec}, "
                    f"{name} has {spec}; compress {name} again with --{kind} {other_spec}"
                )
            said_by.setdefault(kind, (name, spec))
    return slot_layout(
        shape,
        linear=shapes.get(ParameterKind.LINEAR, SMALLEST),
        embedding=shapes.get(ParameterKind.EMBEDDING, SMALLEST),
        head=None if shape.tied else shapes.get(ParameterKind.HEAD, SMALLEST),
    )


def _codes(name: str, manifest: Manifest) -> dict[str, tuple[CodeShape, str]]:
    """The code of each kind of parameter, and the spec that a user gave for it."""
    found: dict[str, tuple[CodeShape, str]] = {}
    for record in manifest.parameters:
        if record.codec is None:
            continue
        kind, codec = str(record.kind), get_codec(record.codec, record.options)
        spec = format_spec(codec.name, codec.options)
        try:
            code = code_shape(codec, ParameterKind(kind))
        except UnsupportedModelError as cause:
            raise UnsupportedModelError(f"{name}: {record.name}: {cause}; compress it again with --{kind}") from cause
        if found.setdefault(kind, (code, spec))[0] != code:
            raise UnsupportedModelError(
                f"{name}: all parameters of a kind must be stored alike on CUDA, {record.name} is {spec} and another "
                f"{found[kind][1]}; compress it again with one codec as --{kind}"
            )
    return found


def _check_tables(name: str, manifest: Manifest, shape: DecoderShape) -> None:
    for record in manifest.parameters:
        if record.added_rows:
            raise UnsupportedModelError(
                f"{name}: on CUDA an expert must have the base's vocabulary, {record.name} has {record.added_rows} "
                "rows more; serve it on the CPU"
            )
    own_head = any(record.kind == ParameterKind.HEAD.value for record in manifest.parameters)
    if own_head == shape.tied:
        theirs, ours = ("a head of its own", "is tied to") if own_head else ("its head tied to its embedding", "is not")
        tail = " its embedding" if own_head else ""
        raise UnsupportedModelError(
            f"{name}: on CUDA head and embedding must be tied as the base's are: the expert has {theirs}, the base's "
            f"head {ours}{tail}; serve it on the CPU"
        )
