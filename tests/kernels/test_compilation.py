import os
import subprocess
import sys

import pytest


def _compile(capability):
    """Names of the kernels that compile, in a process of its own: this one may be running the interpreter."""
    pytest.importorskip("triton")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "meswitch_kernels.compilation", str(capability)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return {line.split(": ")[0].removeprefix(f"sm_{capability} ") for line in done.stdout.splitlines()}


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90, 100])
def test_every_kernel_compiles_with_bfloat16(capability):
    names = _compile(capability)
    assert {"slice", "group", "delta_rows", "merge", "delta_matmul split"} <= names
    assert {
        "sparse_matmul groups of 4",
        "sparse_matmul groups of 8",
        "sparse_matmul split",
        "sparse_matmul plain",
    } <= names
    assert {"slice pairs", "slice groups", "sparse merge"} <= names
    assert {"rms_norm", "gated_activation", "rotary", "attention", "attention join"} <= names
    assert {"sampling", "sampling join"} <= names
    assert {f"delta_matmul {bits} bits" for bits in (1, 2, 4, 8)} <= names
    assert (capability == 90) == ({f"warpgroup_matmul {bits} bits" for bits in (1, 2, 4)} <= names)


def test_the_interpreter_cannot_compile(monkeypatch):
    pytest.importorskip("triton")
    from meswitch_kernels.compilation import compile_kernels
    from meswitch_kernels.errors import KernelUnavailableError

    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(KernelUnavailableError, match="TRITON_INTERPRET unset"):
        next(compile_kernels(90))
