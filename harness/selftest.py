"""The client against a system whose latencies are exactly known, on the real clock."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from harness.aggregation import summarise
from harness.clock import MonotonicClock
from harness.drivers.fake import FakeDriver, FakePlan
from harness.errors import UsageError
from harness.results import Manifest, new_run_id
from harness.run import ArmPlan, RunPlan, execute
from harness.schedule import build_schedule
from harness.summary import ArmSummary, Estimate
from harness.telemetry import NullGpu
from meswitch.core import GenerationRequest, Residency
from workloads.trace import Trace, TraceHeader, TraceRequest

__all__ = ["Check", "SelftestOptions", "run_selftest"]

TOLERANCE_S = 0.001
TOLERANCE = 0.01

RESIDENT_NS, SWITCHED_NS, GAP_NS, ROUTE_NS, SWITCH_NS = 20_000_000, 60_000_000, 5_000_000, 4_000_000, 30_000_000
TOKENS = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class SelftestOptions:
    """How hard to try: the rate decides how busy the client is."""

    requests: int = 200
    rate_per_s: float = 100.0

    def __post_init__(self) -> None:
        if self.requests < 40 or self.rate_per_s <= 0:
            raise UsageError(
                f"a self-test needs at least 40 requests and a positive rate, got {self.requests} at {self.rate_per_s}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One figure, known and measured; `None` where it came out undefined."""

    name: str
    known: float
    measured: float | None
    seconds: bool

    @property
    def passed(self) -> bool:
        """Within 1 ms (of a time) or 1 %, whichever is more."""
        if self.measured is None:
            return False
        allowed = max(TOLERANCE * abs(self.known), TOLERANCE_S if self.seconds else 0)
        return abs(self.measured - self.known) <= allowed

    def show(self, value: float | None) -> str:
        """The value with its unit."""
        if value is None:
            return "undefined"
        return f"{value * 1e3:.3f} ms" if self.seconds else f"{value:.4g}"


def run_selftest(options: SelftestOptions) -> list[Check]:
    """Each figure of a run against a fake system, beside what it must be."""
    trace = _trace(options)
    clock = MonotonicClock()
    arm = ArmPlan(
        name="fake",
        description="known latencies",
        page_cache="none",
        config={},
        make_driver=lambda: FakeDriver(_plan, clock),
    )
    plan = RunPlan(
        manifest=Manifest(
            run_id=new_run_id(),
            created="",
            status="partial",
            command=(),
            provenance={},
            config={},
            trace={"name": "selftest", "requests": options.requests},
            family={"name": "fake"},
        ),
        schedule=build_schedule(trace, router="tag", experts=("a", "b")),
        arms=[arm],
    )
    with tempfile.TemporaryDirectory() as folder:
        run, _ = execute(plan, Path(folder), clock=clock, gpu=NullGpu())
        summary = summarise(run.path)
    return [*_checks(summary.arms["fake"], options), _validity(summary.valid)]


def _trace(options: SelftestOptions) -> Trace:
    gap_ms = 1000 / options.rate_per_s
    requests = tuple(
        TraceRequest(
            id=f"s{i}",
            t_ms=i * gap_ms,
            prompt="x",
            # every fourth request waits for a switch, every fifth is answered wrongly
            expert="b" if i % 4 == 3 else "a",
            answer="wrong" if i % 5 == 4 else "t" * TOKENS,
            verifier="exact",
        )
        for i in range(options.requests)
    )
    return Trace(header=TraceHeader(name="selftest"), requests=requests, sha256="")


def _plan(request: GenerationRequest) -> FakePlan:
    switched = request.expert == "b"
    return FakePlan(
        expert=request.expert,
        first_token_ns=SWITCHED_NS if switched else RESIDENT_NS,
        gap_ns=GAP_NS,
        tokens=("t",) * TOKENS,
        route_ns=ROUTE_NS,
        switch_ns=SWITCH_NS if switched else 0,
        source=Residency.DISK if switched else Residency.RESIDENT,
        moved_bytes=1000 if switched else 0,
    )


def _checks(arm: ArmSummary, options: SelftestOptions) -> list[Check]:
    n = options.requests
    window_s = (n - 1) / options.rate_per_s
    right = n - n // 5

    def seconds(name: str, known_ns: int, measured: Estimate | None) -> Check:
        return Check(name=name, known=known_ns / 1e9, measured=_value(measured), seconds=True)

    def plain(name: str, known: float, measured: float | None) -> Check:
        return Check(name=name, known=known, measured=measured, seconds=False)

    classes, last_ns = arm.ttft_s_by_class, (TOKENS - 1) * GAP_NS
    return [
        seconds("TTFT p50, resident", RESIDENT_NS, classes["resident"].p50),
        seconds("TTFT p90, resident", RESIDENT_NS, classes["resident"].p90),
        seconds("TTFT p50, after a switch", SWITCHED_NS, classes["disk"].p50),
        seconds("TPOT p50", GAP_NS, arm.tpot_s.p50),
        seconds("E2E p50", RESIDENT_NS + last_ns, arm.e2e_s.p50),
        seconds("routing p50", ROUTE_NS, arm.route_s.p50),
        seconds("switch p50", SWITCH_NS, arm.switch_s["disk"].p50),
        plain("requests answered", n, arm.requests.ok),
        plain("switches", n // 4, arm.switches),
        plain("bytes moved", 1000 * (n // 4), arm.moved_bytes),
        plain("accuracy", right / n, _value(arm.accuracy)),
        plain("correct goodput /s", right / window_s, _value(arm.correct_goodput_per_s)),
        plain("goodput /s", n / window_s, _value(arm.goodput_per_s)),
        plain("output tokens", n * TOKENS, arm.output_tokens),
    ]


def _validity(valid: bool) -> Check:
    return Check(name="the run is valid", known=1, measured=float(valid), seconds=False)


def _value(estimate: Estimate | None) -> float | None:
    return estimate.value if estimate else None
