"""The manifest of an expert that has been compressed: names, byte counts and norms by group."""

from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from math import prod

from meswitch.architecture import ParameterKind
from meswitch.codecs import Codec, format_spec, takes_second_moment
from meswitch.format.manifest import (
    AllocationRecord,
    BaseRecord,
    ByteCounts,
    CalibrationRecord,
    CodecRecord,
    ExpertRecord,
    Manifest,
    ParameterRecord,
)
from meswitch.pair import Pair
from meswitch.parentage import relative_norm
from meswitch.plan import ROWS_LOCAL, PlannedParameter, tensor_name
from meswitch.provenance import licence_of, name_and_revision
from meswitch.tensor_file import dtype_name
from meswitch_kernels.packing import LAYOUT

__all__ = ["describe_expert"]

Norms = Mapping[str, Mapping[str, float]]

MIXED = "mixed"
"""In place of a codec's name, where linears have several."""


def describe_expert(
    name: str,
    pair: Pair,
    plan: tuple[PlannedParameter, ...],
    codecs: Mapping[ParameterKind, Codec],
    *,
    norms: Norms,
    calibration: CalibrationRecord | None,
    tokenizer_files: tuple[str, ...],
    allocation: AllocationRecord | None = None,
) -> Manifest:
    """The manifest, complete but for the files' checksums.

    Args:
        name: the expert's.
        pair: base and expert.
        plan: the parameters as they are stored.
        codecs: by group.
        norms: by parameter, the squared norms of `delta` and `base`.
        calibration: the texts that statistics came from.
        tokenizer_files: names of the files beside the weights.
        allocation: how the codecs of single linears were chosen.
    """
    counts = _byte_counts(plan)
    return Manifest(
        name=name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        meswitch_version=version("meswitch"),
        # a codec that packs codes in another way names it
        layout=", ".join(sorted({getattr(p.codec, "packing", LAYOUT) for p in plan if p.codec is not None})),
        base=_base_record(pair),
        expert=_expert_record(pair, plan),
        codecs=_codec_records(plan, codecs),
        allocation=allocation,
        calibration=calibration,
        selection=_selection_notes(plan, calibration),
        parameters=tuple(_parameter_record(p) for p in plan),
        nbytes=counts,
        bits_per_weight=_bits_per_weight(plan, counts),
        relative_delta_norm=_relative_norms(plan, norms),
        tokenizer_files=tokenizer_files,
    )


def _base_record(pair: Pair) -> BaseRecord:
    name, revision = name_and_revision(pair.base.root)
    return BaseRecord(
        identity=pair.base_identity,
        name=name,
        revision=revision,
        model_type=pair.config.model_type,
        tied_head=pair.tied,
        licence=licence_of(pair.base.root),
    )


def _expert_record(pair: Pair, plan: tuple[PlannedParameter, ...]) -> ExpertRecord:
    name, revision = name_and_revision(pair.expert.root)
    return ExpertRecord(
        kind=pair.expert.kind,
        identity=pair.expert_identity,
        name=name,
        revision=revision,
        tied_head=pair.expert.tied,
        vocabulary_rows=next(p.spec.shape[0] for p in plan if p.kind is ParameterKind.EMBEDDING),
        licence=licence_of(pair.expert.root),
    )


def _codec_records(plan: tuple[PlannedParameter, ...], codecs: Mapping[ParameterKind, Codec]) -> dict[str, CodecRecord]:
    used = {p.kind for p in plan}
    records = {
        kind.value: CodecRecord(
            name=codec.name, options=dict(codec.options), spec=format_spec(codec.name, codec.options)
        )
        for kind, codec in codecs.items()
        if kind in used
    }
    if len(linears := _linear_codecs(plan)) > 1:
        records[ParameterKind.LINEAR.value] = CodecRecord(name=MIXED, options={}, spec=MIXED)
    elif linears:
        (spec, codec), *_ = linears.items()
        records[ParameterKind.LINEAR.value] = CodecRecord(name=codec.name, options=dict(codec.options), spec=spec)
    return records


def _linear_codecs(plan: tuple[PlannedParameter, ...]) -> dict[str, Codec]:
    """The codecs of the linears by their specs, in order of the plan."""
    codecs = (p.codec for p in plan if p.kind is ParameterKind.LINEAR and p.codec is not None)
    return {format_spec(codec.name, codec.options): codec for codec in codecs}


def _selection_notes(plan: tuple[PlannedParameter, ...], calibration: CalibrationRecord | None) -> str:
    """How the codecs of the linears used calibration texts."""
    return "; ".join(dict.fromkeys(_selection_note(codec, calibration) for codec in _linear_codecs(plan).values()))


def _selection_note(codec: Codec, calibration: CalibrationRecord | None) -> str:
    """How the codec of the linears used calibration texts, in a sentence."""
    notes = [_channels_note(codec, calibration)]
    if codec.options.get("pick") == "wanda" and calibration is not None:
        notes.append(f"elements picked by the inputs of {calibration.texts} calibration texts")
    if takes_second_moment(codec):
        notes.append(
            "inputs taken as independent and equal: no calibration texts were given"
            if calibration is None
            else f"second moments of the inputs of {calibration.texts} calibration texts"
        )
    return "; ".join(notes)


def _channels_note(codec: Codec, calibration: CalibrationRecord | None) -> str:
    rule = codec.options.get("select")
    if not codec.options.get("channels"):
        return "the codec of the linears keeps no salient channels"
    if calibration is None:
        return f"salient channels by {rule} from the weights alone: no calibration texts were given"
    return f"salient channels by {rule}, weighted with the inputs of {calibration.texts} calibration texts"


def _parameter_record(parameter: PlannedParameter) -> ParameterRecord:
    codec = parameter.codec
    return ParameterRecord(
        name=parameter.name,
        kind=parameter.kind.value,
        shape=parameter.spec.shape,
        dtype=dtype_name(parameter.spec.dtype),
        codec=None if codec is None else codec.name,
        options={} if codec is None else dict(codec.options),
        base_parameter=parameter.base_name,
        added_rows=parameter.added_rows,
        nbytes=parameter.nbytes,
    )


def _byte_counts(plan: tuple[PlannedParameter, ...]) -> ByteCounts:
    by_kind = dict.fromkeys(ParameterKind, 0)
    added = 0
    for parameter in plan:
        rows = parameter.tensors.get(tensor_name(parameter.name, ROWS_LOCAL))
        own = 0 if rows is None else rows.nbytes
        added += own
        by_kind[parameter.kind] += parameter.nbytes - own
    return ByteCounts(
        linears=by_kind[ParameterKind.LINEAR],
        embedding=by_kind[ParameterKind.EMBEDDING],
        head=by_kind[ParameterKind.HEAD],
        exact=by_kind[ParameterKind.EXACT],
        added_rows=added,
        whole=sum(by_kind.values()) + added,
        full_model=sum(p.spec.nbytes for p in plan),
    )


def _bits_per_weight(plan: tuple[PlannedParameter, ...], counts: ByteCounts) -> dict[str, float]:
    linear_weights = sum(prod(p.spec.shape) for p in plan if p.kind is ParameterKind.LINEAR)
    weights = sum(prod(p.spec.shape) for p in plan)
    return {"linears": 8 * counts.linears / linear_weights, "whole": 8 * counts.whole / weights}


def _relative_norms(plan: tuple[PlannedParameter, ...], norms: Norms) -> dict[str, float]:
    groups = {kind: [norms[p.name] for p in plan if p.kind is kind and p.codec is not None] for kind in ParameterKind}
    found = {kind.value: relative_norm(group) for kind, group in groups.items()}
    return {kind: value for kind, value in found.items() if value is not None}
