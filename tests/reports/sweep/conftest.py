"""A sweep made by hand: ours holds its speed, a swap does not, whole models do not fit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.records import RequestRecord, SwitchRecord
from harness.sweep.cells import Cell
from harness.sweep.results import CellRecord, SweepDirectory, SweepManifest
from harness.telemetry.sample import Sample

MS, GIB = 1_000_000, 1 << 30
EXPERTS = (1, 4, 16, 64)
# milliseconds of a request, places on the device
BEHAVIOUR = {"meswitch": (100, 16), "full-swap-host": (700, 1), "all-resident": (100, 4)}


def _requests(arm: str, experts: int, switches: bool) -> list[RequestRecord]:
    length_ms, _ = BEHAVIOUR[arm]
    if not switches:
        length_ms = 100
    found = []
    for index, start_ms in enumerate(range(0, 20_000, length_ms)):
        start_ns = start_ms * MS
        # not all alike, as a swap's batches are not
        first_ns = start_ns + (length_ms // 4 + index % 3) * MS
        chunks = tuple((first_ns + i * length_ms * MS // 20, 1) for i in range(15))
        missed = switches and index % 2 == 0
        span = SwitchRecord(
            expert=f"e{index}",
            source="host",
            decided_ns=start_ns,
            ready_ns=start_ns + length_ms * MS // 8,
            moved_bytes=5,
        )
        found.append(
            RequestRecord(
                arm=arm,
                index=index,
                request_id=f"r{index}",
                expert_wanted=f"e{index % experts}",
                residency="host" if missed else "resident",
                switch=span if missed else None,
                scheduled_ns=start_ns,
                sent_ns=start_ns,
                first_token_ns=first_ns,
                last_token_ns=chunks[-1][0],
                finished_ns=chunks[-1][0],
                chunks=chunks,
                output_tokens=15,
                outcome="ok",
            )
        )
    return found


@pytest.fixture
def make_sweep(tmp_path: Path) -> Callable[..., Path]:
    """Writes a sweep's directory."""

    def make(*, arms: tuple[str, ...] = tuple(BEHAVIOUR), popularities: tuple[str, ...] = ("uniform",)) -> Path:
        directory = SweepDirectory(tmp_path / "sweep")
        directory.write_manifest(
            SweepManifest(
                created="2026-11-22T05:00:00+00:00",
                command=("harness", "sweep"),
                provenance={"gpu": "NVIDIA Example", "machine": "test"},
                config={"prompt_tokens": 512, "output_tokens": 15},
                configuration="c",
                family={"name": "mistral-7b", "kind": "shapes only", "note": "random weights", "codec": "rtn:bits=2"},
            )
        )
        for arm in arms:
            for experts in EXPERTS:
                for popularity in popularities:
                    _write(directory, arm, experts, popularity)
        return directory.path

    return make


def _write(directory: SweepDirectory, arm: str, experts: int, popularity: str) -> None:
    cell = Cell(
        arm=arm,
        experts=experts,
        policy="lru",
        popularity=popularity,
        in_flight=16,
        rate_per_s=None,
        budget_bytes=76 * GIB,
    )
    fields: dict[str, Any] = {
        "key": cell.key,
        "config_hash": "h",
        "configuration": "c",
        "family": "mistral-7b",
        "codec": "rtn:bits=2",
        "prompt_tokens": 512,
        "output_tokens": 15,
        "cell": cell,
        "config": {"weights": "delta" if arm == "meswitch" else "full"},
        "started": "now",
        "shared_images": max(experts - 32, 0),
    }
    slots = min(BEHAVIOUR[arm][1], experts)
    if arm == "all-resident" and experts > slots:
        directory.write_cell(CellRecord(**fields, outcome="does-not-fit", message="232 GB do not fit"))
        return
    requests = _requests(arm, experts, switches=experts > slots)
    used = 16 + slots * (2 if arm == "meswitch" else 14)
    samples = [Sample(t_ns=i * 1000 * MS, arm=arm, gpu_memory_bytes=(used + 1) * GIB) for i in range(10)]
    record = CellRecord(
        **fields,
        outcome="ok",
        window_ns=(2_000 * MS, 18_000 * MS),
        settled=True,
        touched=tuple(f"e{n}" for n in range(slots)),
        sequence=tuple(r.expert_wanted or "" for r in requests),
        stats_after={"slots": slots, "weight_bytes": {"base": used << 30}},
        gpu_before_bytes=GIB,
    )
    directory.write_cell(record, requests, samples)
