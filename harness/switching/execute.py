"""Measures the settings of a plan one after another, each in an engine of its own."""

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from harness.clock import Clock, MonotonicClock
from harness.drivers.base import Driver
from harness.drivers.local import LocalDrivers
from harness.engines import describe_engine
from harness.errors import DriverError, HarnessError
from harness.planning import describe_family, warm_page_cache
from harness.provenance import collect_provenance, python_command
from harness.records import RequestRecord
from harness.results import to_json_object
from harness.run import plain_stats, start_outcome
from harness.sweep.results import config_hash
from harness.switching.client import SwitchClient
from harness.switching.interference import measure_interference
from harness.switching.pairs import measure_pairs, measure_still
from harness.switching.plan import Setting, SwitchingPlan, plain_options
from harness.switching.results import SettingRecord, SwitchingDirectory, SwitchingManifest
from harness.telemetry import GpuMonitor, Sample, Sampler, read_samples
from harness.token_prompts import TokenPrompts
from meswitch.config import EngineConfig
from meswitch.errors import MeswitchError

__all__ = ["execute_switching", "host_to_device_bytes_per_s"]


def execute_switching(
    plan: SwitchingPlan,
    directory: SwitchingDirectory,
    *,
    gpu: GpuMonitor,
    bytes_per_s: float | None,
    clock: Clock | None = None,
    make_driver: Callable[[EngineConfig], Driver] | None = None,
    on_setting: Callable[[SettingRecord], None] = lambda record: None,
) -> None:
    """Measure every setting and write each as soon as it is there.

    Args:
        bytes_per_s: of copies from pinned host memory, measured on this machine.
        make_driver: of an engine; by default one process has them all, one after the other.
    """
    manifest = _manifest(plan, gpu, bytes_per_s)
    directory.write_manifest(manifest)
    session = _Session(plan, clock or MonotonicClock(), gpu, manifest.measurement)
    drivers = LocalDrivers()
    try:
        for setting in plan.settings:
            record, requests, samples = session.measure(setting, (make_driver or drivers)(setting.config))
            directory.write_setting(record, requests, samples)
            on_setting(record)
    finally:
        drivers.close()


def _manifest(plan: SwitchingPlan, gpu: GpuMonitor, bytes_per_s: float | None) -> SwitchingManifest:
    moment = datetime.now(UTC)
    manifest = SwitchingManifest(
        measurement="",
        created=moment.isoformat(timespec="seconds"),
        command=tuple(python_command()),
        provenance=to_json_object(collect_provenance(gpu, commit=plan.commit)),
        config=to_json_object(plain_options(plan)),
        family=describe_family(plan.prepared, checks_answers=False),
        host_to_device_bytes_per_s=bytes_per_s,
        settings=tuple(setting.name for setting in plan.settings),
    )
    return replace(manifest, measurement=config_hash({**asdict(manifest), "moment": moment.isoformat()}))


def host_to_device_bytes_per_s(index: int = 0) -> float:
    """`measure_host_to_device`, in a process of its own: the client's never imports torch.

    Raises:
        EngineError: there is no such GPU.
        DriverError: it does not copy.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(_bandwidth, index).result()
        except (RuntimeError, AssertionError, BrokenProcessPool) as error:
            raise DriverError(f"the bandwidth of GPU {index} cannot be measured: {error}") from error


def _bandwidth(index: int) -> float:
    from meswitch.config import DeviceConfig
    from meswitch.cuda.availability import check_device
    from meswitch.cuda.bandwidth import measure_host_to_device

    check_device(DeviceConfig(kind="cuda", index=index))
    return measure_host_to_device(index)


@dataclass(frozen=True, slots=True)
class _Session:
    plan: SwitchingPlan
    clock: Clock
    gpu: GpuMonitor
    measurement: str

    def measure(
        self, setting: Setting, driver: Driver
    ) -> tuple[SettingRecord, Sequence[RequestRecord], Sequence[Sample]]:
        """What became of a setting, its requests and its samples."""
        config = setting.config
        record = SettingRecord(
            name=setting.name,
            measurement=self.measurement,
            family=self.plan.prepared.family,
            arm=setting.arm,
            case=setting.case,
            expert_bytes=setting.expert_bytes,
            codec=setting.codec,
            outcome="ok",
            config=describe_engine(config),
            shared_images=_shared(config),
        )
        if setting.case == "disk":
            warm_page_cache([config.base, *config.experts.values()])
        requests: list[RequestRecord] = []
        try:
            driver.start()
            copies, samples = self._watched(setting, driver, requests)
            return replace(record, copies_ms=copies, stats=plain_stats(driver.stats())), requests, samples
        except (MeswitchError, HarnessError) as error:
            outcome = start_outcome(error) if isinstance(error, MeswitchError) else None
            return replace(record, outcome=outcome or "error", message=str(error)), requests, ()
        finally:
            driver.stop()

    def _watched(
        self, setting: Setting, driver: Driver, requests: list[RequestRecord]
    ) -> tuple[tuple[float | None, ...], list[Sample]]:
        """Times of the copies, and the samples of the machine from the client's zero to its end."""
        client = SwitchClient(
            driver=driver,
            clock=self.clock,
            arm=setting.arm,
            prompts=TokenPrompts(vocabulary=self.plan.prepared.vocabulary, seed=self.plan.options.seed),
        )
        with TemporaryDirectory() as folder:
            path = Path(folder) / "telemetry.jsonl"
            with Sampler(path, arm=setting.arm, pulse=client.pulse, pid=driver.pid, gpu=self.gpu):
                copies = _run(self.plan, setting, client, requests)
            length_ns = self.clock.now_ns() - client.zero_ns
            return copies, [sample for sample in read_samples(path) if sample.t_ns <= length_ns]


def _run(
    plan: SwitchingPlan, setting: Setting, client: SwitchClient, requests: list[RequestRecord]
) -> tuple[float | None, ...]:
    """Pairs first, with requests that need no switch on either side, then what they do to others; times of copies."""
    options = plan.options
    pinned, others = plan.experts[: options.streams], plan.experts[options.streams :]
    is_ours = setting.arm == "meswitch"
    # before and after, so that a machine that drifts favours neither
    if is_ours:
        requests += measure_still(client, pinned, options)
    pairs = measure_pairs(client, others, options)
    requests += [request for pair in pairs for request in (pair.miss, pair.hit)]
    if is_ours:
        requests += measure_still(client, pinned, options)
    if is_ours and setting.case == "host":
        requests += measure_interference(client, pinned=pinned, others=others, options=options)
    return tuple(pair.copy_ms for pair in pairs)


def _shared(config: EngineConfig) -> int:
    if config.synthetic is None or config.synthetic.host_images is None:
        return 0
    return max(len(config.experts) - config.synthetic.host_images, 0)
