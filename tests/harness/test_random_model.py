"""What is measured is checked before there is a GPU, and the GPU before anything is allocated on it."""

from typing import Any

import pytest
import torch

from harness.errors import UsageError
from harness.random_model import Subject, load_subject, take_device
from harness.telemetry import NullGpu
from meswitch.config import SyntheticConfig
from meswitch.errors import DeltaError, EngineError, FamilyError, UnsupportedModelError
from tests.harness.fake_gpu import FakeGpu


def subject(family: str = "mistral-7b", **changes: Any) -> Subject:
    given = {"dtype": "bfloat16", "has_experts": True, "row_tokens": 4096, "tokens_of": "--a and --b", **changes}
    return load_subject(family, given.pop("synthetic", SyntheticConfig(linear="salient:bits=2,channels=8")), **given)


def test_a_subject_names_every_option_of_its_codec_and_has_the_layouts_of_base_and_experts() -> None:
    found = subject()
    assert found.family.name == "mistral-7b"
    assert found.codec == "salient:bits=2,channels=8,select=error,step=unbiased,refit=true,seed=0"
    assert found.layouts.whole.dtype is torch.bfloat16
    assert found.layouts.slot is not None
    # seven linears of each layer in 2 bits, and tables in 4, are less than a sixth of 16 bits everywhere
    assert found.layouts.slot.nbytes < found.layouts.whole.nbytes / 6
    assert subject(has_experts=False).layouts.slot is None


def test_a_subject_that_cannot_be_measured_is_refused_by_what_is_wrong() -> None:
    with pytest.raises(FamilyError, match="unknown shape 'giant'"):
        subject("giant")
    with pytest.raises(UsageError, match="--a and --b together must be at most the sliding window of mistral-7b, 4096"):
        subject(row_tokens=4097)
    with pytest.raises(UnsupportedModelError, match="on CUDA a codec of linear must be one of"):
        subject(synthetic=SyntheticConfig(linear="lowrank"))
    with pytest.raises(DeltaError, match="no codec is called 'foo'"):
        subject(synthetic=SyntheticConfig(linear="foo"))


def test_a_gpu_that_the_driver_or_pytorch_does_not_see_is_not_taken() -> None:
    with pytest.raises(UsageError, match="NVML sees none"):
        take_device(NullGpu(), index=0, dtype="bfloat16")
    # the driver's word is not enough: here there is no PyTorch for GPUs, or no such GPU
    with pytest.raises(EngineError, match=r"^device "):
        take_device(FakeGpu(), index=99, dtype="bfloat16")
