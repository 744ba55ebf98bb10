"""What may be said of a sweep, in sentences: claims where intervals lie apart, and what did not fit."""

from collections.abc import Iterator, Mapping, Sequence

from harness.claims import claim_apart
from harness.sweep.rows import SweepRow
from harness.units import format_bytes, format_plural
from reports.sweep.source import SweepSource
from reports.sweep.versus import largest_common, tokens_per_s

__all__ = ["caveats", "sweep_sentences"]


def sweep_sentences(source: SweepSource) -> list[str]:
    """The throughput of the treatment against the best swap, slice by slice, and what memory did not hold."""
    sentences: list[str] = []
    for part in source.slices:
        compared = _compared(part.rows, source.treatment)
        if compared:
            sentences.append(f"{part.title}: {compared}")
    return [*sentences, *_limits(source)]


def caveats(source: SweepSource) -> list[str]:
    """What a reader must know before any figure."""
    family = source.manifest.family
    found = [f"{family.get('name')}: {family.get('kind')}; {family.get('note')}"]
    shared = max((row.shared_images for row in source.rows), default=0)
    if shared:
        found.append(
            f"shared host buffers: up to {shared} experts share their place in host memory with another, where it "
            "cannot hold all of them; their bytes are really moved, but not from memory of their own"
        )
    if source.left_out:
        found.append(
            f"{format_plural(source.left_out, 'cell')} of another family, codec, workload or engine left out: "
            "only cells of the last call's configuration are compared"
        )
    found += _several("card", source.cards) + _several("commit", source.commits)
    unsettled = sum(row.outcome == "ok" and not row.settled for row in source.rows)
    if unsettled:
        found.append(
            f"{format_plural(unsettled, 'cell')} had not settled when the measurement began: first tokens are left out"
        )
    found += _at_power_limit(source.rows)
    unused = [row for row in source.rows if row.outcome == "ok" and not row.valid]
    for row in unused:
        found.append(f"not used: {row.arm}, {row.experts} experts, {row.popularity}: {'; '.join(row.reasons)}")
    return found


def _several(noun: str, counts: Mapping[str, int]) -> list[str]:
    """That cells of more than one `noun` are shown together, and how many of each."""
    if len(counts) < 2:
        return []
    named = ", ".join(f"{name} ({format_plural(count, 'cell')})" for name, count in counts.items())
    return [f"cells of more than one {noun} are compared here: {named}"]


def _at_power_limit(rows: Sequence[SweepRow]) -> list[str]:
    """How often the card drew what it may, and what that did to its clock."""
    limited = [row for row in rows if row.power_limited_share]
    if not limited:
        return []
    share = max(row.power_limited_share or 0.0 for row in limited)
    clocks = [row.sm_clock_mhz for row in limited if row.sm_clock_mhz is not None]
    lowest = f"; its clock was {min(clocks):,} MHz at the lowest" if clocks else ""
    return [
        f"in {format_plural(len(limited), 'cell')} the GPU drew as much power as it may, in up to {share:.0%} of the "
        f"samples{lowest}"
    ]


def _compared(rows: Sequence[SweepRow], treatment: str) -> str:
    """With the best swap at the largest number of experts at which one was measured."""
    swaps = sorted({row.arm for row in rows if row.arm.startswith("full-swap")})
    pairs = [pair for arm in swaps if (pair := largest_common(rows, treatment, arm)) is not None]
    if not pairs:
        return ""
    ours, best = max(pairs, key=lambda pair: (pair[0].experts, pair[1].output_tokens_per_s or 0.0))
    claim = claim_apart(tokens_per_s(ours), tokens_per_s(best), lower="fewer", higher="more")
    return f"with {format_plural(ours.experts, 'expert')}, output tokens/s against {best.arm}: {claim.text}"


def _limits(source: SweepSource) -> Iterator[str]:
    lost: dict[tuple[str, int], int] = {}
    for row in source.rows:
        if row.outcome in ("does-not-fit", "oom"):
            key = row.arm, row.memory_budget_bytes
            lost[key] = min(lost.get(key, row.experts), row.experts)
    for (arm, budget), experts in sorted(lost.items()):
        yield f"{arm} does not hold {format_plural(experts, 'expert')} within {format_bytes(budget)}"
