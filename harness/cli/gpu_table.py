"""The GPU of a command that measures rows of a table: asked for before torch is imported, which takes seconds."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from harness.results import check_file
from harness.telemetry import GpuMonitor, check_gpu, open_gpu

__all__ = ["gpu_for_table"]


@contextmanager
def gpu_for_table(index: int, table: Path | None, *, may_suffice: bool = True) -> Iterator[GpuMonitor]:
    """A monitor of GPU `index`, which is there; or may not be, where a table may have all rows that are asked for.

    Args:
        index: of the GPU.
        table: where the rows are kept; `None` if they are not.
        may_suffice: whether nothing but rows is asked for.

    Raises:
        UsageError: there is no such GPU, and no table that may suffice; or no file can be kept there.
    """
    if table is not None:
        check_file(table)
    with closing(open_gpu(index)) as gpu:
        if table is None or not table.exists() or not may_suffice:
            check_gpu("cuda", gpu)
        yield gpu
