"""The published tables of a fidelity report, as Markdown, and the table that its figure is drawn from."""

from collections.abc import Iterator, Sequence

import pandas as pd

from harness.fidelity.allocated import parse_allocated
from harness.fidelity.means import REFERENCE, ArmMean, Budget, Comparison, label_of
from harness.fidelity.rebuild import FidelityReport, TaskEnds
from harness.summary import Estimate
from meswitch.codecs import parse_codec, short_spec

__all__ = ["figure_table", "how_many", "markdown", "shown_label", "shown_name"]


MATCHED = ", gain-matched"


def markdown(report: FidelityReport) -> str:
    """All tables of the report."""
    parts = [
        f"# {report.family}: how near compressed experts stay to the experts",
        "Made by `harness quality` from `records/`; `--rebuild` makes it again. KL (nats of a token) and agreement are "
        "against the expert itself, over the answers to test items of its own task. "
        f"Intervals: {report.methods['interval']}. A is `{REFERENCE}`, B the same, gain-matched. MB are of the whole "
        "expert, with everything that is not linear in 16 bits. Bold: on the front of bits and KL.",
        "## Experts",
        ends_table(report.tasks),
        *section("Arms, mean of the scored tasks and all seeds", report.means, report.comparisons),
        *budgets("Best within some bits", report.budgets),
        *pairs("Side by side", report.pairs),
        *section(f"More arms, {how_many(report.more_arms)}", report.more_arms, report.comparisons_more_arms),
        *budgets(f"Best within some bits, {how_many(report.more_arms)}", report.budgets_more_arms),
        *pairs(f"Side by side, {how_many(report.more_arms)}", report.pairs_more_arms),
        *section("Tasks compared by likelihood", report.by_likelihood),
        *pairs("Side by side, tasks compared by likelihood", report.pairs_by_likelihood),
        *section("Experts at half of their training", report.half),
    ]
    return "\n\n".join(parts) + "\n"


def section(title: str, means: Sequence[ArmMean], comparisons: Sequence[Comparison] = ()) -> Iterator[str]:
    """A heading and a table; nothing of no arms."""
    if means:
        yield f"## {title}"
        yield arms_table(means, comparisons)


def budgets(title: str, found: Sequence[Budget]) -> Iterator[str]:
    """A heading and a table; nothing of no budgets."""
    if not found:
        return
    lines = ["| bits at most | least KL | KL [95 %] | not told apart from it |", "| ---: | --- | ---: | --- |"]
    for budget in found:
        others = ", ".join(f"`{shown_arm(arm)}`" for arm in budget.not_told_apart) or "none"
        lines.append(f"| {budget.bits:g} | `{shown_arm(budget.best)}` | {interval(budget.kl, '.5f')} | {others} |")
    yield f"## {title}"
    yield "\n".join(lines)


def how_many(means: Sequence[ArmMean]) -> str:
    """How many experts have arms that not all have."""
    return f"of the {means[0].experts} experts that have them" if means else ""


def pairs(title: str, found: Sequence[Comparison]) -> Iterator[str]:
    """A heading and a table; nothing of no pairs."""
    if not found:
        return
    lines = [
        "| arm | beside | KL ÷ [95 %] | agreement, points more [95 %] | right answers, points more [95 %] |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for pair in found:
        names = (shown_label(name) for name in (pair.arm, pair.reference))
        agreement, accuracy = (
            interval(points(change), ".2f") for change in (pair.agreement_change, pair.accuracy_change)
        )
        lines.append(f"| {' | '.join(names)} | {interval(pair.kl_ratio, '.2f')} | {agreement} | {accuracy} |")
    yield f"## {title}"
    yield "\n".join(lines)


def shown_label(label: str) -> str:
    """A label of `label_of`, as tables name it."""
    arm = label.removesuffix(MATCHED)
    return f"`{shown_arm(arm)}`{MATCHED if arm != label else ''}"


def points(share: Estimate) -> Estimate:
    """A share of 1 as points."""
    low, high = (None if end is None else 100 * end for end in (share.low, share.high))
    return Estimate(value=100 * share.value, low=low, high=high)


def ends_table(tasks: Sequence[TaskEnds]) -> str:
    """What each task's experts learnt."""
    lines = [
        "| task | seeds | test items | answer tokens | NLL base, expert | exact base, expert | scored |",
        "| --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for task in tasks:
        shares = f"{100 * task.accuracy_base:.1f} %, {100 * task.accuracy_expert:.1f} %"
        likelihoods = f"{task.nll_base:.3f}, {task.nll_expert:.3f}"
        counts = f"{task.seeds} | {task.n} | {task.tokens}"
        lines.append(f"| {task.task} | {counts} | {likelihoods} | {shares} | {'yes' if task.scored else 'no'} |")
    return "\n".join(lines)


def arms_table(means: Sequence[ArmMean], comparisons: Sequence[Comparison]) -> str:
    """Every arm with its intervals."""
    ratios = {(one.arm, one.reference): one.kl_ratio for one in comparisons}
    matched = label_of(REFERENCE, None)
    lines = [
        "| arm | bits | MB | KL [95 %] | KL ÷ A | KL ÷ B | agreement [95 %] | points lost [95 %] | gap closed |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for mean in means:
        pair = [ratios.get((label_of(mean.arm, mean.gain), reference)) for reference in (REFERENCE, matched)]
        cells = (
            f"{'**' if mean.on_front else ''}{shown_name(mean)}{'**' if mean.on_front else ''}",
            "–" if mean.bits_per_weight is None else f"{mean.bits_per_weight:.3f}",
            "–" if mean.expert_bytes is None else f"{mean.expert_bytes / 1e6:.1f}",
            interval(mean.kl, ".5f"),
            *("–" if ratio is None else interval(ratio, ".2f") for ratio in pair),
            interval(mean.agreement, ".4f"),
            interval(lost(mean.accuracy_change), ".2f"),
            f"{mean.gap_closed.value:.4f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def shown_name(mean: ArmMean) -> str:
    """An arm with its gain, as tables name it."""
    name = shown_arm(mean.arm)
    if mean.gain_matched:
        return f"`{name}`, gain-matched ({mean.mean_gain:.2f})"
    return f"`{label_of(name, mean.gain)}`"


def shown_arm(arm: str) -> str:
    """An arm's name, its codec's options at their defaults left out."""
    spec, space, rest = arm.partition(" ")
    return f"{short_spec(spec)}{space}{rest}" if ":" in spec else arm


def lost(change: Estimate) -> Estimate:
    """A change of a share as points lost."""
    low, high = change.low, change.high
    return Estimate(
        value=-100 * change.value + 0.0,
        low=None if high is None else -100 * high + 0.0,
        high=None if low is None else -100 * low + 0.0,
    )


def interval(estimate: Estimate, form: str) -> str:
    """A value with its ends."""
    low, high = ("–" if end is None else f"{end:{form}}" for end in (estimate.low, estimate.high))
    return f"{estimate.value:{form}} [{low}, {high}]"


def figure_table(means: Sequence[ArmMean]) -> pd.DataFrame:
    """The codecs at gain 1, trained gains apart, as `reports.figures.rate_distortion` wants them."""
    rows = [
        {
            "label": figure_label(mean.arm),
            "bits": mean.bits_per_weight,
            "kl": mean.kl.value,
            "low": mean.kl.low,
            "high": mean.kl.high,
            "on_front": mean.on_front,
        }
        for mean in means
        if mean.bits_per_weight is not None and mean.gain == 1.0 and mean.bits_per_weight < 16
    ]
    return pd.DataFrame(rows, columns=["label", "bits", "kl", "low", "high", "on_front"])


def figure_label(arm: str) -> str:
    """The codec's name, with what a reader looks for: its step, how it picks, salient channels, trained gains."""
    spec, _, rest = arm.partition(" ")
    name, _, options = spec.partition(":")
    words = [name]
    if name in ("rtn", "salient", "gptq"):
        words.append(str(parse_codec(spec).options["step"]))
    if name == "sparse-sign":
        words += ["mse"] if "step=mse" in options else []
        words += ["by activation"] if "pick=wanda" in options else []
        words += ["+ salient"] if "channels=" in options else []
    if (chosen := parse_allocated(spec)) is not None:
        words.append(f"by {chosen.by}")
    if name == "lowrank":
        words.append(str(parse_codec(spec).options["precision"]))
    if rest.startswith("distilled"):
        words.append("distilled codes" if rest.startswith("distilled=codes") else "distilled")
    return " ".join(words)
