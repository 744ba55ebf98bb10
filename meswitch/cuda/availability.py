"""Whether the GPU that a configuration asks for is there and can do the work: asked before any of it."""

from dataclasses import dataclass
from importlib.util import find_spec

from meswitch.config import DeviceConfig
from meswitch.errors import CapacityError, EngineError

__all__ = ["CudaFacts", "check_budget", "check_device", "check_facts", "find_facts"]

LEAST_CAPABILITY = (8, 0)
"""Of the oldest GPUs that the kernels are compiled for: the first ones with bfloat16."""

GIB = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class CudaFacts:
    """What is there.

    Attributes:
        built: whether this PyTorch was built with CUDA.
        devices: names of the GPUs that PyTorch sees.
        capabilities: of each, as (major, minor).
        has_triton: whether Triton is installed.
    """

    built: bool
    devices: tuple[str, ...]
    capabilities: tuple[tuple[int, int], ...]
    has_triton: bool


def find_facts() -> CudaFacts:
    """The facts of this machine."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return CudaFacts(
        built=torch.version.cuda is not None,
        devices=tuple(torch.cuda.get_device_name(i) for i in range(count)),
        capabilities=tuple(torch.cuda.get_device_capability(i) for i in range(count)),
        has_triton=find_spec("triton") is not None,
    )


def check_device(config: DeviceConfig) -> None:
    """Nothing, if an engine of `config` can compute on this machine.

    Raises:
        EngineError: it cannot; the message says why and what to do.
    """
    if config.kind == "cuda":
        check_facts(config, find_facts())


def check_facts(config: DeviceConfig, facts: CudaFacts) -> None:
    """Nothing, if an engine of `config` can compute on a machine of these facts.

    Raises:
        EngineError: it cannot.
    """
    if not facts.built:
        raise EngineError("device cuda needs a PyTorch that was built with CUDA, this one is for the CPU; install one")
    if not facts.devices:
        raise EngineError("device cuda needs an NVIDIA GPU and its driver, and PyTorch sees none; check nvidia-smi")
    if not 0 <= config.index < len(facts.devices):
        raise EngineError(
            f"device index must be from 0 to {len(facts.devices) - 1}, got {config.index}: "
            f"there is {', '.join(facts.devices)}"
        )
    if not facts.has_triton:
        raise EngineError("device cuda needs Triton, which is not installed; install meswitch[gpu]")
    name, capability = facts.devices[config.index], facts.capabilities[config.index]
    if capability < LEAST_CAPABILITY:
        raise EngineError(
            f"device cuda needs compute capability {_dotted(LEAST_CAPABILITY)} or later, for {config.dtype} and the "
            f"kernels, got {_dotted(capability)} ({name}); take an A100 or a later GPU"
        )


def check_budget(budget_bytes: int, *, index: int) -> None:
    """Nothing, if the GPU has so much memory in all.

    Raises:
        CapacityError: it has less.
    """
    import torch

    total = torch.cuda.mem_get_info(index)[1]
    if budget_bytes > total:
        raise CapacityError(
            f"memory_budget_bytes must be at most what {torch.cuda.get_device_name(index)} has, {total} bytes "
            f"({total / GIB:.2f} GiB), got {budget_bytes} ({budget_bytes / GIB:.2f} GiB)"
        )


def _dotted(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))
