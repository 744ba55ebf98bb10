"""A thread that samples the machine while an arm runs."""

import threading
import time
from pathlib import Path
from typing import IO

import psutil

from harness.loadgen import Pulse
from harness.telemetry.gpu import GpuMonitor
from harness.telemetry.sample import Sample, dump_sample

__all__ = ["Sampler"]


class _Cpu:
    """Shares of one core between readings of a process."""

    def __init__(self, process: psutil.Process) -> None:
        self._process = process
        self._before = self._read()

    def share(self) -> float | None:
        """Processor time per wall time since the last call."""
        before, self._before = self._before, self._read()
        wall_s = self._before[1] - before[1]
        return (self._before[0] - before[0]) / wall_s if wall_s > 0 else None

    def _read(self) -> tuple[float, float]:
        times = self._process.cpu_times()
        return times.user + times.system, time.monotonic()


class Sampler:
    """Samples `PERIOD_S` apart while its `with` block runs, written to `path` (appended).

    Args:
        arm, repeat: what is running.
        pulse: of the load generator; its zero is the samples' zero.
        pid: of the engine, `None` if it has no process of its own.

    Raises:
        OSError: at the end of the block, if the disk refused a sample and the block itself did not fail.
    """

    # a little above 20 Hz
    PERIOD_S = 0.045
    # processor times of the kernel advance in steps of 10 ms: shares over less are noise
    CPU_EVERY = 10

    def __init__(
        self, path: Path, *, arm: str, pulse: Pulse, pid: int | None, gpu: GpuMonitor, repeat: int = 0
    ) -> None:
        self._path = path
        self._arm = arm
        self._repeat = repeat
        self._pulse = pulse
        self._gpu = gpu
        self._pid = pid
        self._client = psutil.Process()
        self._engine = psutil.Process(pid) if pid is not None else None
        self._refused: OSError | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="telemetry", daemon=True)

    def __enter__(self) -> "Sampler":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._refused is not None and kind is None:
            raise self._refused

    def _run(self) -> None:
        try:
            self._write_samples()
        except OSError as error:
            # a thread cannot raise where anyone would see it
            self._refused = error

    def _write_samples(self) -> None:
        client, engine = _Cpu(self._client), self._engine_cpu()
        due_s = time.monotonic()
        with self._path.open("ab") as file:
            for count in range(1, 1 << 62):
                due_s = max(due_s + self.PERIOD_S, time.monotonic())
                if self._stop.wait(max(due_s - time.monotonic(), 0)):
                    break
                with_cpu = count % self.CPU_EVERY == 0
                self._sample(file, due_s, client if with_cpu else None, engine if with_cpu else None)
                if with_cpu:
                    file.flush()

    def _sample(self, file: IO[bytes], due_s: float, client: _Cpu | None, engine: _Cpu | None) -> None:
        zero_ns = self._pulse.zero_ns
        now_ns = time.monotonic_ns()
        if zero_ns is None or now_ns < zero_ns:
            return
        gpu = self._gpu.read(self._pid)
        # a dozen calls of the driver: not with every sample
        state = self._gpu.state() if client is not None else None
        sample = Sample(
            t_ns=now_ns - zero_ns,
            arm=self._arm,
            repeat=self._repeat,
            process_rss_bytes=self._engine_rss(),
            engine_cpu_share=_share(engine),
            client_rss_bytes=self._client.memory_info().rss,
            client_cpu_share=_share(client),
            loop_lag_ns=self._pulse.take_late_ns(),
            sampler_lag_ns=max(now_ns - round(due_s * 1e9), 0),
            in_flight=self._pulse.in_flight,
            gpu_memory_bytes=gpu.memory_bytes,
            gpu_process_bytes=gpu.process_bytes,
            gpu_utilisation=gpu.utilisation,
            gpu_power_w=gpu.power_w,
            gpu_energy_j=gpu.energy_j,
            gpu_sm_clock_mhz=state.sm_clock_mhz if state else None,
            gpu_memory_clock_mhz=state.memory_clock_mhz if state else None,
            gpu_throttle=state.throttle_reasons if state else None,
        )
        file.write(dump_sample(sample))

    def _engine_cpu(self) -> _Cpu | None:
        try:
            return _Cpu(self._engine) if self._engine else None
        except psutil.Error:
            return None

    def _engine_rss(self) -> int | None:
        try:
            return int(self._engine.memory_info().rss) if self._engine else None
        except psutil.Error:
            # it has just ended
            return None


def _share(cpu: _Cpu | None) -> float | None:
    if cpu is None:
        return None
    try:
        return cpu.share()
    except psutil.Error:
        return None
