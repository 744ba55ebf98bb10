"""What is compared: codecs with their options, and controls that are no codecs. Imports no torch."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from harness.errors import UsageError
from harness.fidelity.allocated import WAYS, Allocated, parse_allocated

__all__ = ["BUDGETS", "DEFAULT_ARMS", "GROUPS", "Arm", "Group", "arms_of"]

Group = Literal["core", "ablation", "heavy", "allocation", "distilled", "half"]

GROUPS: tuple[Group, ...] = ("core", "heavy", "ablation", "half", "allocation", "distilled")
"""In the order in which they are measured: a time limit cuts off what takes longest."""

Control = Literal["none", "base", "expert", "bfloat16"]
Distilled = Literal["none", "rows", "matrix", "codes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One way to keep an expert.

    Attributes:
        spec: the codec of the linear weights, or a budget for codecs that are chosen for each of them
            (`harness.fidelity.allocated`); empty for a control.
        gains: factors of the described delta; `None` is the one that suits validation items best.
        distilled: what was trained against the expert's own distribution: gains, one for each output channel or each
            matrix, or the codes.
        control: `base` and `expert` are the two ends; `bfloat16` is the expert with its linears rounded to bfloat16.
        half: of the expert after half of its training.
    """

    spec: str = ""
    gains: tuple[float | None, ...] = (1.0, None)
    distilled: Distilled = "none"
    control: Control = "none"
    half: bool = False
    group: Group = "core"

    @property
    def name(self) -> str:
        """What tells it from every other arm of the same expert, its gains apart."""
        words = [self.spec or self.control]
        words += [f"distilled={self.distilled}"] if self.distilled != "none" else []
        words += ["half"] if self.half else []
        return " ".join(words)


def _arms(group: Group, *specs: str, gains: tuple[float | None, ...] = (1.0, None)) -> tuple[Arm, ...]:
    return tuple(Arm(spec=spec, group=group, gains=gains) for spec in specs)


BUDGETS = (0.8, 0.55, 1.0, 2.25)
"""Bits of a linear weight for codecs that are chosen, the most needed first."""

EXACT = "dense:dtype=float32"

DEFAULT_ARMS: tuple[Arm, ...] = (
    Arm(control="base", gains=(1.0,)),
    Arm(control="expert", gains=(1.0,)),
    Arm(control="bfloat16", gains=(1.0,)),
    Arm(spec=EXACT, gains=(1.0, 0.9, 1.05, 1.1, None)),
    *_arms(
        "core",
        "salient:bits=2,channels=8,step=mse",
        "salient:bits=2,channels=8,step=unbiased",
        "rtn:bits=2,step=mse",
        "rtn:bits=2,step=unbiased",
        "bitdelta",
        "rtn:bits=1,step=mse",
        "rtn:bits=1,step=unbiased",
        "sparse-sign:group=4",
        "sparse-sign:group=8",
        "sparse-sign:group=4,channels=8",
        "sparse-sign:group=8,channels=8",
        "sparse-sign:group=16",
        "sparse-sign:group=4,pick=wanda",
        "sparse-sign:group=8,pick=wanda",
        "sparse-sign:group=8,channels=8,pick=wanda",
        "sparse-sign:group=8,keep=2",
        "sparse-sign:group=4,keep=2",
        "ternary:density=0.2",
        "ternary:density=0.5",
        "rtn:bits=4,step=mse",
        "rtn:bits=4,step=unbiased",
        "rtn:bits=8,step=unbiased",
    ),
    *_arms(
        "heavy",
        "gptq:bits=2,step=mse",
        "gptq:bits=2,step=unbiased",
        "lowrank:bits=2.25,precision=mixed",
        "lowrank:bits=2",
        "eora:bits=2,rank=4",
        "gptq:bits=1,step=unbiased",
        "lowrank:bits=1,precision=mixed",
        "lowrank:bits=0.75,precision=mixed",
        "lowrank:bits=0.5,precision=mixed",
    ),
    *_arms("allocation", *(Allocated(bits=bits, by=by).spec for bits in BUDGETS for by in WAYS)),
    Arm(spec=Allocated(bits=0.8, by="search").spec, distilled="rows", group="allocation"),
    *_arms(
        "ablation",
        "salient:bits=2,channels=8,select=random",
        "salient:bits=2,channels=8,select=magnitude",
        "salient:bits=2,channels=8,select=wanda",
        "salient:bits=2,channels=8,select=activation",
        "salient:bits=2,channels=8,refit=false",
        "salient:bits=2,channels=4",
        "salient:bits=2,channels=16",
        "salient:bits=1,channels=8,step=mse",
        "salient:bits=1,channels=8,step=unbiased",
        "salient:bits=4,channels=8,step=unbiased",
        "rtn:bits=2,step=absmax",
        "sparse-sign:group=4,step=mse",
        "sparse-sign:group=8,step=mse",
        "sparse-sign:group=4,channels=8,pick=wanda",
        "sparse-sign:group=8,channels=4",
        "sparse-sign:group=16,channels=8",
        "sparse-sign:group=16,keep=2",
        "ternary:density=0.2,scope=matrix,step=std",
        "ternary:density=0.05",
        "rtn:bits=8,step=mse",
        gains=(1.0,),
    ),
    *_arms("ablation", "dare:drop=0.9", "nested"),
    Arm(spec="sparse-sign:group=4", distilled="codes", group="distilled"),
    Arm(spec="salient:bits=2,channels=8,step=mse", distilled="rows", group="distilled"),
    Arm(spec="sparse-sign:group=8", distilled="rows", group="distilled"),
    Arm(spec="sparse-sign:group=4", distilled="rows", group="distilled"),
    Arm(spec="bitdelta", distilled="matrix", group="distilled"),
    Arm(spec="sparse-sign:group=8,channels=8", distilled="rows", group="distilled"),
    Arm(spec="salient:bits=2,channels=8,step=unbiased", distilled="rows", group="distilled"),
    Arm(spec="sparse-sign:group=8", distilled="codes", group="distilled"),
    Arm(control="base", gains=(1.0,), half=True, group="half"),
    Arm(control="expert", gains=(1.0,), half=True, group="half"),
    Arm(spec=EXACT, gains=(0.9, 1.05, 1.1, None), half=True, group="half"),
    *(
        Arm(spec=spec, half=True, group="half")
        for spec in (
            "salient:bits=2,channels=8,step=mse",
            "salient:bits=2,channels=8,step=unbiased",
            "sparse-sign:group=4",
            "sparse-sign:group=8",
        )
    ),
)


def arms_of(specs: Iterable[str], groups: Iterable[str] = ()) -> tuple[Arm, ...]:
    """The two ends with the codecs and the groups of arms that were asked for, or all that are measured by default.

    Raises:
        UsageError: a codec is given twice, or there is no such group.
        CodecOptionError: what is chosen within is no budget, or not chosen so.
    """
    specs, wanted = list(specs), set(groups)
    if len(set(specs)) < len(specs):
        raise UsageError(f"each codec may be given once, got {', '.join(specs)}")
    if unknown := sorted(wanted - set(GROUPS)):
        raise UsageError(f"a group of arms must be one of {', '.join(GROUPS)}, got {unknown[0]!r}")
    if not specs and not wanted:
        return DEFAULT_ARMS
    ends = (Arm(control="base", gains=(1.0,)), Arm(control="expert", gains=(1.0,)))
    asked = [arm for spec in specs for arm in _arms("core" if parse_allocated(spec) is None else "allocation", spec)]
    default = [arm for arm in DEFAULT_ARMS if arm.group in wanted]
    # the same arm by its group and by its name is one
    return tuple({arm.name: arm for arm in (*ends, *asked, *default)}.values())
