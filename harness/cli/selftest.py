"""`harness selftest`: is the client itself right, on this machine, now?"""

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from harness.selftest import SelftestOptions, run_selftest

__all__ = ["selftest"]


def selftest(
    requests: Annotated[int, typer.Option(help="How many to send.")] = 200,
    rate: Annotated[float, typer.Option(help="Requests a second.")] = 100.0,
) -> int:
    """Measure a fake system with exactly known latencies; fail unless every figure is right to 1 ms or 1 %."""
    checks = run_selftest(SelftestOptions(requests=requests, rate_per_s=rate))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("", "known", "measured", ""):
        table.add_column(heading, justify="right" if heading else "left")
    for check in checks:
        verdict = "[green]ok[/green]" if check.passed else "[bold red]off[/bold red]"
        table.add_row(check.name, check.show(check.known), check.show(check.measured), verdict)
    Console().print(table)
    return 0 if all(check.passed for check in checks) else 1
