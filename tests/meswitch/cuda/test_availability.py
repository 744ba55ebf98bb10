"""Every way in which a GPU can be missing or unfit is one line, before any work."""

from dataclasses import replace

import pytest
import torch

from meswitch.config import DeviceConfig
from meswitch.cuda.availability import CudaFacts, check_device, check_facts
from meswitch.errors import EngineError

H100 = CudaFacts(built=True, devices=("NVIDIA H100",), capabilities=((9, 0),), has_triton=True)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_a_hopper_gpu_with_triton_passes(dtype: str) -> None:
    check_facts(DeviceConfig(kind="cuda", dtype=dtype), H100)  # type: ignore[arg-type]
    check_facts(DeviceConfig(kind="cuda"), replace(H100, capabilities=((8, 0),)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"built": False}, "built with CUDA"),
        ({"devices": (), "capabilities": ()}, "PyTorch sees none; check nvidia-smi"),
        ({"has_triton": False}, r"install meswitch\[gpu\]"),
        ({"capabilities": ((7, 5),)}, r"8\.0 or later, for bfloat16 .* got 7\.5 \(NVIDIA H100\)"),
    ],
)
def test_what_is_missing_is_named_in_one_line(changes: dict[str, object], message: str) -> None:
    with pytest.raises(EngineError, match=message) as caught:
        check_facts(DeviceConfig(kind="cuda"), replace(H100, **changes))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("index", [-1, 1])
def test_an_index_beyond_the_gpus_is_refused(index: int) -> None:
    with pytest.raises(EngineError, match=rf"must be from 0 to 0, got {index}: there is NVIDIA H100"):
        check_facts(DeviceConfig(kind="cuda", index=index), H100)


def test_a_cpu_needs_nothing() -> None:
    check_device(DeviceConfig())


@pytest.mark.skipif(torch.version.cuda is not None, reason="this PyTorch has CUDA")
def test_this_machines_pytorch_is_refused_for_cuda() -> None:
    with pytest.raises(EngineError, match="built with CUDA"):
        check_device(DeviceConfig(kind="cuda"))
