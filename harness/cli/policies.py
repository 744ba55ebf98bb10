"""`harness policies`: what eviction policies would have done with a trace, without engine or GPU."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from harness.errors import UsageError
from harness.policies import REPLAYED
from harness.policies_report import ComparisonConfig, PolicyComparison, PolicyRow, compare_policies, write_comparison
from harness.policies_sequence import ExpertSequence, parse_synthetic, synthetic_sequence, trace_sequence
from harness.results import check_file
from workloads.trace_io import find_trace

__all__ = ["policies"]

POLICY_COLUMNS = ("slots", "policy", "options", "hits", "of Belady", "loads", "late", "delay p99, max")
LOCALITY_COLUMNS = ("window", "working set", "SRP")


def policies(
    slots: Annotated[list[int], typer.Option(help="Experts that fit into memory. Repeat for several.")],
    trace: Annotated[str | None, typer.Option(help="A trace file, or the bare name of a bundled one.")] = None,
    synthetic: Annotated[
        str | None,
        typer.Option(help="Instead of a trace: POPULARITY[,experts=N][,switch=P][,drift=N][,requests=N][,seed=N]."),
    ] = None,
    names: Annotated[str, typer.Option("--policies", help="Which, with commas.")] = ",".join(REPLAYED),
    pin: Annotated[list[str] | None, typer.Option(help="Never evict this expert. Repeat for several.")] = None,
    prefetch: Annotated[int, typer.Option(help="Load the experts of so many waiting requests ahead.")] = 0,
    load_positions: Annotated[int, typer.Option(help="Requests served while one expert is loaded ahead.")] = 1,
    queue: Annotated[
        int, typer.Option(help="Among so many waiting requests, one whose expert is ready may go first.")
    ] = 1,
    max_delay: Annotated[int, typer.Option(help="With --queue: places that a request may fall back at most.")] = 0,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write all rows there, as JSON.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print shorter tables, in Markdown.")] = False,
) -> None:
    """Replay a trace's experts through eviction policies; compare with Belady's bound and the trace's own locality."""
    config = ComparisonConfig(
        slots=tuple(slots),
        policies=tuple(name.strip() for name in names.split(",") if name.strip()),
        pinned=tuple(pin or ()),
        queue=queue,
        max_delay=max_delay,
        prefetch=prefetch,
        load_positions=load_positions,
    )
    if out is not None:
        check_file(out, option="--out")
    comparison = compare_policies(_sequence(trace, synthetic), config)
    if out is not None:
        write_comparison(out, comparison)
    typer.echo(_headline(comparison) + "\n")
    if markdown:
        _print_markdown(*_hit_rates(comparison))
        _print_markdown(*_locality(comparison))
    else:
        _print_table(POLICY_COLUMNS, [_policy_cells(row) for row in comparison.rows])
        _print_table(*_locality(comparison))
    if out is not None:
        typer.echo(f"written {out}")


def _sequence(trace: str | None, synthetic: str | None) -> ExpertSequence:
    if (trace is None) == (synthetic is None):
        raise UsageError("give either --trace or --synthetic, and only one of them")
    if synthetic is not None:
        return synthetic_sequence(parse_synthetic(synthetic))
    assert trace is not None
    return trace_sequence(find_trace(trace))


def _headline(comparison: PolicyComparison) -> str:
    switches = comparison.switch_rate
    distances = [distance for distance, count in comparison.reuse_distance.items() for _ in range(count)]
    middle = f"p50 {distances[(len(distances) - 1) // 2]}, max {distances[-1]}" if distances else "undefined"
    return (
        f"{comparison.source}: {comparison.requests} requests, {comparison.experts} experts, "
        f"switch rate {'undefined' if switches is None else f'{switches:.3f}'}, reuse distance {middle}"
    )


def _hit_rates(comparison: PolicyComparison) -> tuple[Sequence[str], list[tuple[str, ...]]]:
    """Heading and rows: slots and options each, with hit rate, part of Belady's, for each policy."""
    policies = list(dict.fromkeys(row.policy for row in comparison.rows))
    found: dict[tuple[int, str], dict[str, PolicyRow]] = {}
    for row in comparison.rows:
        found.setdefault((row.slots, _options(row)), {})[row.policy] = row
    rows = []
    for (slots, options), by_policy in found.items():
        delay = max((row.delay_p99, row.delay_max) for row in by_policy.values())
        cells = [_hit_rate(by_policy[name]) if name in by_policy else "" for name in policies]
        rows.append((str(slots), options, *cells, f"{delay[0]}, {delay[1]}"))
    return ("slots", "options", *policies, "delay p99, max"), rows


def _hit_rate(row: PolicyRow) -> str:
    return f"{row.hit_rate:.1%}" + ("" if row.of_belady is None else f" ({row.of_belady:.2f})")


def _options(row: PolicyRow) -> str:
    options = {"pinned": row.pinned, "prefetch": row.prefetch, "queue": row.queue - 1 and row.queue}
    return ", ".join(f"{name} {value}" for name, value in options.items() if value) or "–"


def _policy_cells(row: PolicyRow) -> tuple[str, ...]:
    return (
        str(row.slots),
        row.policy,
        _options(row),
        f"{row.hit_rate:.1%}",
        "–" if row.of_belady is None else f"{row.of_belady:.3f}",
        str(row.loads),
        str(row.late),
        f"{row.delay_p99}, {row.delay_max}",
    )


def _locality(comparison: PolicyComparison) -> tuple[Sequence[str], list[tuple[str, ...]]]:
    """Heading and rows: a window each, with SCH for each number of slots."""
    slots = list(dict.fromkeys(row.slots for row in comparison.locality))
    by_window: dict[int, list[str]] = {}
    for row in comparison.locality:
        cells = by_window.setdefault(row.window, [str(row.window), _number(row.working_set, 2), _number(row.srp, 3)])
        cells.append(f"{row.sch:.1%}")
    return (*LOCALITY_COLUMNS, *(f"SCH, {n} slots" for n in slots)), [tuple(cells) for cells in by_window.values()]


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        words = heading in ("policy", "options")
        table.add_column(heading, justify="left" if words else "right", no_wrap=heading != "options")
    for row in rows:
        table.add_row(*row)
    Console().print(table, "")


def _print_markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    typer.echo("\n".join(_markdown(headings, rows)) + "\n")


def _markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    for cells in (headings, ["---"] * len(headings), *rows):
        yield f"| {' | '.join(cells)} |"
