"""The rig runs real decode steps: here of a tiny model, kernel by kernel in the interpreter."""

from pathlib import Path

import pytest
import torch

from harness.decode import DecodeCase, DecodeOptions, parse_cases
from harness.decode.rig import DecodeRig, build_decode, decode_subject
from meswitch.config import SyntheticConfig


@pytest.mark.usefixtures("few_programs")
@torch.inference_mode()
def test_a_case_steps_its_rows_around_its_context(tiny_model: Path) -> None:
    options = DecodeOptions(
        family=str(tiny_model),
        cases=parse_cases("2x2", context=8),
        synthetic=SyntheticConfig(linear="salient:bits=2,channels=3"),
        dtype="float16",
        replays=5,
        repeats=3,
    )
    rig = build_decode(decode_subject(options), options, torch.device("cpu"))
    lengths = []
    for case in (DecodeCase(B=2, E=2, context=8), DecodeCase(B=2, E=0, context=8)):
        step = rig.load(case, steps=3)
        state = runner_state(rig, case)
        for _ in range(3):
            lengths.append(state.lengths[:2].tolist())
            step()
        # numbers came out: -1 stands for logits that are none
        assert bool((state.chosen[:2] >= 0).all())
        assert state.slots[:2].tolist() == list(case.slots)
    assert lengths == [[n, n] for n in (7, 8, 9)] * 2


def runner_state(rig: DecodeRig, case: DecodeCase):  # type: ignore[no-untyped-def]
    runner = rig._mixed if case.E else rig._base_only
    return runner._state.tensors
