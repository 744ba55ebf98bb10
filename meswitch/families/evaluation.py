"""Measures a family and writes what was found: the figures, and every item behind them."""

import gzip
import json
import platform
from collections.abc import Callable, Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from meswitch.families.checkpoints import Checkpoints, family_hash
from meswitch.families.family import Family
from meswitch.families.quality import (
    EVALUATION_SEED,
    AnswerRecord,
    RouteRecord,
    answer_records,
    route_records,
)
from meswitch.families.quality_summary import answer_rows, confusion, route_rows

__all__ = ["SCHEMA", "evaluate_family"]

SCHEMA = "family-quality/1"

PACKAGES = ("meswitch", "torch", "transformers", "tokenizers")


def evaluate_family(
    family: Family,
    checkpoints: Checkpoints,
    output: Path,
    *,
    count: int,
    device: str,
    progress: Callable[[str, int, int], None],
) -> dict[str, object]:
    """The content of `output/family.json`, written there with `answers.jsonl.gz` and `routes.jsonl.gz` beside it.

    Args:
        family: what is measured.
        checkpoints: of the same family.
        output: a directory; old files of these names are replaced.
        count: test problems for each task.
        device: torch's name of it.
        progress: called with what is measured, the number of models measured or begun, and of all models.
    """
    parts, done = len(family.experts) + 1, set[str]()

    def move(what: str) -> None:
        done.add(what)
        progress(what, min(len(done), parts), parts)

    answers = list(answer_records(family, checkpoints, count, device, move))
    routes = list(route_records(family, checkpoints, count, device, move))
    result: dict[str, object] = {
        "schema": SCHEMA,
        "family": family.name,
        "provenance": provenance(family, count, device),
        "bytes": sizes(family),
        "answers": answer_rows(answers),
        "router": route_rows(routes),
        "confusion": confusion(routes),
    }
    output.mkdir(parents=True, exist_ok=True)
    write_records(output / "answers.jsonl.gz", answers)
    write_records(output / "routes.jsonl.gz", routes)
    (output / "family.json").write_text(json.dumps(result, indent=1) + "\n")
    return result


def provenance(family: Family, count: int, device: str) -> dict[str, object]:
    """What the figures depend on."""
    import torch

    return {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "family_hash": family_hash(family),
        "problems_per_task": count,
        "seed": EVALUATION_SEED,
        "split": "test",
        "decoding": "greedy, float32, at most 48 tokens",
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "platform": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: version_of(name) for name in PACKAGES},
    }


def version_of(package: str) -> str | None:
    """The version of an installed package."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def sizes(family: Family) -> dict[str, object]:
    """Bytes of the family's parts, as files and in memory."""
    from meswitch.format.reader import open_delta

    deltas = {name: expert.delta_dir for name, expert in family.experts.items()} | {"router": family.router_dir}
    opened = {name: open_delta(path, verify=False).manifest.nbytes for name, path in deltas.items()}
    return {
        "family_files": family.nbytes,
        "base_checkpoint": sum(p.stat().st_size for p in family.base_dir.glob("*.safetensors")),
        "deltas": {name: {"linears": n.linears, "whole": n.whole} for name, n in opened.items()},
    }


def write_records(path: Path, records: Iterable[AnswerRecord | RouteRecord]) -> None:
    """One JSON object a line, compressed; the same bytes for the same records."""
    lines = "".join(json.dumps(asdict(record)) + "\n" for record in records)
    # mtime 0: a rebuilt file differs only if a record does
    path.write_bytes(gzip.compress(lines.encode(), 9, mtime=0))
