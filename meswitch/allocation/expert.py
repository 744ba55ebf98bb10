"""The codecs of one expert's linears within its budget, and the record of how they were chosen."""

from collections.abc import Callable, Mapping, Sequence
from math import prod

import torch

from meswitch.allocation.budget import parse_budget
from meswitch.allocation.evolution import EvolutionConfig
from meswitch.allocation.search import Searched, measure_linears, search_linears
from meswitch.allocation.sensitivity import Allocation, Choice, allocate_linears, choices_of, codec_bytes
from meswitch.architecture import ParameterKind
from meswitch.calibration_stream import CalibrationStream
from meswitch.codecs import Codec, format_spec, parse_codec, takes_second_moment
from meswitch.compress_config import CompressConfig
from meswitch.errors import CodecOptionError
from meswitch.format.manifest import AllocationRecord, SearchRecord
from meswitch.pair import Pair
from meswitch.plan import PlannedParameter

__all__ = ["allocate_expert", "check_allocation"]

Report = Callable[[str, int, int], None]


def check_allocation(config: CompressConfig) -> None:
    """Nothing, if what is chosen by KL has its budget and its texts, and all candidates are codecs.

    Raises:
        CodecOptionError, UnknownCodecError: with what is wrong or missing.
    """
    given = {"--allocate": config.allocate, "--calibration": config.calibration}
    missing = [option for option, value in given.items() if value is None]
    if config.search < 0 or (config.search and missing):
        raise CodecOptionError(
            f"a search needs generations, a budget and calibration texts, got --search {config.search}; "
            "give --allocate and --calibration too"
        )
    if config.measure and missing:
        raise CodecOptionError(
            f"measuring needs a budget and calibration texts, got --measure without {' and '.join(missing)}; "
            "give --allocate and --calibration too"
        )
    if config.allocate is None:
        return
    if not config.candidates:
        raise CodecOptionError("an allocation needs at least one candidate")
    for spec in config.candidates:
        parse_codec(spec)


def allocate_expert(
    config: CompressConfig, pair: Pair, plan: Sequence[PlannedParameter], device: torch.device, report: Report
) -> tuple[Allocation, AllocationRecord] | None:
    """The codecs of the linears within the budget, and the manifest's word on them; `None` if there is no budget.

    Args:
        config: checked (`check_allocation`).
        report: called with a stage, how much of it is done, and of how much.

    Raises:
        CodecOptionError: the budget is wrong.
        CapacityError: nothing fits the budget.
        CheckpointError: base, expert or texts cannot be read.
    """
    if config.allocate is None:
        return None
    candidates = [parse_codec(spec) for spec in config.candidates]
    linears = [p for p in plan if p.kind is ParameterKind.LINEAR]
    budget = parse_budget(
        config.allocate,
        linear_weights=sum(prod(p.spec.shape) for p in linears),
        other_bytes=sum(p.nbytes for p in plan if p.kind is not ParameterKind.LINEAR),
        least_bytes=sum(min(codec_bytes(codec, p.spec.shape) for codec in candidates) for p in linears),
    )
    calibration = None
    if config.calibration is not None:
        moments = [p.name for p in linears] if any(takes_second_moment(codec) for codec in candidates) else []
        calibration = CalibrationStream(pair, config.calibration, second_moments=moments, device=device)
    by_kl = config.measure or config.search > 0
    choices = choices_of(
        pair,
        plan,
        candidates,
        calibration=calibration,
        device=device,
        keep=by_kl,
        progress=lambda name, *done: report(f"weighing {name}", *done),
    )
    if not by_kl:
        allocation = allocate_linears(choices, budget)
        return allocation, _record(config, candidates, allocation, None)
    assert calibration is not None
    found = _by_kl(config, pair, plan, choices, calibration, budget, device, report)
    return found.allocation, _record(config, candidates, found.allocation, found)


def _by_kl(
    config: CompressConfig,
    pair: Pair,
    plan: Sequence[PlannedParameter],
    choices: Mapping[str, Sequence[Choice]],
    calibration: CalibrationStream,
    budget: int,
    device: torch.device,
    report: Report,
) -> Searched:
    def measuring(done: int, scorings: int) -> None:
        report("measuring KL", done, scorings)

    def progress(generation: int, least: float) -> None:
        report(f"searching, KL {least:.3g}", generation + 1, config.search)

    evolution = EvolutionConfig(generations=config.search)
    texts = calibration.texts
    if not config.search:
        return measure_linears(pair, plan, choices, texts, budget, evolution, device=device, measuring=measuring)
    return search_linears(
        pair, plan, choices, texts, budget, evolution, device=device, measuring=measuring, progress=progress
    )


def _record(
    config: CompressConfig, candidates: Sequence[Codec], allocation: Allocation, found: Searched | None
) -> AllocationRecord:
    search = None
    if found is not None:
        search = SearchRecord(generations=config.search, texts=found.texts, start=found.start, found=found.found)
    return AllocationRecord(
        budget_bytes=allocation.budget_bytes,
        candidates=tuple(format_spec(codec.name, codec.options) for codec in candidates),
        linears=dict(allocation.counts),
        error=allocation.error,
        least_error=allocation.least_error,
        search=search,
    )
