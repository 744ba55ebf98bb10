"""`harness trace`: look at traces, check them, make them, and import public ones."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from harness.errors import UsageError
from workloads.arrivals import parse_arrivals
from workloads.generate import MIXED_TASKS, MixConfig, generate_mixed
from workloads.importers import IMPORTERS, CompositionConfig, compose, get_importer
from workloads.popularity import parse_popularity
from workloads.profile import Spread, TraceProfile, profile_trace
from workloads.trace import Slo, Trace, TraceHeader
from workloads.trace_io import find_trace, read_trace, write_trace

__all__ = ["trace_app"]

trace_app = typer.Typer(no_args_is_help=True, help="Look at traces, check them, make them, import public ones.")

TraceName = Annotated[str, typer.Argument(metavar="TRACE", help="A trace file, or the bare name of a bundled one.")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Where to write it; if absent, NAME.jsonl here.")]
Force = Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")]
Seed = Annotated[int, typer.Option(help="Of everything drawn; 0 is a seed.")]
SwitchProbability = Annotated[
    float, typer.Option(min=0, max=1, help="Of redrawing the expert before each request; 1 is independent draws.")
]


@trace_app.command()
def info(
    trace: TraceName,
    window_s: Annotated[float, typer.Option("--window", help="Seconds of a window.")] = 10.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print what a trace asks of a system: rate, burstiness, experts, locality, lengths."""
    path = find_trace(trace)
    content = read_trace(path)
    with _usage_errors():
        profile = profile_trace(content, window_s=window_s)
    if as_json:
        about = {"path": str(path), "sha256": content.sha256, "header": dataclasses.asdict(content.header)}
        typer.echo(json.dumps({**about, "profile": dataclasses.asdict(profile)}, indent=2, ensure_ascii=False))
    else:
        Console().print(_info_table(path, content, profile))


@trace_app.command()
def validate(trace: TraceName) -> None:
    """Check a trace against its schema; the first fault is named by file, line and field."""
    path = find_trace(trace)
    content = read_trace(path)
    checkable = sum(request.verifier is not None for request in content.requests)
    typer.echo(
        f"{path}: valid, {len(content.requests)} requests, {len(content.experts)} experts, "
        f"{checkable} answers that can be checked, sha256 {content.sha256}"
    )


@trace_app.command()
def generate(
    name: Annotated[str, typer.Argument(help="Name of the trace, as its header and its reports say it.")] = "mixed",
    out: Out = None,
    tasks: Annotated[str, typer.Option(help="Tasks, and so experts, the most popular first.")] = ",".join(MIXED_TASKS),
    requests: Annotated[int, typer.Option(help="How many.")] = 300,
    arrivals: Annotated[str, typer.Option(help="constant, poisson or gamma:CV.")] = "poisson",
    rate: Annotated[float, typer.Option(help="Requests a second.")] = 4.5,
    popularity: Annotated[str, typer.Option(help="uniform, zipf:S, distinct or identical.")] = "zipf:0.8",
    switch_probability: SwitchProbability = 0.7,
    output_length: Annotated[int, typer.Option(help="The most tokens of an answer.")] = 64,
    ttft_ms: Annotated[float, typer.Option(help="SLO: time to first token; 0 is no bound.")] = 1000.0,
    tpot_ms: Annotated[float, typer.Option(help="SLO: time per output token after it; 0 is no bound.")] = 100.0,
    seed: Seed = 0,
    force: Force = False,
) -> None:
    """Make a trace of tasks with exact answers."""
    with _usage_errors():
        config = MixConfig(
            name=name,
            tasks=_names(tasks),
            requests=requests,
            arrivals=parse_arrivals(arrivals, rate),
            popularity=parse_popularity(popularity),
            switch_probability=switch_probability,
            output_length=output_length,
            slo=Slo(ttft_ms=ttft_ms or None, tpot_ms=tpot_ms or None),
            seed=seed,
        )
    path = _target(out, name, force=force)
    header, made = generate_mixed(config)
    write_trace(path, header, made)
    typer.echo(f"{path}: {len(made)} requests, sha256 {_sha256(path)}")


@trace_app.command(name="import")
def import_(
    source: Annotated[Path, typer.Argument(help="The public trace's file, as published.")],
    source_format: Annotated[str, typer.Option("--format", help=f"One of {', '.join(IMPORTERS)}.")],
    out: Out = None,
    assign_experts: Annotated[
        str | None, typer.Option(help="uniform, zipf:S, distinct or identical; the header says it was composed.")
    ] = None,
    experts: Annotated[str, typer.Option(help="Names to assign, the most popular first.")] = ",".join(MIXED_TASKS),
    switch_probability: SwitchProbability = 1.0,
    arrivals: Annotated[
        str | None, typer.Option(help="Replace the times: constant, poisson or gamma:CV; with --rate.")
    ] = None,
    rate: Annotated[float | None, typer.Option(help="Requests a second, with --arrivals.")] = None,
    spread_ms: Annotated[
        float, typer.Option("--spread-within-bin", help="Spread times over so many ms, for a coarse clock.")
    ] = 0.0,
    limit: Annotated[int | None, typer.Option(help="Keep the first so many requests.")] = None,
    licence: Annotated[str | None, typer.Option(help="Of the source, for the header.")] = None,
    seed: Seed = 0,
    force: Force = False,
) -> None:
    """Import a public trace; requests carry lengths instead of prompts."""
    read = get_importer(source_format)
    if source_format == "sharegpt" and arrivals is None:
        raise UsageError("ShareGPT has no times: give --arrivals and --rate")
    if (arrivals is None) != (rate is None):
        raise UsageError("--arrivals and --rate go together: give both or none")
    with _usage_errors():
        config = CompositionConfig(
            experts=_names(experts) if assign_experts else (),
            popularity=parse_popularity(assign_experts) if assign_experts else None,
            switch_probability=switch_probability,
            arrivals=parse_arrivals(arrivals, rate) if arrivals and rate is not None else None,
            spread_ms=spread_ms,
            limit=limit,
            seed=seed,
        )
    path = _target(out, source.stem, force=force)
    made = compose(read(source), config)
    header = TraceHeader(
        name=path.stem,
        source=f"{source_format}: {source.name}",
        licence=licence,
        sha256_of_source=_sha256(source),
        block_size=512 if source_format == "mooncake" else None,
        seed=seed,
        assignment=config.declaration,
    )
    write_trace(path, header, made)
    typer.echo(f"{path}: {len(made)} requests; {config.declaration}; sha256 {_sha256(path)}")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _target(out: Path | None, name: str, *, force: bool) -> Path:
    path = out or Path(f"{name}.jsonl")
    if path.exists() and not force:
        raise UsageError(f"{path} exists; give --force to replace it, or --out to write elsewhere")
    return path


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@contextmanager
def _usage_errors() -> Iterator[None]:
    """Turn the refusal of a value that the user typed into an error of usage."""
    try:
        yield
    except ValueError as error:
        raise UsageError(str(error)) from None


def _info_table(path: Path, trace: Trace, profile: TraceProfile) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False, title=str(path), title_justify="left")
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in _info_rows(trace, profile):
        table.add_row(label, value)
    return table


def _info_rows(trace: Trace, profile: TraceProfile) -> Iterator[tuple[str, str]]:
    header, window = trace.header, f"{profile.window_s:g} s"
    yield "name", header.name
    yield "source", header.source or "not stated"
    yield "licence", header.licence or "not stated"
    if header.assignment:
        yield "composed", header.assignment
    yield "requests", f"{profile.requests} in {profile.duration_s:.1f} s"
    yield "rate", _number(profile.rate_per_s, " requests/s")
    yield "gap CV", _number(profile.gap_cv)
    yield f"dispersion, {window}", _number(profile.dispersion)
    yield "switch rate", _number(profile.switch_rate)
    yield "experts", ", ".join(f"{name} {count}" for name, count in profile.experts.items()) or "none named"
    yield f"working set, {window}", _spread(profile.working_set, " experts")
    yield "reuse distance", _spread(profile.reuse_distance, " other experts")
    yield "input", _spread(profile.input_tokens, " tokens")
    yield "prompt", _spread(profile.prompt_chars, " characters")
    yield "output, at most", _spread(profile.output_tokens, " tokens")
    if profile.prefix_share is not None:
        yield "prefix share", f"{profile.prefix_share:.1%} of blocks"
    yield "sha256", trace.sha256


def _number(value: float | None, unit: str = "") -> str:
    return "undefined" if value is None else f"{value:.3g}{unit}"


def _spread(spread: Spread | None, unit: str) -> str:
    if spread is None:
        return "not stated"
    return f"mean {spread.mean:.4g}, p50 {spread.p50:g}, p90 {spread.p90:g}, max {spread.max:g}{unit}"
