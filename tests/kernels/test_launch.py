import subprocess
import sys

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


def test_without_triton_everything_imports_and_calls_say_what_is_missing():
    script = """
import sys
sys.modules["triton"] = None
import pkgutil, importlib, torch, meswitch_kernels
for module in pkgutil.iter_modules(meswitch_kernels.__path__):
    importlib.import_module("meswitch_kernels." + module.name)
from meswitch_kernels.errors import KernelUnavailableError
from meswitch_kernels.merge import merge_weight
try:
    merge_weight(torch.zeros(1, 1), None, 0)
except KernelUnavailableError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Triton is not installed: install meswitch[gpu]")
