"""Makes a family of shapes ready: no weights exist yet, and none are written; what they will take is counted."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import UsageError
from harness.prepared import DeltaSize, Prepared, PrepareRequest
from meswitch.config import SyntheticConfig
from meswitch.families.family import FAMILY_FILE
from meswitch.families.shape_family import CONFIG_FILE, list_shape_families, load_shape_family

if TYPE_CHECKING:
    from meswitch.cuda.decoder_shape import DecoderShape
    from meswitch.cuda.slot_layout import MatrixPart, SlotLayout

__all__ = ["is_shape_family", "prepare_shapes", "whole_shape_bytes", "whole_spec"]


def is_shape_family(name_or_path: str) -> bool:
    """Whether it is the name of a shape, or a place with a config and no family."""
    path = Path(name_or_path)
    root = path.parent if path.name == CONFIG_FILE else path
    is_config = (root / CONFIG_FILE).is_file() and not (root / FAMILY_FILE).exists()
    return name_or_path in list_shape_families() or is_config


def whole_spec(spec: str) -> str:
    """The spec of the same codec that says every option. Imports torch.

    Raises:
        UnknownCodecError, CodecOptionError: there is no such codec.
    """
    from meswitch.codecs import format_spec, parse_codec

    codec = parse_codec(spec)
    return format_spec(codec.name, codec.options)


def prepare_shapes(request: PrepareRequest) -> Prepared:
    """The family with the experts that were asked for. Imports torch; nothing is written.

    Raises:
        UsageError: no experts were asked for.
        FamilyError, UnsupportedModelError, CodecOptionError: no such shape, or no such experts on a GPU.
    """
    if not request.experts:
        raise UsageError("a family of shapes has no experts of its own; name them with --experts")
    from meswitch.codecs import parse_codec
    from meswitch.cuda.synthetic_image import synthetic_layout

    family = load_shape_family(request.family)
    codec = parse_codec(request.codec)
    synthetic = SyntheticConfig(linear=whole_spec(request.codec))
    layout = synthetic_layout(synthetic, family.shape)
    size = _size(layout, family.shape)
    paths = {name: family.config_dir for name in request.experts}
    return Prepared(
        family=family.name,
        base=family.config_dir,
        checkpoints=paths,
        deltas=paths,
        router=None,
        domains={},
        tasks={},
        model_bytes=whole_shape_bytes(family.shape, request.dtype),
        router_bytes=0,
        sizes=dict.fromkeys(request.experts, size),
        codec=synthetic.linear,
        codec_name=codec.name,
        codec_options=dict(codec.options),
        weights_hash=_hash(family.config_dir / CONFIG_FILE, synthetic),
        vocabulary=family.shape.vocabulary,
        has_text=False,
        synthetic=synthetic,
    )


def whole_shape_bytes(shape: "DecoderShape", dtype: str) -> int:
    """Bytes of one whole model of `shape` with matrices of `dtype`."""
    import torch

    from meswitch.cuda.whole_layout import whole_layout

    return whole_layout(shape, getattr(torch, dtype)).nbytes


def _size(layout: "SlotLayout", shape: "DecoderShape") -> DeltaSize:
    from meswitch.cuda.slot_layout import MatrixPart

    linears = [part for layer in layout.layers for part in layer.values() if isinstance(part, MatrixPart)]
    refinements = [part for layer in layout.refinements for part in layer.values()]
    tables = [part for part in (layout.embedding, layout.head) if part is not None]
    linear_bytes = sum(_part_bytes(part) for part in (*linears, *refinements))
    weights, table_weights = (sum(part.N * part.K for part in parts) for parts in (linears, tables))
    return DeltaSize(
        whole=layout.nbytes,
        linears=linear_bytes,
        full_model=whole_shape_bytes(shape, "float16"),
        bits_per_weight=8 * linear_bytes / weights,
        bits_per_weight_whole=8 * layout.nbytes / (weights + table_weights),
        dense=0,
    )


def _part_bytes(part: "MatrixPart") -> int:
    return part.end - part.codes


def _hash(config: Path, synthetic: SyntheticConfig) -> str:
    # how many of them share a place in host memory changes no weight
    facts = {**asdict(synthetic), "host_images": None}
    return hashlib.sha256(config.read_bytes() + json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
