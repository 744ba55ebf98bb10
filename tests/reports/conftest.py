"""Runs made by hand: records from a small seeded simulation, summarised by the harness as a real run would be."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.aggregation import rebuild_summary
from harness.records import RecordWriter, RequestRecord, SwitchRecord
from harness.results import ArmManifest, Manifest, RunDirectory
from harness.telemetry.sample import Sample, dump_sample
from workloads.trace import Slo

EXPERTS = ("arithmetic", "code", "dates", "grammar", "json", "roman", "sorting", "translation")
MIB = 1024**2
MS = 1_000_000
TREATMENT, BASELINE = "meswitch", "full-swap-disk"
WEIGHTS = {
    TREATMENT: {"base": 8 * MIB, "codes": 6 * MIB, "dense_cache": 16 * MIB, "router": 3 * MIB},
    BASELINE: {"experts": 32 * MIB, "router": 3 * MIB},
}
# milliseconds of a switch, share of right answers, experts resident at once
BEHAVIOUR = {TREATMENT: (3.0, 0.93, 6), BASELINE: (70.0, 0.94, 3)}


def simulated_records(arm: str, count: int, seed: int = 0) -> list[RequestRecord]:
    """One arm serving `count` requests one after the other, with a least-recently-used store."""
    switch_ms, right, slots = BEHAVIOUR[arm]
    chooser, noise = random.Random(seed), random.Random(f"{arm}/{seed}")
    resident: list[str] = []
    free_ns = 0
    records = []
    for index in range(count):
        scheduled_ns = index * 60 * MS
        wanted = EXPERTS[min(int(chooser.expovariate(0.45)), len(EXPERTS) - 1)]
        chosen = wanted if chooser.random() < 0.97 else chooser.choice(EXPERTS)
        start_ns = max(scheduled_ns + MS // 5, free_ns)
        ready_ns, switch = start_ns + 2 * MS, None
        if chosen not in resident:
            gone = (resident.pop(0),) if len(resident) == slots else ()
            took_ns = int(switch_ms * MS * noise.lognormvariate(0, 0.25))
            moved = (1 if arm == TREATMENT else 8) * MIB
            switch = SwitchRecord(
                expert=chosen,
                source="host" if arm == TREATMENT and chosen in EXPERTS[:4] else "disk",
                decided_ns=ready_ns,
                ready_ns=ready_ns + took_ns,
                moved_bytes=moved,
                evicted=gone,
            )
            ready_ns += took_ns
        else:
            resident.remove(chosen)
        resident.append(chosen)
        first_ns = ready_ns + int(9 * MS * noise.lognormvariate(0, 0.3))
        tokens = noise.randint(3, 12)
        last_ns = first_ns + tokens * 2 * MS
        free_ns = last_ns - tokens * MS
        correct = chosen == wanted and noise.random() < right
        records.append(
            RequestRecord(
                arm=arm,
                index=index,
                request_id=f"r{index:04d}",
                task=wanted,
                expert_wanted=wanted,
                expert_chosen=chosen,
                router_confidence=0.5 + noise.random() / 2,
                route_started_ns=start_ns,
                routed_ns=start_ns + 2 * MS,
                residency="resident" if switch is None else switch.source,
                switch=switch,
                scheduled_ns=scheduled_ns,
                sent_ns=scheduled_ns + MS // 5,
                admitted_ns=ready_ns,
                first_token_ns=first_ns,
                last_token_ns=last_ns,
                finished_ns=last_ns,
                chunks=((first_ns, 1), (last_ns, tokens)),
                input_tokens=30,
                output_tokens=tokens + 1,
                finish_reason="stop",
                outcome="ok",
                output=f"answer {index}" if correct else "nonsense",
                answer=f"answer {index}",
                verifier="exact",
                correct=correct,
                slo=Slo(ttft_ms=100.0, e2e_ms=400.0),
            )
        )
    return records


def failed(record: RequestRecord) -> RequestRecord:
    """The same request, had the engine refused it."""
    return RequestRecord(
        arm=record.arm,
        index=record.index,
        request_id=record.request_id,
        expert_wanted=record.expert_wanted,
        scheduled_ns=record.scheduled_ns,
        sent_ns=record.sent_ns,
        finished_ns=record.sent_ns,
        outcome="failed",
        error="EngineError",
        message="the engine stopped",
        answer=record.answer,
        verifier=record.verifier,
        correct=False,
        slo=record.slo,
    )


def arm_manifest(arm: str, order: int, experts: Sequence[str]) -> ArmManifest:
    """An arm as the harness writes it."""
    stats: dict[str, Any] = {"switches": 0, "evictions": 0, "moved_bytes": 0}
    after = {**stats, "weight_bytes": WEIGHTS[arm], "budget_bytes": 40 * MIB, "kv_bytes": 2 * MIB}
    return ArmManifest(
        name=arm,
        description="experts as 2-bit deltas" if arm == TREATMENT else "whole experts loaded on demand",
        order=order,
        page_cache="warm",
        config={"weights": "delta", "experts": {name: f"experts/{name}" for name in experts}},
        warm_up_requests=8,
        started="2026-11-22T05:00:00Z",
        startup_s=1.25,
        stats_before=stats,
        stats_after=after,
    )


def write_run(
    folder: Path,
    records: Sequence[RequestRecord],
    *,
    status: str = "complete",
    experts: Sequence[str] = EXPERTS,
    samples: bool = True,
    **family: Any,
) -> Path:
    """A run directory with these records, and its summary by the harness."""
    folder.mkdir(parents=True, exist_ok=True)
    run = RunDirectory(folder)
    arms = list(dict.fromkeys(r.arm for r in records))
    per_arm = max((sum(r.arm == arm for r in records) for arm in arms), default=0)
    manifest = Manifest(
        run_id="2026-11-22T05-00-00Z-3f9c",
        created="2026-11-22T05:00:00Z",
        status="complete" if status == "complete" else "partial",
        command=("harness", "run", "--trace", "mixed.jsonl"),
        provenance={"machine": "test", "cpu": "Example CPU 2.0 GHz", "cores": 2, "gpu": "no GPU", "python": "3.11"},
        config={"trace": "mixed.jsonl", "seed": 0},
        trace={"name": "mixed", "sha256": "0" * 64, "requests": per_arm},
        family={  # type: ignore[arg-type]
            "name": "pocket",
            "kind": "trained",
            "note": "a 2M-parameter teaching model; timings on a CPU say nothing about a GPU",
            "experts": len(experts),
            "model_bytes": 8 * MIB,
        }
        | family,
        arms=tuple(arm_manifest(arm, i, experts) for i, arm in enumerate(arms)),
    )
    run.write_manifest(manifest)
    with RecordWriter(run.requests) as writer:
        for record in records:
            writer.append(record)
    taken = [sample for arm in arms for sample in arm_samples(arm)] if samples else []
    run.telemetry.write_bytes(b"".join(map(dump_sample, taken)))
    rebuild_summary(folder)
    return folder


def arm_samples(arm: str) -> list[Sample]:
    """Five samples a second for a minute."""
    noise = random.Random(arm)
    return [
        Sample(
            t_ns=i * 200 * MS,
            arm=arm,
            process_rss_bytes=int((400 + 30 * noise.random()) * MIB),
            engine_cpu_share=0.6 + 0.3 * noise.random(),
            client_cpu_share=0.05 + 0.02 * noise.random(),
            loop_lag_ns=int(noise.random() * MS),
            in_flight=noise.randint(0, 4),
        )
        for i in range(300)
    ]


@pytest.fixture(scope="session")
def both_arms() -> list[RequestRecord]:
    """400 requests in each of two arms."""
    return [*simulated_records(TREATMENT, 400), *simulated_records(BASELINE, 400)]


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Writes records as a run directory named after its first argument."""

    def make(name: str, records: Sequence[RequestRecord], **options: Any) -> Path:
        return write_run(tmp_path / name, records, **options)

    return make


@pytest.fixture(scope="session")
def write() -> Callable[..., Path]:
    """`write_run`, for fixtures that outlive a test."""
    return write_run


@pytest.fixture(scope="session")
def fail() -> Callable[[RequestRecord], RequestRecord]:
    """`failed`: a request as the engine would have refused it."""
    return failed
