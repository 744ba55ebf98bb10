"""The `meswitch` command."""

from meswitch.cli.app import app, main

__all__ = ["app", "main"]
