"""`harness quality`: how many answers are still right, codec by codec."""

import typer

__all__ = ["quality_app"]

quality_app = typer.Typer(no_args_is_help=True, help="Measure the answers of a family's experts under codecs.")
