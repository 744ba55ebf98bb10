"""How long the compression of one expert takes, and how much memory, by the number of its layers.

What was measured with a few layers is carried on to the model's own depth by a straight line. That row is a projection
and says so.
"""

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.compression.synthetic import SyntheticPair, write_pair, write_texts
from harness.compression.watch import Watched, watch
from harness.errors import UsageError
from harness.flat_table import FlatRow, FlatTable
from harness.provenance import collect_provenance
from harness.sizes import format_bytes
from harness.telemetry import open_gpu
from meswitch.compress_config import torch_device
from meswitch.families import load_shape_family

__all__ = ["COLUMNS", "KEY", "CompressionOptions", "measure_compression", "projection"]

GIB = 2**30
TIMES_FILE = "times.json"
COLUMNS = (
    "family",
    "layers",
    "device",
    "threads",
    "linear",
    "texts",
    "tokens",
    "kind",
    "seconds",
    "cpu_seconds",
    "seconds_per_layer",
    "peak_anonymous_bytes",
    "limit_bytes",
    "largest_tensor_bytes",
    "model_bytes",
    "expert_bytes",
)
KEY = ("family", "layers", "device", "threads", "linear", "texts", "tokens", "kind")


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressionOptions:
    """What is measured.

    Attributes:
        family: a shape's name, or the path of a Hugging Face config.
        layers: one measurement of each; from two on, the model's own depth is projected.
        texts, tokens: calibration texts and the tokens of each; none without calibration.
        threads: that torch may use.
        scratch: where checkpoints are written and removed; the system's place if absent.
        time_limit_s: after which a compression is killed.
    """

    family: str
    layers: tuple[int, ...]
    linear: str
    embedding: str
    head: str
    device: str = "cpu"
    threads: int = 2
    texts: int = 0
    tokens: int = 0
    seed: int = 0
    scratch: Path | None = None
    time_limit_s: float | None = None

    def __post_init__(self) -> None:
        if not self.layers or min(self.layers) < 1 or len(set(self.layers)) < len(self.layers):
            raise UsageError(f"--layers must be different numbers of at least 1, got {list(self.layers)}")
        if self.threads < 1:
            raise UsageError(f"--threads must be at least 1, got {self.threads}")
        if (self.texts > 0) != (self.tokens > 0) or self.texts < 0:
            raise UsageError(f"--texts and --tokens must both be positive or both 0, got {self.texts}, {self.tokens}")


def measure_compression(options: CompressionOptions, path: Path | None, say: Callable[[str], None]) -> list[FlatRow]:
    """The rows of the table at `path`, after measuring what it lacks.

    Raises:
        MeswitchError, HarnessError: the family is unknown, or a compression failed.
    """
    # before anything is written
    torch_device(options.device)
    depth = int(load_shape_family(options.family).config.num_hidden_layers)
    table = FlatTable(path, columns=COLUMNS, key=KEY)
    for layers in options.layers:
        if key_of(options, layers, "measured") in table:
            say(f"{layers} layers: the row is in {path}")
            continue
        row, raw = measured(options, layers, say)
        table.add([row], raw=raw)
        say(sentence(row))
    rows = [row for row in table.rows if row["kind"] == "measured" and belongs(row, options)]
    if len(rows) > 1:
        projected = projection(rows, depth)
        table.add([projected], raw={"projected_from": [row["layers"] for row in rows], "row": projected})
        say(sentence(projected))
    return table.rows


def key_of(options: CompressionOptions, layers: int, kind: str) -> Mapping[str, str | int]:
    """What tells a row from all others."""
    return {
        "family": options.family,
        "layers": layers,
        "device": options.device,
        "threads": options.threads,
        "linear": options.linear,
        "texts": options.texts,
        "tokens": options.tokens,
        "kind": kind,
    }


def belongs(row: FlatRow, options: CompressionOptions) -> bool:
    """Whether a row is of these options, whatever its depth."""
    layers = row["layers"]
    assert isinstance(layers, int)
    return all(row[name] == value for name, value in key_of(options, layers, "measured").items())


def measured(
    options: CompressionOptions, layers: int, say: Callable[[str], None]
) -> tuple[FlatRow, Mapping[str, object]]:
    """The row of one depth, and its raw record."""
    if options.scratch is not None:
        options.scratch.mkdir(parents=True, exist_ok=True)
    root = Path(tempfile.mkdtemp(prefix="harness-compression-", dir=options.scratch))
    try:
        say(f"{layers} layers: drawing and writing base and expert")
        started, config_dir = time.monotonic(), load_shape_family(options.family).config_dir
        pair = write_pair(root, config_dir, layers=layers, seed=options.seed, device=options.device)
        written_s = time.monotonic() - started
        say(f"{layers} layers: 2 × {format_bytes(pair.model_bytes)} written in {written_s:.1f} s; compressing")
        found = watch(compress_command(options, pair, root), environment(options, root), limit_s=options.time_limit_s)
        manifest, phases = json.loads(found.output), json.loads((root / TIMES_FILE).read_text())
        counts = manifest["nbytes"]
        say(f"{layers} layers: {phases_sentence(found.seconds, phases)}")
    finally:
        shutil.rmtree(root)
    row = row_of(options, layers, pair, found, counts["whole"])
    raw = {
        "options": {**asdict(options), "scratch": None},
        "written_seconds": round(written_s, 2),
        "watched": {**asdict(found), "output": None},
        "phases": phases,
        "nbytes": counts,
        "bits_per_weight": manifest["bits_per_weight"],
        "load_average": os.getloadavg(),
        "provenance": collect_provenance(open_gpu()),
    }
    return row, raw


def compress_command(options: CompressionOptions, pair: SyntheticPair, root: Path) -> Sequence[str]:
    """The command that compresses the pair, as a user would."""
    codecs = ["--linear", options.linear, "--embedding", options.embedding, "--head", options.head]
    command = [sys.executable, "-m", "meswitch", "compress", "--base", str(pair.base), "--expert"]
    command += [str(pair.expert), "--name", "synthetic", "--output", str(root / "delta"), *codecs, "--json"]
    if options.texts:
        write_texts(root / "texts.txt", texts=options.texts, tokens=options.tokens, seed=options.seed)
        command += ["--calibration", str(root / "texts.txt")]
    return [*command, "--device", options.device, "--times", str(root / TIMES_FILE)]


def environment(options: CompressionOptions, root: Path) -> Mapping[str, str]:
    """This process's environment with the threads that were asked for, and nothing known from earlier runs."""
    threads = str(options.threads)
    return {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "MESWITCH_HOME": str(root / "home")}


def row_of(options: CompressionOptions, layers: int, pair: SyntheticPair, found: Watched, expert_bytes: int) -> FlatRow:
    """The published row of one measurement."""
    return {
        **key_of(options, layers, "measured"),
        "seconds": round(found.seconds, 2),
        "cpu_seconds": round(found.cpu_seconds, 2),
        "seconds_per_layer": None,
        "peak_anonymous_bytes": found.peak_anonymous_bytes,
        "limit_bytes": 4 * pair.largest_tensor_bytes + 2 * GIB,
        "largest_tensor_bytes": pair.largest_tensor_bytes,
        "model_bytes": pair.model_bytes,
        "expert_bytes": expert_bytes,
    }


def projection(rows: Sequence[FlatRow], depth: int) -> FlatRow:
    """What the line through `rows` (least squares over their layers) gives at `depth` layers; memory is not projected.

    Raises:
        ValueError: all rows are of one depth.
    """
    layers = [number(row, "layers") for row in rows]
    lines = {name: line(layers, [number(row, name) for row in rows]) for name in PROJECTED}
    values = {name: intercept + slope * depth for name, (intercept, slope) in lines.items()}
    return {
        **{name: rows[0][name] for name in KEY},
        "layers": depth,
        "kind": "projection",
        "seconds": round(values["seconds"], 2),
        "cpu_seconds": round(values["cpu_seconds"], 2),
        "seconds_per_layer": round(lines["seconds"][1], 3),
        "peak_anonymous_bytes": None,
        "limit_bytes": rows[0]["limit_bytes"],
        "largest_tensor_bytes": rows[0]["largest_tensor_bytes"],
        "model_bytes": round(values["model_bytes"]),
        "expert_bytes": round(values["expert_bytes"]),
    }


PROJECTED = ("seconds", "cpu_seconds", "model_bytes", "expert_bytes")


def number(row: FlatRow, name: str) -> float:
    """A figure of a measured row."""
    value = row[name]
    assert isinstance(value, int | float)
    return float(value)


def line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Intercept and slope of the least-squares line.

    Raises:
        ValueError: all `x` are equal.
    """
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    spread = sum((a - mean_x) ** 2 for a in x)
    if not spread:
        raise ValueError(f"a line needs two different depths, got {x[0]:g} only")
    slope = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / spread
    return mean_y - slope * mean_x, slope


def phases_sentence(seconds: float, phases: Mapping[str, float]) -> str:
    """Where a compression's seconds went, for a person; what stands in no phase is starting Python, and waiting."""
    apart = ("total", "workers_read", "workers_compress")
    turns = ", ".join(f"{name} {taken:.1f}" for name, taken in phases.items() if name not in apart)
    read, compress = (phases.get(name, 0.0) for name in apart[1:])
    return (
        f"{seconds:.1f} s, {seconds - phases['identify']:.1f} s after the first reading of the disk; in turn: start "
        f"{seconds - phases['total']:.1f}, {turns}; threads meanwhile: read {read:.1f}, compress {compress:.1f}"
    )


def sentence(row: FlatRow) -> str:
    """The row for a person."""
    head = f"{row['layers']} layers, {row['kind']}: {row['seconds']} s ({row['cpu_seconds']} s of processor time)"
    peak, limit = row["peak_anonymous_bytes"], row["limit_bytes"]
    if not isinstance(peak, int) or not isinstance(limit, int):
        return head
    return f"{head}, {peak / GIB:.2f} GiB anonymous of the {limit / GIB:.2f} GiB allowed"
