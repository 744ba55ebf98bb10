"""The end of a run on a console: the answer first, then the figures, then whether to believe them."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from harness.headline import family_name, headline_sentences
from harness.summary import ArmSummary, Estimate, HeadlineRow, Quantiles, Summary
from harness.units import format_bytes

__all__ = ["print_summary"]


def print_summary(summary: Summary, run_dir: Path, report: Path | None, console: Console) -> None:
    """Print what the run came to."""
    console.print()
    console.print(_title(summary), style="bold", highlight=False)
    if not summary.valid:
        console.print("  [bold red]INVALID[/bold red]: these numbers must not be used; reasons below", highlight=False)
    for sentence in headline_sentences(summary):
        console.print(f"  {sentence}", highlight=False, soft_wrap=True)
    console.print()
    console.print(_answer(summary))
    console.print(_latencies(summary))
    _print_verdict(summary, console)
    console.print(f"written {run_dir}", highlight=False, soft_wrap=True)
    if report is not None:
        console.print(f"report  {report.resolve().as_uri()}", highlight=False, soft_wrap=True)


def _title(summary: Summary) -> str:
    trace, family = summary.trace, summary.family
    return (
        f"{trace.get('name')} · family {family_name(family)} · {family.get('experts')} experts · "
        f"{trace.get('requests')} requests in {float(trace.get('duration_s') or 0):.1f} s"
    )


def _answer(summary: Summary) -> Table:
    headline = summary.headline
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", no_wrap=True)
    table.add_column(headline.arm or "", justify="right")
    if headline.baseline:
        table.add_column(headline.baseline, justify="right")
        table.add_column("")
    for row in headline.rows:
        cells = [row.label, _figure(row, row.value)]
        if headline.baseline:
            # of a run that is not valid nothing may be claimed
            # the report gives the reason behind "no claim" and "no significant difference"
            cells += [_figure(row, row.baseline), row.claim.partition(":")[0] if summary.valid else ""]
        table.add_row(*cells)
    for name, pick in (
        ("router accuracy", lambda a: _share(a.router_accuracy)),
        ("hit rate", lambda a: _share(a.hit_rate)),
        ("output tokens/s", lambda a: _number(a.output_tokens_per_s)),
        ("requests not answered", _not_answered),
        ("process, peak", lambda a: _bytes(a.process_bytes)),
    ):
        table.add_row(name, *(pick(arm) for arm in _shown(summary)))
    return table


def _shown(summary: Summary) -> Sequence[ArmSummary]:
    names = (summary.headline.arm, summary.headline.baseline)
    return [summary.arms[name] for name in names if name is not None]


def _latencies(summary: Summary) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("ms", "n", "p50", "p90", "p99", "95 % CI of the last"):
        table.add_column(heading, justify="left" if heading == "ms" else "right", no_wrap=True)
    for name, arm in summary.arms.items():
        rows = (
            ("TTFT", arm.ttft_s),
            *((f"TTFT {kind}", values) for kind, values in arm.ttft_s_by_class.items()),
            ("TPOT", arm.tpot_s),
            ("E2E", arm.e2e_s),
            *((f"switch {kind}", values) for kind, values in arm.switch_s.items()),
            ("routing", arm.route_s),
            ("send lag", arm.send_lag_s),
        )
        shown = [(label, values) for label, values in rows if values.n]
        table.add_row(f"[bold]{name}[/bold]")
        for number, (label, values) in enumerate(shown, 1):
            table.add_row(f"  {label}", *_milliseconds(values), end_section=number == len(shown))
    return table


def _milliseconds(values: Quantiles) -> list[str]:
    estimates = (values.p50, values.p90, values.p99)
    highest = [e for e in estimates if e is not None][-1]
    interval = f"[{_milli(highest.low)}, {_milli(highest.high)}]"
    return [str(values.n), *(_milli(e.value if e else None) for e in estimates), interval]


def _milli(value_s: float | None) -> str:
    if value_s is None:
        return "–"
    return f"{value_s * 1e3:.1f}" if value_s < 1 else f"{value_s * 1e3:,.0f}"


def _print_verdict(summary: Summary, console: Console) -> None:
    if summary.valid:
        console.print(f"[green]valid[/green]: {_client(summary)}", highlight=False)
    else:
        console.print("[bold red]INVALID[/bold red] because", highlight=False)
        for reason in summary.reasons:
            console.print(f"  - {reason}", highlight=False, markup=False, soft_wrap=True)
    for note in summary.notes:
        console.print(f"  note: {note}", highlight=False, markup=False, soft_wrap=True)


def _client(summary: Summary) -> str:
    lags = [arm.send_lag_s.p99 or arm.send_lag_s.p90 or arm.send_lag_s.p50 for arm in summary.arms.values()]
    shares = [arm.client.cpu_share for arm in summary.arms.values()]
    lag = max((e.value for e in lags if e is not None), default=None)
    share = max((s for s in shares if s is not None), default=None)
    parts = [
        None if lag is None else f"send lag {lag * 1e3:.1f} ms at worst",
        None if share is None else f"client CPU {share:.0%} of a core",
    ]
    return ", ".join(part for part in parts if part)


def _figure(row: HeadlineRow, value: float | None) -> str:
    if value is None:
        return "–"
    match row.unit:
        case "bytes":
            return format_bytes(value)
        case "s":
            return f"{_milli(value)} ms"
        case "share":
            return f"{value:.1%}"
        case "per_s":
            return f"{value:.2f} /s"
        case "count":
            return f"{value:.0f}"


def _share(estimate: Estimate | None) -> str:
    return "–" if estimate is None else f"{estimate.value:.1%}"


def _number(estimate: Estimate | None) -> str:
    return "–" if estimate is None else f"{estimate.value:.1f}"


def _bytes(value: int | None) -> str:
    return "–" if value is None else format_bytes(value)


def _not_answered(arm: ArmSummary) -> str:
    return str(arm.requests.scheduled - arm.requests.ok)
