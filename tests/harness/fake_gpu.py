"""A monitor of a GPU that is not there."""

from harness.telemetry import GpuState, NullGpu


class FakeGpu(NullGpu):
    """A GPU of a name and a clock."""

    def __init__(self) -> None:
        super().__init__("Fake GPU")

    def state(self) -> GpuState:  # type: ignore[override]
        return GpuState(sm_clock_mhz=1980, throttle_reasons=())
