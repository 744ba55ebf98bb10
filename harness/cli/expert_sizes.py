"""`harness sizes`: bytes of an expert of a model's shape, and how much smaller several models become."""

import sys
from typing import Annotated

import typer

from harness.cli.columns import print_columns

__all__ = ["sizes"]

LINEARS = ("rtn:bits=2", "salient:bits=2,channels=8", "sparse-sign:group=4", "sparse-sign:group=8")
WORDS = ("linears", "embedding, head")
TABLES = ("dense:dtype=float16", "rtn:bits=8", "rtn:bits=4")


def sizes(
    family: Annotated[str, typer.Argument(help="A shape, or a Hugging Face config.")] = "mistral-7b",
    linear: Annotated[
        list[str] | None, typer.Option(help=f"Codec of the linears; repeat; if absent: {', '.join(LINEARS)}.")
    ] = None,
    tables: Annotated[
        list[str] | None, typer.Option(help=f"Codec of embedding and head; repeat; if absent: {', '.join(TABLES)}.")
    ] = None,
    models: Annotated[list[int] | None, typer.Option(help="How many models; repeat; if absent, 3 and 16.")] = None,
    router: Annotated[str, typer.Option(help="Bytes of a router to count beside the experts, such as 3.67GB.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
) -> None:
    """Full models ÷ (base + experts) by the paper's accounting and by ours; arithmetic, nothing is measured."""
    from pydantic import TypeAdapter

    from harness.expert_sizes import ExpertSize, model_shape, paper_size, size_by_layouts
    from harness.sizes import parse_bytes
    from meswitch.architecture import describe
    from meswitch.families import load_shape_family

    config = load_shape_family(family).config
    shape = model_shape(describe(config), tied=bool(config.tie_word_embeddings))
    counts, beside = tuple(models or (3, 16)), parse_bytes(router) if router else 0
    rows = [paper_size(shape, counts, router_bytes=beside)]
    rows += [
        size_by_layouts(shape, one, other, counts, router_bytes=beside)
        for one in linear or LINEARS
        for other in tables or TABLES
    ]
    if as_json:
        sys.stdout.write(TypeAdapter(list[ExpertSize]).dump_json(rows, indent=1).decode() + "\n")
        return
    headings = ("linears", "embedding, head", "bits", "expert, GB", *(f"{n} models" for n in counts))
    shown = [
        (
            "the paper's accounting" if row.linear is None else row.linear,
            "16 bits" if row.tables is None else row.tables,
            f"{row.bits_per_weight:.3f}",
            f"{row.expert_bytes / 1e9:.3f}",
            *(f"{row.ratios[count]:.2f}" for count in counts),
        )
        for row in rows
    ]
    print_columns(headings, shown, words=WORDS)
