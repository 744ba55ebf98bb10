"""The GPU as NVML sees it, and a twin for machines without one that says so instead of saying zero."""

from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol

from harness.errors import UsageError

__all__ = [
    "GpuMonitor",
    "GpuReading",
    "GpuState",
    "NullGpu",
    "NvmlGpu",
    "card_name",
    "check_gpu",
    "need_gpu",
    "open_gpu",
]

NO_GPU = "no GPU"

SM_CLOCK, MEMORY_CLOCK = 1, 2

THROTTLE_REASONS = (
    "gpu_idle",
    "application_clocks",
    "software_power_cap",
    "hardware_slowdown",
    "sync_boost",
    "software_thermal",
    "hardware_thermal",
    "hardware_power_brake",
    "display_clocks",
)
"""What the bits of NVML's answer mean, the lowest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuReading:
    """One reading; `None` is what the driver would not tell."""

    memory_bytes: int | None = None
    process_bytes: int | None = None
    utilisation: float | None = None
    power_w: float | None = None
    energy_j: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuState:
    """What bears on the device's speed at one moment; `None` is what the driver would not tell.

    Attributes:
        sm_clock_mhz, memory_clock_mhz: now; max_sm_clock_mhz: at best.
        throttle_reasons: why the clocks are below their best; empty for no reason.
        power_limit_w: that is enforced.
        memory_total_bytes: of the device.
    """

    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    max_sm_clock_mhz: int | None = None
    throttle_reasons: tuple[str, ...] | None = None
    temperature_c: int | None = None
    power_limit_w: float | None = None
    memory_total_bytes: int | None = None


class GpuMonitor(Protocol):
    """A source of readings."""

    description: str
    """Name of the device, or why there is none."""
    driver: str | None

    def read(self, pid: int | None) -> GpuReading:
        """The present state; `process_bytes` is of `pid`."""

    def state(self) -> GpuState | None:
        """Clocks and what holds them back; `None` without a GPU."""

    def close(self) -> None:
        """Release the driver's library."""


class NullGpu:
    """No GPU: every figure is undefined."""

    driver: str | None = None

    def __init__(self, reason: str = NO_GPU) -> None:
        self.description = reason

    def read(self, pid: int | None) -> GpuReading:
        """A reading of nothing."""
        return GpuReading()

    def state(self) -> None:
        """Nothing: there is no GPU."""

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

    def state(self) -> GpuState:
        """Clocks, throttling and limits of the device."""
        reasons = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons")
        limit_mw = self._ask("nvmlDeviceGetEnforcedPowerLimit")
        memory = self._ask("nvmlDeviceGetMemoryInfo")
        return GpuState(
            sm_clock_mhz=self._ask("nvmlDeviceGetClockInfo", SM_CLOCK),
            memory_clock_mhz=self._ask("nvmlDeviceGetClockInfo", MEMORY_CLOCK),
            max_sm_clock_mhz=self._ask("nvmlDeviceGetMaxClockInfo", SM_CLOCK),
            throttle_reasons=None if reasons is None else _reasons(int(reasons)),
            temperature_c=self._ask("nvmlDeviceGetTemperature", 0),
            power_limit_w=None if limit_mw is None else limit_mw / 1000,
            memory_total_bytes=None if memory is None else int(memory.total),
        )

    def close(self) -> None:
        """Release NVML."""
        self._nvml.nvmlShutdown()

    def _process_bytes(self, pid: int | None) -> int | None:
        processes = self._ask("nvmlDeviceGetComputeRunningProcesses") or ()
        # inside a container the pids are the host's, so that ours may never be found: undefined, not zero
        used = [p.usedGpuMemory for p in processes if p.pid == pid and p.usedGpuMemory is not None]
        return int(used[0]) if used else None

    def _ask(self, function: str, *arguments: int) -> Any:
        try:
            return getattr(self._nvml, function)(self._handle, *arguments)
        except self._nvml.NVMLError:
            return None


def card_name(description: object) -> str | None:
    """The card of a monitor's description, as records keep it; `None` where there is none."""
    return description if isinstance(description, str) and not description.startswith(NO_GPU) else None


def check_gpu(device: str, gpu: GpuMonitor) -> None:
    """Nothing, if `device` is no GPU or the monitor sees one: asked at a command's edge, long before an engine would.

    Raises:
        UsageError: there is none.
    """
    if device == "cuda" and card_name(gpu.description) is None:
        why = gpu.description.removeprefix(NO_GPU)
        raise UsageError(f"device cuda needs an NVIDIA GPU and its driver, and NVML sees none{why}; check nvidia-smi")


def need_gpu(device: str) -> None:
    """Nothing, if `device` is no GPU or the driver sees one: `check_gpu` for whoever reads nothing of it.

    Raises:
        UsageError: there is none.
    """
    with closing(open_gpu()) as gpu:
        check_gpu(device, gpu)


def open_gpu(index: int = 0) -> GpuMonitor:
    """A monitor of GPU `index`, or a `NullGpu` that says why there is none."""
    try:
        import pynvml
    except ImportError:
        return NullGpu(f"{NO_GPU} (NVML's Python binding is not installed)")
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return NullGpu(NO_GPU)
    try:
        count = pynvml.nvmlDeviceGetCount()
        if not 0 <= index < count:
            pynvml.nvmlShutdown()
            return NullGpu(f"{NO_GPU} of index {index} (there are {count}, from 0 on)" if count else NO_GPU)
        return NvmlGpu(pynvml, index)
    except pynvml.NVMLError as error:
        return NullGpu(f"{NO_GPU} ({error})")


def _reasons(bits: int) -> tuple[str, ...]:
    named = tuple(name for i, name in enumerate(THROTTLE_REASONS) if bits >> i & 1)
    unnamed = bits >> len(THROTTLE_REASONS) << len(THROTTLE_REASONS)
    return (*named, f"{unnamed:#x}") if unnamed else named


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
