"""The GPU of a command that measures rows of a table: asked for before torch is imported, which takes seconds."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from harness.telemetry import GpuMonitor, check_gpu, open_gpu

__all__ = ["gpu_for_table"]


@contextmanager
def gpu_for_table(index: int, table: Path | None) -> Iterator[GpuMonitor]:
    """A monitor of GPU `index`, which is there; or may not be, where a table may have all rows that are asked for.

    Args:
        index: of the GPU.
        table: that may have all rows; `None` for none that could.

    Raises:
        UsageError: there is no such GPU, and no table either.
    """
    with closing(open_gpu(index)) as gpu:
        if table is None or not table.exists():
            check_gpu("cuda", gpu)
        yield gpu
