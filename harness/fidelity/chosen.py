"""Which codec linears got where one was chosen for each: a table for each arm, by kind of projection."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.fidelity.scores import Record, Search, read_records
from harness.results import write_atomic
from meswitch.codecs import shown_spec

__all__ = ["kind_of", "markdown", "rebuild_chosen"]


def rebuild_chosen(output: Path) -> str | None:
    """The tables of all records below `output`, as `chosen.md` holds them; `None`, and no file, where none was chosen.

    Raises:
        RunFormatError: a record is damaged.
        UsageError: there are none.
    """
    records = [record for record in read_records(output) if record.chosen is not None and not record.gain_matched]
    if not records:
        return None
    text = markdown(records)
    write_atomic(output / "chosen.md", text.encode())
    return text


def kind_of(parameter: str) -> str:
    """What a linear is in its layer: `q_proj` of `model.layers.0.self_attn.q_proj.weight`."""
    parts = parameter.split(".")
    return parts[-2] if len(parts) > 1 else parameter


def markdown(records: Sequence[Record]) -> str:
    """A table for each arm of `records`, which are of one family and have chosen codecs."""
    parts = [
        f"# {records[0].family}: the codecs that were chosen",
        "Made by `harness quality` from `records/`, which name the codec of every linear; `--rebuild` makes it again. "
        "Linears of an expert that got a codec, by kind of projection, mean over experts.",
    ]
    for arm in dict.fromkeys(record.arm for record in sorted(records, key=order)):
        of_arm = [record for record in records if record.arm == arm]
        parts += [f"## `{arm}`", table(of_arm), *searched(of_arm)]
    return "\n\n".join(parts) + "\n"


def order(record: Record) -> tuple[float, str]:
    """Few bits first."""
    return float((record.options or {}).get("bits", 0.0)), record.arm


def table(records: Sequence[Record]) -> str:
    """Codecs, the most frequent first, by kinds."""
    counts: Counter[tuple[str, str]] = Counter()
    kinds: dict[str, None] = {}
    for record in records:
        assert record.chosen is not None
        kinds |= dict.fromkeys(map(kind_of, record.chosen.codecs))
        counts.update((spec, kind_of(name)) for name, spec in record.chosen.codecs.items())
    totals = Counter({spec: 0 for spec, _ in counts})
    for (spec, _), count in counts.items():
        totals[spec] += count
    lines = [f"| codec | {' | '.join(kinds)} | all |", f"| --- |{' ---: |' * (len(kinds) + 1)}"]
    for spec, total in totals.most_common():
        cells = [f"{count / len(records):.1f}" for count in (*(counts[spec, kind] for kind in kinds), total)]
        lines.append(f"| `{shown_spec(spec)}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def searched(records: Sequence[Record]) -> Iterator[str]:
    """What searches came to on the items that they saw; nothing where there was none."""
    found = [(r.task, r.seed, r.chosen.search) for r in records if r.chosen is not None and r.chosen.search is not None]
    if found:
        yield "KL on the items that the search saw: " + "; ".join(_search(*one) for one in found) + "."


def _search(task: str, seed: int, search: Search) -> str:
    return f"{task}, seed {seed}, {search.start:.3g} before {search.generations} generations, {search.found:.3g} after"
