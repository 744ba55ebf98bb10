import os
import re
import threading
from collections import deque
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.errors import UsageError
from harness.loadgen import Pulse
from harness.telemetry import NullGpu, Sampler, check_gpu, read_samples
from harness.telemetry.gpu import GpuReading, GpuState, NvmlGpu, open_gpu
from harness.telemetry.sample import Sample
from harness.telemetry.throttling import throttled_by, throttled_share


class FakeNvml:
    """NVML's functions with known answers; `withheld` ones raise, as in a container."""

    class NVMLError(Exception):
        pass

    def __init__(self, withheld=()):
        self._withheld = withheld

    def __getattr__(self, name):
        def answer(*arguments):
            if name in self._withheld:
                raise self.NVMLError
            if name in ("nvmlDeviceGetClockInfo", "nvmlDeviceGetMaxClockInfo"):
                return {1: 1755, 2: 2619}[arguments[1]]
            return {
                "nvmlDeviceGetHandleByIndex": 0,
                "nvmlDeviceGetName": b"NVIDIA H100",
                "nvmlSystemGetDriverVersion": "580.1",
                "nvmlDeviceGetMemoryInfo": SimpleNamespace(used=100, total=1000),
                "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=50),
                "nvmlDeviceGetPowerUsage": 350_000,
                "nvmlDeviceGetTotalEnergyConsumption": 7_000,
                "nvmlDeviceGetComputeRunningProcesses": [SimpleNamespace(pid=5, usedGpuMemory=60)],
                "nvmlDeviceGetCurrentClocksThrottleReasons": 0b100_0100,
                "nvmlDeviceGetEnforcedPowerLimit": 700_000,
                "nvmlDeviceGetTemperature": 41,
            }[name]

        return answer


def test_readings_are_in_bytes_watts_and_joules():
    gpu = NvmlGpu(FakeNvml(), 0)
    assert (gpu.description, gpu.driver) == ("NVIDIA H100", "580.1")
    assert gpu.read(5) == GpuReading(memory_bytes=100, process_bytes=60, utilisation=0.5, power_w=350, energy_j=7)


def test_a_device_is_refused_only_if_it_is_a_gpu_and_there_is_none():
    check_gpu("cpu", NullGpu())
    check_gpu("cuda", NvmlGpu(FakeNvml(), 0))
    for why in ("", " (Driver Not Loaded)"):
        gpu, seen = NullGpu(f"no GPU{why}"), re.escape(f"NVML sees none{why}; check nvidia-smi")
        with pytest.raises(UsageError, match=f"device cuda needs an NVIDIA GPU and its driver, and {seen}"):
            check_gpu("cuda", gpu)


def test_what_the_driver_withholds_is_undefined_and_not_zero():
    nvml = FakeNvml(("nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetComputeRunningProcesses"))
    reading = NvmlGpu(nvml, 0).read(5)
    assert reading.energy_j is None
    assert reading.process_bytes is None
    # the host's process ids are not the container's
    assert NvmlGpu(FakeNvml(), 0).read(6).process_bytes is None


def test_the_state_names_what_holds_the_clocks_back():
    state = NvmlGpu(FakeNvml(), 0).state()
    assert state == GpuState(
        sm_clock_mhz=1755,
        memory_clock_mhz=2619,
        max_sm_clock_mhz=1755,
        throttle_reasons=("software_power_cap", "hardware_thermal"),
        temperature_c=41,
        power_limit_w=700,
        memory_total_bytes=1000,
    )
    assert NvmlGpu(FakeNvml(("nvmlDeviceGetCurrentClocksThrottleReasons",)), 0).state().throttle_reasons is None
    assert NullGpu().state() is None


def test_without_a_driver_the_monitor_says_that_there_is_no_gpu(monkeypatch):
    import pynvml

    def fail():
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", fail)
    gpu = open_gpu()
    assert isinstance(gpu, NullGpu)
    assert gpu.description == "no GPU"
    assert gpu.read(None) == GpuReading()


@pytest.mark.parametrize(
    ("count", "index", "why"),
    [
        (0, 0, "sees none; check nvidia-smi"),
        (2, 2, r"sees none of index 2 \(there are 2, from 0 on\); check nvidia-smi"),
        (2, -1, "sees none of index -1 "),
    ],
)
def test_an_index_that_no_gpu_has_is_named_with_how_many_there_are(monkeypatch, count, index, why):
    import pynvml

    closed = []
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: count)
    monkeypatch.setattr(pynvml, "nvmlShutdown", lambda: closed.append(True))
    gpu = open_gpu(index)
    assert closed == [True]
    with pytest.raises(UsageError, match=why):
        check_gpu("cuda", gpu)


def test_samples_count_from_the_arms_zero_and_hold_memory_and_flight(tmp_path):
    pulse = Pulse(zero_ns=0, in_flight=3, late_ns=deque([4, 9, 2]))
    taken = threading.Event()

    class Watching(NullGpu):
        reads = 0

        def read(self, pid):
            self.reads += 1
            if self.reads > Sampler.CPU_EVERY:
                taken.set()
            return GpuReading()

    path = tmp_path / "telemetry.jsonl"
    with Sampler(path, arm="fake", pulse=pulse, pid=os.getpid(), gpu=Watching()):
        assert taken.wait(30)
    samples = read_samples(path)
    assert len(samples) >= Sampler.CPU_EVERY
    assert samples[0].loop_lag_ns == 9
    assert samples[1].loop_lag_ns == 0
    assert {s.in_flight for s in samples} == {3}
    assert all(s.process_rss_bytes > 1e6 for s in samples)
    assert any(s.client_cpu_share is not None for s in samples)
    assert samples[0].gpu_memory_bytes is None


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a file that is always full")
def test_a_full_disk_is_told_at_the_end_of_the_block_and_hides_no_other_error():
    taken = threading.Event()

    class Watching(NullGpu):
        def read(self, pid):
            taken.set()
            return GpuReading()

    def sample_to_full_disk():
        return Sampler(Path("/dev/full"), arm="fake", pulse=Pulse(zero_ns=0), pid=None, gpu=Watching())

    with pytest.raises(OSError, match="No space left"), sample_to_full_disk():
        assert taken.wait(30)
    taken.clear()

    def fail():
        with sample_to_full_disk():
            assert taken.wait(30)
            raise ValueError("the block's own")

    with pytest.raises(ValueError, match="the block's own"):
        fail()


def test_nothing_is_sampled_before_the_zero(tmp_path):
    path = tmp_path / "telemetry.jsonl"
    with Sampler(path, arm="fake", pulse=Pulse(zero_ns=None), pid=None, gpu=NullGpu()):
        pass
    assert read_samples(path) == []
    assert read_samples(tmp_path / "missing") == []


def test_samples_say_now_and_then_what_holds_the_clocks_back(tmp_path):
    taken = threading.Event()

    class Held(NullGpu):
        def state(self):
            taken.set()
            return GpuState(sm_clock_mhz=1200, memory_clock_mhz=2600, throttle_reasons=("software_thermal",))

    path = tmp_path / "telemetry.jsonl"
    with Sampler(path, arm="fake", repeat=1, pulse=Pulse(zero_ns=0), pid=None, gpu=Held()):
        assert taken.wait(30)
    samples = read_samples(path)
    assert {s.repeat for s in samples} == {1}
    said = [s for s in samples if s.gpu_throttle is not None]
    # a dozen calls of the driver are too many for every sample
    assert len(said) == 1
    assert (said[0].gpu_sm_clock_mhz, said[0].gpu_memory_clock_mhz) == (1200, 2600)
    assert throttled_by(samples) == ("software_thermal",)
    assert throttled_share(samples) == 1.0


def test_where_nothing_says_why_clocks_are_low_the_share_is_undefined():
    assert throttled_share([Sample(t_ns=0, arm="fake")]) is None
    assert throttled_by([Sample(t_ns=0, arm="fake", gpu_throttle=("gpu_idle",))]) == ()
