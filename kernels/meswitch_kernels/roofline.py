"""`python -m meswitch_kernels.roofline FILE`: the benchmark's rows as a picture beside them, `FILE` with suffix `.svg`.

Operations per byte to the right, operations per second upwards; the slanted roof is the measured read bandwidth, the
flat one the measured rate of a large bfloat16 product. A point's distance from the roof is what is left to gain.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["draw_roofline", "main"]


def draw_roofline(rows: Sequence[Mapping[str, Any]], path: Path, *, read_bandwidth: float, matmul_rate: float) -> None:
    """Nothing; writes the picture to `path`.

    Args:
        rows: the benchmark's rows.
        read_bandwidth: bytes per second.
        matmul_rate: operations per second.

    Raises:
        ValueError: if there are no rows.
    """
    if not rows:
        raise ValueError("a roofline needs at least one row, got none")
    import matplotlib

    # no display is needed, nor taken
    matplotlib.use("agg")
    import pandas as pd
    import seaborn as sns
    from matplotlib import pyplot

    frame = pd.DataFrame(rows)
    operations = 2.0 * frame["B"] * frame["N"] * frame["K"]
    frame["operations per byte"] = operations / frame["bytes"]
    frame["operations per second"] = operations / (frame["time_us"] * 1e-6)
    frame["experts"] = frame["E"].astype(str)
    frame = frame.sort_values("E")
    sns.set_theme(style="whitegrid")
    figure, axes = pyplot.subplots()
    sns.scatterplot(
        frame,
        ax=axes,
        x="operations per byte",
        y="operations per second",
        hue="experts",
        style="kernel",
        palette="viridis",
    )
    low, high = frame["operations per byte"].min() / 2, max(frame["operations per byte"].max() * 2, 1.0)
    ridge = matmul_rate / read_bandwidth
    ends = sorted({low, min(max(ridge, low), high), high})
    axes.plot(ends, [min(x * read_bandwidth, matmul_rate) for x in ends], color="black", linewidth=1)
    axes.set(
        xscale="log", yscale="log", title=f"roof: {read_bandwidth / 1e12:.2f} TB/s, {matmul_rate / 1e12:.0f} TFLOP/s"
    )
    sns.move_legend(axes, "upper left", fontsize="small", bbox_to_anchor=(1.0, 1.0))
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    pyplot.close(figure)


def main(arguments: Sequence[str]) -> int:
    """Exit code 0; 1 with one line if the files are not there."""
    for name in arguments:
        path = Path(name)
        try:
            rows = json.loads(path.read_text(encoding="utf-8"))
            host = json.loads(path.with_suffix(".raw.jsonl").read_text(encoding="utf-8").splitlines()[0])
        except (OSError, IndexError) as error:
            print(f"error: {name}: {error}", file=sys.stderr)
            return 1
        roofs = {"read_bandwidth": host["read_bandwidth_bytes_per_s"], "matmul_rate": host["matmul_rate_per_s"]}
        draw_roofline(rows, path.with_suffix(".svg"), **roofs)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
