"""Two arms side by side: what each ingredient of a codec is worth, and ours beside published ones at like bytes."""

from collections.abc import Sequence

from harness.fidelity.allocated import Allocated
from harness.fidelity.arms import BUDGETS
from harness.fidelity.means import REFERENCE, Comparison, Group, label_of

__all__ = ["PAIRS", "TRAINED", "pairs_of"]

UNBIASED = "salient:bits=2,channels=8,step=unbiased"
FOUR, EIGHT = "sparse-sign:group=4", "sparse-sign:group=8"
DELTA_COME = "lowrank:bits=2.25,precision=mixed"

TRAINED = f"{REFERENCE} distilled=rows"
"""The paper's recipe, as far as it is known: its codes with trained steps."""

CHOSEN = {bits: Allocated(bits=bits, by="search").spec for bits in BUDGETS}
MEASURED = {bits: Allocated(bits=bits, by="measured").spec for bits in BUDGETS}

PAIRS: tuple[tuple[str, str], ...] = (
    (UNBIASED, REFERENCE),
    (UNBIASED, DELTA_COME),
    (UNBIASED, "gptq:bits=2,step=mse"),
    (UNBIASED, "gptq:bits=2,step=unbiased"),
    (UNBIASED, "eora:bits=2,rank=4"),
    (UNBIASED, "rtn:bits=2,step=unbiased"),
    (REFERENCE, "rtn:bits=2,step=mse"),
    ("rtn:bits=2,step=unbiased", "rtn:bits=2,step=mse"),
    ("gptq:bits=2,step=mse", "rtn:bits=2,step=mse"),
    ("gptq:bits=2,step=unbiased", "rtn:bits=2,step=unbiased"),
    ("sparse-sign:group=4,keep=2", UNBIASED),
    ("sparse-sign:group=4,keep=2", "ternary:density=0.5"),
    (FOUR, REFERENCE),
    (FOUR, UNBIASED),
    (f"{FOUR},channels=8", UNBIASED),
    (REFERENCE, UNBIASED),
    (FOUR, "rtn:bits=1,step=unbiased"),
    (FOUR, "lowrank:bits=1,precision=mixed"),
    (f"{FOUR},channels=8", "lowrank:bits=1,precision=mixed"),
    (f"{EIGHT},channels=8", FOUR),
    (f"{EIGHT},channels=8", "lowrank:bits=0.75,precision=mixed"),
    (f"{FOUR},pick=wanda", FOUR),
    (f"{EIGHT},channels=8,pick=wanda", f"{EIGHT},channels=8"),
    (REFERENCE, "dense:dtype=float32 × 0.9"),
    (UNBIASED, TRAINED),
    (FOUR, TRAINED),
    (f"{FOUR} distilled=rows", TRAINED),
    (f"{FOUR} distilled=rows", FOUR),
    (f"{FOUR} distilled=codes", FOUR),
    (f"{FOUR} distilled=codes", f"{FOUR} distilled=rows"),
    (f"{FOUR} distilled=codes", REFERENCE),
    (f"{FOUR} distilled=codes", UNBIASED),
    (f"{FOUR} distilled=codes", TRAINED),
    (f"{EIGHT} distilled=rows", EIGHT),
    (f"{EIGHT} distilled=codes", EIGHT),
    (f"{EIGHT} distilled=codes", REFERENCE),
    (f"{EIGHT} distilled=rows", REFERENCE),
    (TRAINED, REFERENCE),
    ("bitdelta distilled=matrix", "bitdelta"),
    (FOUR, "bitdelta distilled=matrix"),
    (CHOSEN[0.55], EIGHT),
    (CHOSEN[0.55], REFERENCE),
    (MEASURED[0.55], EIGHT),
    (MEASURED[0.55], REFERENCE),
    (MEASURED[0.8], FOUR),
    (MEASURED[0.8], REFERENCE),
    *((CHOSEN[bits], MEASURED[bits]) for bits in BUDGETS),
    (CHOSEN[0.8], FOUR),
    (CHOSEN[0.8], REFERENCE),
    (CHOSEN[0.8], TRAINED),
    (f"{CHOSEN[0.8]} distilled=rows", CHOSEN[0.8]),
    (f"{CHOSEN[0.8]} distilled=rows", REFERENCE),
    (f"{CHOSEN[0.8]} distilled=rows", f"{FOUR} distilled=rows"),
    (f"{FOUR} distilled=codes", f"{CHOSEN[0.8]} distilled=rows"),
    (MEASURED[1.0], f"{FOUR},channels=8"),
    (MEASURED[1.0], REFERENCE),
    (MEASURED[0.8], UNBIASED),
    (MEASURED[1.0], UNBIASED),
    (MEASURED[2.25], UNBIASED),
    (MEASURED[2.25], DELTA_COME),
    (CHOSEN[1.0], f"{FOUR},channels=8"),
    (CHOSEN[1.0], REFERENCE),
    (CHOSEN[2.25], UNBIASED),
    (CHOSEN[2.25], DELTA_COME),
)
"""Arms at gain 1, or with the gain that is named; and the ones that they are compared with."""


def pairs_of(group: Group, pairs: Sequence[tuple[str, str]] = PAIRS) -> tuple[Comparison, ...]:
    """The pairs of which `group` has both: as they are, then both gain-matched."""
    places = {label_of(mean.arm, mean.gain): i for i, mean in enumerate(group.means)}
    found = []
    for arm, reference in pairs:
        for gain in (1.0, None):
            names = (label_of(arm, gain), label_of(reference, gain))
            if not all(name in places for name in names):
                continue
            i, j = (places[name] for name in names)
            found.append(
                Comparison(
                    arm=names[0],
                    reference=names[1],
                    kl_ratio=group.draws["kl"].ratio(i, j),
                    agreement_change=group.draws["agreement"].difference(i, j),
                    accuracy_change=group.draws["accuracy"].difference(i, j),
                )
            )
    return tuple(found)
