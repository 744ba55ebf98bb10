"""What the machine does while an arm runs: memory, processor, the client's own health, and the GPU if there is one."""

from harness.telemetry.gpu import GpuMonitor, GpuReading, GpuState, NullGpu, card_name, check_gpu, need_gpu, open_gpu
from harness.telemetry.sample import Sample, read_samples
from harness.telemetry.sampler import Sampler

__all__ = [
    "GpuMonitor",
    "GpuReading",
    "GpuState",
    "NullGpu",
    "Sample",
    "Sampler",
    "card_name",
    "check_gpu",
    "need_gpu",
    "open_gpu",
    "read_samples",
]
