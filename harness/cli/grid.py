"""`harness grid`: base × delta quantisation, codecs of the tables, ways to spend a budget; on a family's experts."""

from pathlib import Path
from typing import Annotated

import typer

from harness.results import check_runs_dir, write_atomic

__all__ = ["grid"]


def grid(
    kind: Annotated[str, typer.Argument(help="base, tables or allocation.")],
    family: Annotated[str, typer.Argument(help="A model family, by name or path.")] = "pocket",
    task: Annotated[list[str] | None, typer.Option(help="Repeat for several; if absent, all experts.")] = None,
    n: Annotated[int, typer.Option(help="Test items of each task.")] = 100,
    bits: Annotated[list[float] | None, typer.Option(help="allocation: budgets, in bits of a linear weight.")] = None,
    generations: Annotated[int, typer.Option(help="allocation: of the search.")] = 20,
    output: Annotated[
        Path | None, typer.Option(help="Folder of the table and its raw records; if absent, reports/results/FAMILY.")
    ] = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Make the summary from the kept records alone.")] = False,
) -> None:
    """Score what is quantised besides the linears' deltas; a task that the table has is not measured again."""
    folder = output or Path("reports/results") / Path(family).name
    check_runs_dir(folder, option="--output")
    path = folder / f"grid-{kind}.json"
    # torch takes seconds to import: never for --help
    from harness.grids.summary import cell_means, markdown

    if not rebuild:
        _measure(kind, family, tuple(task or ()), n, tuple(bits or (1.0,)), generations, path)
    text = markdown(cell_means(path.with_suffix(".raw.jsonl")))
    write_atomic(path.with_suffix(".md"), text.encode())
    typer.echo(text, nl=False)


def _measure(
    kind: str, name: str, tasks: tuple[str, ...], n: int, bits: tuple[float, ...], generations: int, path: Path
) -> None:
    from harness.cli.fidelity import CALIBRATION_ITEMS
    from harness.fidelity.pocket import DiskFamily
    from harness.grids.measure import GridOptions, check_grid, measure_grid
    from meswitch.allocation import EvolutionConfig
    from meswitch.cli.family import check_device
    from meswitch.families import load_family
    from meswitch.home import home_dir

    options = GridOptions(
        grid=kind,  # type: ignore[arg-type]
        tasks=tasks,
        n=n,
        bits=bits,
        search=EvolutionConfig(generations=generations),
    )
    known = load_family(name)
    options = options.of_tasks(tuple(known.experts))
    check_grid(known.name, options, path)
    # for the bars of transformers, which it silences
    check_device("cpu")
    say = typer.echo
    family = DiskFamily(name, home_dir(), device="cpu", n=n, n_held_out=CALIBRATION_ITEMS, report=say)
    measure_grid(family, options, path, say)
