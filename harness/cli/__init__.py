"""The `harness` command.

Exit codes: 0 done, 1 usage or any other error, 2 the run is invalid, 3 an SLO was missed that `--require-slo` asks for,
130 interrupted, 143 ended by a SIGTERM, which is taken as a Ctrl-C is.
"""

import sys
from collections.abc import Callable, Sequence
from functools import wraps
from typing import ParamSpec

import typer

from harness.cli.compression import compression as compression_
from harness.cli.decode import decode as decode_
from harness.cli.environment import environment
from harness.cli.expert_sizes import sizes as sizes_
from harness.cli.grid import grid as grid_
from harness.cli.memory import memory as memory_
from harness.cli.parity import parity as parity_
from harness.cli.policies import policies as policies_
from harness.cli.prefill import prefill as prefill_
from harness.cli.quality import quality as quality_
from harness.cli.report import report as report_
from harness.cli.run import run as run_
from harness.cli.selftest import selftest as selftest_
from harness.cli.sweep import sweep as sweep_
from harness.cli.switching import switching as switching_
from harness.cli.trace import trace_app
from harness.errors import HarnessError
from meswitch.errors import MeswitchError
from meswitch.termination import INTERRUPTED, run_to_exit_code
from workloads.errors import WorkloadError

__all__ = ["app", "main", "run_command"]

P = ParamSpec("P")

# newer versions of typer bring a click of their own: found this way, the base of its errors is right in either
CommandLineError: type[Exception] = typer.BadParameter.__mro__[2]


def going_on(command: Callable[P, int | None]) -> Callable[P, int | None]:
    """The command, which says on a Ctrl-C that what it has kept is not lost."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> int | None:
        try:
            return command(*args, **kwargs)
        except KeyboardInterrupt:
            print("harness: interrupted; the same command goes on where it stopped", file=sys.stderr)
            return INTERRUPTED

    return run


# the commands carry an underscore here, because their plain names are this package's modules
app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Measure the serving of many experts: replay traces, compare with swapping whole models, report.",
)
app.command(name="run")(run_)
app.command(name="decode")(decode_)
app.command(name="prefill")(prefill_)
app.command(name="compression")(compression_)
app.command(name="memory")(memory_)
app.command(name="sweep")(sweep_)
app.command(name="switching")(switching_)
app.command(name="report")(report_)
app.command(name="selftest")(selftest_)
app.command(name="env")(environment)
app.command(name="quality")(going_on(quality_))
app.command(name="grid")(going_on(grid_))
app.command(name="sizes")(sizes_)
app.command(name="parity")(parity_)
app.command(name="policies")(policies_)
app.add_typer(trace_app, name="trace")


def run_command(arguments: Sequence[str]) -> int:
    """The exit code of `harness ARGUMENTS`. A user's or the world's mistake is one line on stderr."""
    try:
        code = app(args=list(arguments), standalone_mode=False, prog_name="harness")
    except typer.Abort:
        return INTERRUPTED
    except KeyboardInterrupt:
        print("harness: interrupted", file=sys.stderr)
        return INTERRUPTED
    except (HarnessError, MeswitchError, WorkloadError) as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(f"{error.filename or 'system'}: {error.strerror or error}")
    except CommandLineError as error:
        message = getattr(error, "format_message", error.__str__)()
        # without arguments the help was printed, and nothing is left to say
        return _fail(message) if message else 1
    return code if isinstance(code, int) else 0


def main() -> None:
    """Run the command line of this process and end it."""
    sys.exit(run_to_exit_code(lambda: run_command(sys.argv[1:])))


def _fail(message: str) -> int:
    print(f"harness: {' '.join(message.split())}", file=sys.stderr)
    return 1
