"""Evaluates a family under several codecs, unit by unit, and goes on where it stopped."""

import hashlib
import json
import multiprocessing
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from harness.answers import UnitJob, answer_unit
from harness.errors import UsageError
from harness.evaluation_log import Evaluation, add_evaluation, evaluations_of, refuse_other
from harness.prepare import prepare
from harness.prepared import Prepared, PrepareRequest
from harness.provenance import collect_provenance, python_command
from harness.quality import (
    UNIT_SUFFIX,
    Model,
    QualityReport,
    UnitHeader,
    dump_quality,
    quality_report,
    read_header,
    read_units,
)
from harness.results import to_json_object, write_atomic
from harness.telemetry import NullGpu
from meswitch.home import home_dir
from meswitch.termination import stay_with_parent

__all__ = ["DEFAULT_CODECS", "QualityOptions", "evaluate", "rebuild_quality"]

DEFAULT_CODECS = (
    "salient:bits=2,channels=8,step=unbiased",
    "salient:bits=2,channels=8,step=mse",
    "rtn:bits=2,step=mse",
    "bitdelta",
)

ANSWERS = "answers"
MAX_TOKENS = 64
# part of every key: raised when the same models would give other answers
VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityOptions:
    """What to evaluate.

    Attributes:
        n: test problems for each task, at most.
        output: the folder of `quality.json` and of the answers, under `answers/`.
        jobs: processes, each with one thread.
        commit: of the code, as a user says it where it is not a git checkout.
    """

    family: str
    output: Path
    codecs: tuple[str, ...] = DEFAULT_CODECS
    n: int = 500
    seed: int = 0
    jobs: int = 2
    commit: str | None = None

    def __post_init__(self) -> None:
        if self.n < 10 or self.jobs < 1:
            raise UsageError(f"--n must be at least 10 and --jobs at least 1, got {self.n} and {self.jobs}")
        if not self.codecs:
            raise UsageError("at least one codec must be given")


def evaluate(
    options: QualityOptions,
    *,
    report: Callable[[str], None] = lambda _: None,
    progress: Callable[[int, int, str], None] = lambda done, total, name: None,
) -> QualityReport:
    """The report, after answering whatever has no valid answers yet.

    Args:
        progress: called with units done, units in all, and the unit that was done last.

    Raises:
        MeswitchError, WorkloadError, HarnessError: family, codec or task is unknown or damaged.
        UsageError: the output holds answers to other problems, of another family, or under codecs that are left out.
    """
    kept = [header for path in (options.output / ANSWERS).rglob(f"*{UNIT_SUFFIX}") if (header := read_header(path))]
    # before any work
    _check_kept(kept, options)
    with TemporaryDirectory(prefix="harness-quality-") as scratch:
        jobs = list(_jobs(options, Path(scratch), report))
        refuse_other(options.output / ANSWERS, {h.family for h in kept}, jobs[0].header.family, "of family {}")
        missing = [job for job in jobs if read_header(job.output) != job.header]
        if missing:
            add_evaluation(options.output / ANSWERS, _evaluation(options, missing))
        _answer(missing, len(jobs), options.jobs, progress)
    return rebuild_quality(options.output, keys={job.header.key for job in jobs})


def _check_kept(kept: Sequence[UnitHeader], options: QualityOptions) -> None:
    """Refuse options under which kept answers would be replaced, or would no longer be in the table."""
    if not kept:
        return
    # imports torch, which takes a second
    from meswitch.codecs import parse_codec

    answers = options.output / ANSWERS
    refuse_other(answers, {header.n for header in kept}, options.n, "of {} problems a task")
    refuse_other(answers, {header.seed for header in kept}, options.seed, "of seed {}")
    asked = {parse_codec(codec) for codec in options.codecs}
    for spec in sorted({header.codec for header in kept if header.codec}):
        if parse_codec(spec) not in asked:
            raise UsageError(f"{answers} holds records of {spec}, which this call leaves out; give --output")


def _evaluation(options: QualityOptions, missing: list[UnitJob]) -> Evaluation:
    gpu = NullGpu("no GPU is used: answers are given on the CPU")
    return Evaluation(
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        command=tuple(python_command()),
        config=to_json_object({**asdict(options), "max_tokens": MAX_TOKENS}),
        provenance=to_json_object(collect_provenance(gpu, commit=options.commit)),
        keys=tuple(job.header.key for job in missing),
    )


def _answer(missing: list[UnitJob], total: int, processes: int, progress: Callable[[int, int, str], None]) -> None:
    """Answer the jobs that have no answers yet; `total` counts the others too."""
    done = total - len(missing)
    progress(done, total, "")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, initializer=stay_with_parent) as pool:
        futures: dict[Future[Path], UnitJob] = {}
        try:
            futures.update((pool.submit(answer_unit, job), job) for job in missing)
            for future in as_completed(futures):
                future.result()
                done += 1
                header = futures[future].header
                progress(done, total, f"{header.expert} {header.codec or header.model}")
        except KeyboardInterrupt:
            # at once: a unit is written whole or not at all. A pool that breaks cannot bear cancelled futures
            for worker in multiprocessing.active_children():
                worker.terminate()
            raise
        except BaseException:
            # what has not begun never will; leaving the block waits for the rest
            for future in futures:
                future.cancel()
            raise


def rebuild_quality(output: Path, *, keys: set[str] | None = None) -> QualityReport:
    """The report from the kept answers alone; writes `quality.json`. The same answers give the same bytes.

    Args:
        keys: of the units to count; `None` counts all.
    """
    answers = output / ANSWERS
    units = [unit for unit in read_units(answers) if keys is None or unit.header.key in keys]
    report = quality_report(units, evaluations_of(answers, {unit.header.key for unit in units}))
    write_atomic(output / "quality.json", dump_quality(report))
    return report


def _jobs(options: QualityOptions, scratch: Path, report: Callable[[str], None]) -> Iterator[UnitJob]:
    for number, codec in enumerate(options.codecs):
        request = PrepareRequest(family=options.family, codec=codec, home=home_dir())
        report(f"preparing {codec}")
        prepared = prepare(request)
        for expert in prepared.deltas:
            if number == 0:
                yield _job(options, prepared, scratch, expert, "base")
                yield _job(options, prepared, scratch, expert, "expert")
            yield _job(options, prepared, scratch, expert, "codec")


def _job(options: QualityOptions, prepared: Prepared, scratch: Path, expert: str, model: Model) -> UnitJob:
    size = prepared.sizes[expert]
    header = UnitHeader(
        key="",
        family=prepared.family,
        expert=expert,
        task=prepared.tasks[expert],
        seed=options.seed,
        n=options.n,
        model=model,
        weights_hash=prepared.weights_hash,
        model_bytes=size.full_model,
    )
    if model == "codec":
        header = replace(
            header,
            codec=prepared.codec,
            codec_name=prepared.codec_name,
            options=prepared.codec_options,
            bits_per_weight=size.bits_per_weight,
            bits_per_weight_whole=size.bits_per_weight_whole,
            expert_bytes=size.whole,
            expert_bytes_linears=size.linears,
        )
    parts = [VERSION, MAX_TOKENS, asdict(header)]
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
    places = {"base": prepared.base, "expert": prepared.checkpoints[expert], "codec": prepared.deltas[expert]}
    folder = re.sub(r"[^a-z0-9.]+", "-", header.codec or model)
    return UnitJob(
        header=replace(header, key=key),
        base=prepared.base,
        model=places[model],
        is_delta=model == "codec",
        output=options.output / ANSWERS / folder / f"{expert}{UNIT_SUFFIX}",
        scratch=scratch,
        max_tokens=MAX_TOKENS,
    )
