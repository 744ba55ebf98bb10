"""What a user asks of a measurement of memory."""

from dataclasses import dataclass
from typing import Literal

from harness.errors import UsageError
from meswitch.config import DeviceConfig, EngineConfig, SchedulerConfig, SyntheticConfig
from meswitch.families import ShapeFamily

__all__ = ["MOST_EXPERTS", "MemoryOptions", "parse_experts"]

MOST_EXPERTS = 512
"""Experts that are offered where as many as fit are asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryOptions:
    """The measurement, resolved.

    Attributes:
        family: a shape's name, or the path of a Hugging Face config.
        experts: that must be on the GPU together; `None` for as many as fit.
        weights: `delta` for a base and compressed deltas, `full` for whole models.
        budget_bytes: that everything together may take.
        kv_tokens: room for keys and values, spread evenly over `max_rows` requests.
        chunk_tokens: of a prompt, computed together.
        synthetic: codecs of the experts, the seed of everything random, and how many images host memory holds.
        index: of the GPU.
    """

    family: str
    experts: int | None
    budget_bytes: int
    kv_tokens: int
    max_rows: int = 16
    chunk_tokens: int = 512
    weights: Literal["delta", "full"] = "delta"
    dtype: Literal["bfloat16", "float16"] = "bfloat16"
    synthetic: SyntheticConfig
    index: int = 0

    def __post_init__(self) -> None:
        if self.max_rows < 1 or self.kv_tokens < 2 * self.max_rows or self.kv_tokens % self.max_rows:
            raise UsageError(
                f"--kv-tokens must be a multiple of --max-rows, {self.max_rows}, and at least twice as many, "
                f"got {self.kv_tokens}"
            )
        if self.weights not in ("delta", "full"):
            raise UsageError(f"--weights must be delta or full, got {self.weights!r}")
        if self.dtype not in ("bfloat16", "float16"):
            raise UsageError(f"--dtype must be bfloat16 or float16, got {self.dtype!r}")
        if self.chunk_tokens < 1:
            raise UsageError(f"--chunk must be at least 1, got {self.chunk_tokens}")

    @property
    def context_tokens(self) -> int:
        """Prompt and answer of one request."""
        return self.kv_tokens // self.max_rows

    def engine_config(self, family: ShapeFamily) -> EngineConfig:
        """The engine that holds the experts."""
        offered = MOST_EXPERTS if self.experts is None else self.experts
        # where whole models are swapped, the base is one of them
        names = family.experts(offered - (self.weights == "full"))
        return EngineConfig(
            base=family.config_dir,
            experts=dict.fromkeys(names, family.config_dir),
            weights=self.weights,
            memory_budget_bytes=self.budget_bytes,
            scheduler=SchedulerConfig(max_rows=self.max_rows, max_context_tokens=self.context_tokens),
            device=DeviceConfig(
                kind="cuda",
                index=self.index,
                dtype=self.dtype,
                prefill_chunk_tokens=self.chunk_tokens,
                slots=self.experts if self.weights == "delta" else None,
                model_buffers=self.experts if self.weights == "full" else None,
            ),
            synthetic=self.synthetic,
        )


def parse_experts(text: str) -> int | None:
    """The number that is meant; `None` for `max`.

    Raises:
        UsageError: it is neither a number of at least 1 nor `max`.
    """
    if text == "max":
        return None
    if not text.isdecimal() or not 1 <= int(text) <= MOST_EXPERTS:
        raise UsageError(f"--experts must be from 1 to {MOST_EXPERTS}, or max, got {text!r}")
    return int(text)
