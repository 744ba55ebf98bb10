"""Public traces as `harness-trace/1`: lengths and times from the source, experts composed by us and said to be.

Every importer yields requests with `input_length` instead of a prompt, in the order of the source, without experts.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from workloads.errors import WorkloadError
from workloads.importers.azure import read_azure
from workloads.importers.burstgpt import read_burstgpt
from workloads.importers.compose import CompositionConfig, compose
from workloads.importers.mooncake import read_mooncake
from workloads.importers.sharegpt import read_sharegpt
from workloads.trace import TraceRequest

__all__ = ["IMPORTERS", "CompositionConfig", "compose", "get_importer"]

Importer = Callable[[Path], Iterator[TraceRequest]]

IMPORTERS: Mapping[str, Importer] = {
    "azure": read_azure,
    "burstgpt": read_burstgpt,
    "mooncake": read_mooncake,
    "sharegpt": read_sharegpt,
}
"""By the name of the format, a reader of its files."""


def get_importer(name: str) -> Importer:
    """The importer of the format called `name`.

    Raises:
        WorkloadError: listing the names there are.
    """
    if name not in IMPORTERS:
        raise WorkloadError(f"a format must be one of {', '.join(IMPORTERS)}, got {name!r}")
    return IMPORTERS[name]
