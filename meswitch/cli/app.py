"""The command line: which commands there are, and how their errors become one line and an exit code."""

import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from meswitch.cli.compress import compress
from meswitch.cli.family import app as family_app
from meswitch.cli.inspect import inspect, verify
from meswitch.cli.library import list_command, remove
from meswitch.cli.merge import merge
from meswitch.errors import MeswitchError
from meswitch.termination import INTERRUPTED, run_to_exit_code
from workloads.errors import WorkloadError

__all__ = ["app", "main", "run"]

# typer brings its own click, or uses the one that is installed: its own names are the stable way to the base class
UsageError: type[Exception] = typer.BadParameter.__bases__[0]

app = typer.Typer(
    name="meswitch",
    help="Serve many full fine-tunes of one base model as compressed deltas.",
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(compress)
app.command()(inspect)
app.command()(verify)
app.command()(merge)
app.command("list")(list_command)
app.command()(remove)
app.add_typer(family_app, name="family")


@app.callback()
def options(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    """Serve many full fine-tunes of one base model as compressed deltas."""
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"meswitch {installed('meswitch')}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(1)


def run(arguments: Sequence[str]) -> int:
    """The exit code of the command that `arguments` ask for: 0, 1 for any mistake, 130 after Ctrl-C."""
    debug = "--debug" in arguments
    # accepted anywhere, not only before the command's name
    rest = [argument for argument in arguments if argument != "--debug"]
    try:
        code = typer.main.get_command(app).main(rest, prog_name="meswitch", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort) as error:
        interrupted = isinstance(error, KeyboardInterrupt) or isinstance(error.__cause__, KeyboardInterrupt)
        if not interrupted:
            return _fail("aborted: the question was not answered", debug=debug)
        code = INTERRUPTED
    except UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            # its message is the help that a group prints when it is called without a command
            print(error, file=sys.stderr)
            return 1
        return _fail(_usage_message(error), debug=debug)
    except (MeswitchError, WorkloadError) as error:
        return _fail(str(error), debug=debug)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}", debug=debug)
    if code == INTERRUPTED:
        advice = "; the same command goes on where it stopped" if "compress" in rest[:1] else ""
        return _fail(f"interrupted{advice}", debug=debug, code=INTERRUPTED)
    return code if isinstance(code, int) else 0


def main() -> NoReturn:
    """Run the command line of this process and exit; with 143 after a SIGTERM."""
    sys.exit(run_to_exit_code(lambda: run(sys.argv[1:])))


def _usage_message(error: Exception) -> str:
    command = getattr(getattr(error, "ctx", None), "command_path", "meswitch")
    described = error.format_message() if hasattr(error, "format_message") else str(error)
    return f"{described} Try: {command} --help"


def _fail(message: str, *, debug: bool, code: int = 1) -> int:
    if debug and sys.exc_info()[0] is not None:
        traceback.print_exc()
    line = " ".join(message.split())
    print(f"error: {line}", file=sys.stderr)
    return code
