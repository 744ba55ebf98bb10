"""One expert into a delta directory: streamed, one parameter of base and expert at a time."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from math import prod
from pathlib import Path

import torch
from blake3 import blake3

from meswitch.ahead import torch_threads, work_ahead
from meswitch.allocation.expert import allocate_expert, check_allocation
from meswitch.architecture import ParameterKind
from meswitch.calibration_file import read_texts
from meswitch.calibration_stream import CalibrationStream, InputStatistics, compress_delta
from meswitch.checkpoint import CONFIG_FILE
from meswitch.codecs import Codec, format_spec, parse_codec, takes_second_moment
from meswitch.compress_config import CompressConfig, torch_device
from meswitch.description import describe_expert
from meswitch.errors import CheckpointError, ExpertNameError
from meswitch.expert_source import ExpertSource
from meswitch.format.manifest import MANIFEST_FILE, AllocationRecord, Manifest
from meswitch.format.staging import recover, remove_directory, staged, storage_errors
from meswitch.format.writer import TOKENIZER_DIR, DeltaWriter
from meswitch.names import check_name
from meswitch.pair import Pair, open_pair
from meswitch.parentage import check_parent, delta_and_norms, sample_norms
from meswitch.phases import Phases
from meswitch.plan import EXACT_LOCAL, ROWS_LOCAL, PlannedParameter, tensor_name

__all__ = ["CompressConfig", "CompressProgress", "compress_expert"]


@dataclass(frozen=True, slots=True)
class CompressProgress:
    """How far it is: `stage` is a few words for a person; `done` of `total` of what the stage counts."""

    stage: str
    done: int
    total: int


Report = Callable[[CompressProgress], None]
Tensors = dict[str, torch.Tensor]


def compress_expert(
    config: CompressConfig, *, progress: Report | None = None, phases: Phases | None = None
) -> Manifest:
    """The manifest of the delta directory that was made at `config.output`.

    Interrupted and called again with the same config, it goes on where it stopped.

    Args:
        phases: where seconds are counted. `identify`, `check`, `allocate`, `calibrate`, `write` and `finish` follow one
            another; `workers_read` and `workers_compress` are sums over threads that work meanwhile.

    Raises:
        CheckpointError: base, expert or texts cannot be used, or the expert does not descend from the base or is it.
        DeltaError: a codec spec or a budget is wrong.
        CapacityError: nothing fits the budget.
        ExpertNameError: the name is not allowed, or the output exists.
        StorageError: the disk refuses; nothing is left behind then.
    """
    report, phases = progress or (lambda _: None), phases or Phases()
    check_name(config.name)
    codecs = _parse_codecs(config)
    # before gigabytes are read and hashed
    check_allocation(config)
    device = torch_device(config.device)
    _check_output(config)
    _check_inputs(config)
    with phases.of("identify"):
        pair = _open_and_identify(config, report)
    plan = pair.plan(codecs)
    with phases.of("check"):
        if not config.force:
            check_parent(pair, sample_norms(pair, plan))
    with phases.of("allocate"):
        allocated = allocate_expert(config, pair, plan, device, lambda *done: report(CompressProgress(*done)))
    if allocated is not None:
        plan = pair.plan(codecs, allocated[0].codecs)
    record = None if allocated is None else allocated[1]
    calibration = _open_calibration(config, pair, plan, device)
    with staged(config.output, resumable=True) as root:
        # another process may have made one there since
        _check_output(config)
        return _write(config, pair, plan, codecs, record, calibration, root, report, phases)


def _open_and_identify(config: CompressConfig, report: Report) -> Pair:
    done = total = 0

    def count(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        report(CompressProgress("identifying base and expert, bytes", done, total))

    pair = open_pair(config.base, config.expert, on_bytes=count)
    total = pair.base.nbytes + pair.expert.nbytes
    base, expert = pair.identities()
    if base == expert:
        raise CheckpointError(
            f"the expert holds the same weights as the base: give the fine-tune's directory, got {config.expert}"
        )
    return pair


def _write(
    config: CompressConfig,
    pair: Pair,
    plan: tuple[PlannedParameter, ...],
    codecs: Mapping[ParameterKind, Codec],
    allocation: AllocationRecord | None,
    calibration: CalibrationStream | None,
    root: Path,
    report: Report,
    phases: Phases,
) -> Manifest:
    record = None if calibration is None else calibration.record
    key = _resume_key(pair, plan, calibration, config.device)
    writer = DeltaWriter(root, key, {p.name: p.tensors for p in plan})
    device = torch.device(config.device)
    try:
        norms = writer.start()
        missing = [parameter for parameter in plan if parameter.name not in norms]
        for number, (parameter, tensors, facts) in enumerate(_compressed(pair, missing, calibration, device, phases)):
            report(CompressProgress(parameter.name, len(plan) - len(missing) + number, len(plan)))
            norms[parameter.name] = facts
            with phases.of("write"):
                writer.write(parameter.name, tensors, facts)
        if not config.force:
            check_parent(pair, (norms[p.name] for p in plan if p.kind is ParameterKind.LINEAR))
        tokenizer = _copy_companions(pair.expert, root / TOKENIZER_DIR)
        report(CompressProgress("checksums", len(plan), len(plan)))
        manifest = describe_expert(
            config.name,
            pair,
            plan,
            codecs,
            norms=norms,
            calibration=record,
            tokenizer_files=tokenizer,
            allocation=allocation,
        )
        with phases.of("finish"):
            return writer.finish(manifest)
    finally:
        writer.close()


def _parse_codecs(config: CompressConfig) -> dict[ParameterKind, Codec]:
    return {
        ParameterKind.LINEAR: parse_codec(config.linear),
        ParameterKind.EMBEDDING: parse_codec(config.embedding),
        ParameterKind.HEAD: parse_codec(config.head),
    }


def _check_output(config: CompressConfig) -> None:
    output = config.output
    with storage_errors(output):
        recover(output)
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not (output / MANIFEST_FILE).is_file():
        raise ExpertNameError(f"the output must be a new directory or a delta, got {output}, which is neither")
    if not config.replace:
        raise ExpertNameError(f"expert {output.name} exists at {output}; remove it, replace it or choose another name")


def _check_inputs(config: CompressConfig) -> None:
    """Refuse what is not there before the minutes that reading all weights takes."""
    for option, root in (("--base", config.base), ("--expert", config.expert)):
        if not root.is_dir():
            raise CheckpointError(f"{option} must be a directory on this machine, got {root}")
    if config.calibration is not None:
        read_texts(config.calibration)


def _open_calibration(
    config: CompressConfig, pair: Pair, plan: tuple[PlannedParameter, ...], device: torch.device
) -> CalibrationStream | None:
    if config.calibration is None:
        return None
    moments = [p.name for p in plan if p.codec is not None and takes_second_moment(p.codec)]
    return CalibrationStream(pair, config.calibration, second_moments=moments, device=device)


def _resume_key(
    pair: Pair, plan: Sequence[PlannedParameter], calibration: CalibrationStream | None, device: str
) -> str:
    """A hash of all that decides the tensors: an unfinished delta of anything else is not continued."""
    specs = {p.name: None if p.codec is None else format_spec(p.codec.name, p.codec.options) for p in plan}
    texts = None if calibration is None else calibration.record.blake3
    parts = [pair.identities(), specs, version("meswitch"), texts, device]
    return str(blake3(json.dumps(parts).encode()).hexdigest())


def _compressed(
    pair: Pair,
    parameters: Sequence[PlannedParameter],
    calibration: CalibrationStream | None,
    device: torch.device,
    phases: Phases,
) -> Iterator[tuple[PlannedParameter, Tensors, dict[str, float]]]:
    """Each parameter with what `_compress_parameter` makes of it, in order, several at a time.

    Those on their way are never more than the largest of them.
    """
    largest = max((prod(p.spec.shape) for p in parameters), default=0)
    if device.type == "cuda":
        # PyTorch loads its factorizations at the first call, and fails if two threads make that call together
        torch.linalg.cholesky(torch.eye(2, dtype=torch.float64, device=device))
    with torch_threads(1) as threads:

        def known() -> Iterator[tuple[tuple[PlannedParameter, InputStatistics | None], int]]:
            for parameter in parameters:
                # layers are read by all threads: their products are large
                with torch_threads(threads), phases.of("calibrate"):
                    statistics = None if calibration is None else calibration.of(parameter.name)
                yield (parameter, statistics), prod(parameter.spec.shape)

        # beside a GPU the second worker reads while the first one waits
        workers = threads if device.type == "cpu" else 2
        work = partial(_compress_parameter, pair, device, phases)
        for (parameter, _), (tensors, norms) in work_ahead(known(), work, limit=largest, workers=workers):
            yield parameter, tensors, norms


def _compress_parameter(
    pair: Pair, device: torch.device, phases: Phases, item: tuple[PlannedParameter, InputStatistics | None]
) -> tuple[Tensors, dict[str, float]]:
    """The tensors to store, and the squared norms of delta and base where there is a delta."""
    parameter, statistics = item
    name, codec = parameter.name, parameter.codec
    if codec is None or parameter.base_name is None:
        with phases.of("workers_read"):
            return {tensor_name(name, EXACT_LOCAL): pair.expert.values(name)}, {}
    with phases.of("workers_read"):
        delta, norms = delta_and_norms(pair, parameter, device=device)
    with phases.of("workers_compress"):
        compressed = compress_delta(codec, delta, statistics)
    del delta
    tensors = {tensor_name(name, local): tensor for local, tensor in compressed.tensors.items()}
    if parameter.added_rows:
        tensors[tensor_name(name, ROWS_LOCAL)] = pair.expert.values(name)[parameter.base_rows :].clone()
    return tensors, norms


def _copy_companions(expert: ExpertSource, target: Path) -> tuple[str, ...]:
    """Copy config, tokenizer, template and generation config; their names."""
    remove_directory(target)
    target.mkdir()
    names = []
    for path in expert.companions():
        if path.name != CONFIG_FILE:
            shutil.copyfile(path, target / path.name)
            names.append(path.name)
    (target / CONFIG_FILE).write_text(json.dumps(expert.config_json(), indent=2) + "\n")
    return (CONFIG_FILE, *names)
