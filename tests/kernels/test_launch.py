import pytest
import torch

from meswitch_kernels import launch
from meswitch_kernels.errors import KernelError, KernelUnavailableError


def test_without_triton_a_kernel_says_what_to_install(monkeypatch):
    monkeypatch.setattr(launch, "triton", None)
    with pytest.raises(KernelUnavailableError, match=r"install meswitch\[gpu\]"):
        launch.check_available(torch.zeros(1))
    assert launch.jit(len) is len


def test_off_the_gpu_a_kernel_says_where_it_runs(monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(KernelUnavailableError, match="got one on cpu"):
        launch.check_available(torch.zeros(1))


def test_errors_are_runtime_errors_of_one_tree():
    assert issubclass(KernelUnavailableError, KernelError)
    assert issubclass(KernelError, RuntimeError)
