"""The GPU as NVML sees it, and a twin for machines without one that says so instead of saying zero."""

from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["GpuMonitor", "GpuReading", "NullGpu", "NvmlGpu", "open_gpu"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuReading:
    """One reading; `None` is what the driver would not tell."""

    memory_bytes: int | None = None
    process_bytes: int | None = None
    utilisation: float | None = None
    power_w: float | None = None
    energy_j: float | None = None


class GpuMonitor(Protocol):
    """A source of readings."""

    description: str
    """Name of the device, or why there is none."""
    driver: str | None

    def read(self, pid: int | None) -> GpuReading:
        """The present state; `process_bytes` is of `pid`."""

    def close(self) -> None:
        """Release the driver's library."""


class NullGpu:
    """No GPU: every figure is undefined."""

    driver: str | None = None

    def __init__(self, reason: str = "no GPU") -> None:
        self.description = reason

    def read(self, pid: int | None) -> GpuReading:
        """A reading of nothing."""
        return GpuReading()

    def close(self) -> None:
        """Nothing to release."""


class NvmlGpu:
    """Device `index` through NVML. A figure that the device or a container withholds is `None`."""

    def __init__(self, nvml: Any, index: int) -> None:
        self._nvml = nvml
        self._handle = nvml.nvmlDeviceGetHandleByIndex(index)
        self.description = _text(nvml.nvmlDeviceGetName(self._handle))
        self.driver: str | None = _text(nvml.nvmlSystemGetDriverVersion())

    def read(self, pid: int | None) -> GpuReading:
        """The present state of the device."""
        memory = self._ask("nvmlDeviceGetMemoryInfo")
        utilisation = self._ask("nvmlDeviceGetUtilizationRates")
        power_mw = self._ask("nvmlDeviceGetPowerUsage")
        energy_mj = self._ask("nvmlDeviceGetTotalEnergyConsumption")
        return GpuReading(
            memory_bytes=None if memory is None else int(memory.used),
            process_bytes=self._process_bytes(pid),
            utilisation=None if utilisation is None else utilisation.gpu / 100,
            power_w=None if power_mw is None else power_mw / 1000,
            energy_j=None if energy_mj is None else energy_mj / 1000,
        )

    def close(self) -> None:
        """Release NVML."""
        self._nvml.nvmlShutdown()

    def _process_bytes(self, pid: int | None) -> int | None:
        processes = self._ask("nvmlDeviceGetComputeRunningProcesses") or ()
        # inside a container the pids are the host's, so that ours may never be found: undefined, not zero
        used = [p.usedGpuMemory for p in processes if p.pid == pid and p.usedGpuMemory is not None]
        return int(used[0]) if used else None

    def _ask(self, function: str) -> Any:
        try:
            return getattr(self._nvml, function)(self._handle)
        except self._nvml.NVMLError:
            return None


def open_gpu(index: int = 0) -> GpuMonitor:
    """A monitor of GPU `index`, or a `NullGpu` that says why there is none."""
    try:
        import pynvml
    except ImportError:
        return NullGpu("no GPU (NVML's Python binding is not installed)")
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return NullGpu("no GPU")
    try:
        if pynvml.nvmlDeviceGetCount() <= index:
            pynvml.nvmlShutdown()
            return NullGpu("no GPU")
        return NvmlGpu(pynvml, index)
    except pynvml.NVMLError as error:
        return NullGpu(f"no GPU ({error})")


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
