"""A base and an expert that can be subtracted from each other, opened and checked."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from meswitch.adapter import ADAPTER_CONFIG, AdapterSource
from meswitch.architecture import Architecture, ParameterKind, describe, read_config
from meswitch.checkpoint import Checkpoint
from meswitch.codecs.base import Codec
from meswitch.compatibility import check_compatible
from meswitch.expert_source import CheckpointSource, ExpertSource, is_tied
from meswitch.identity import checkpoint_identity
from meswitch.plan import PlannedParameter, check_checkpoint, plan_expert

__all__ = ["Pair", "open_pair"]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A base and one expert of it.

    Attributes:
        base: the base's tensors.
        config: the base's config, as transformers resolves it.
        architecture: the base's parameters.
        tied: whether the base's head is its embedding table.
        expert: the expert's tensors.
        on_bytes: called with the bytes that were hashed since the last call, while identities are computed.
    """

    base: Checkpoint
    config: Any
    architecture: Architecture
    tied: bool
    expert: ExpertSource
    on_bytes: Callable[[int], None] | None = None

    @cached_property
    def base_identity(self) -> str:
        """`blake3:<hex>` of the base."""
        return checkpoint_identity(self.base, progress=self.on_bytes)

    @cached_property
    def expert_identity(self) -> str:
        """`blake3:<hex>` of the expert."""
        return self.expert.identity(progress=self.on_bytes)

    @cached_property
    def linear_names(self) -> frozenset[str]:
        """The parameters that multiply activations: linears, and the head."""
        kinds = (ParameterKind.LINEAR, ParameterKind.HEAD)
        return frozenset(p.name for p in self.architecture.parameters if p.kind in kinds)

    def identities(self) -> tuple[str, str]:
        """Those of base and expert; the first call reads all weights, unless it is known from an earlier run."""
        return self.base_identity, self.expert_identity

    def plan(
        self, codecs: Mapping[ParameterKind, Codec], linears: Mapping[str, Codec] | None = None
    ) -> tuple[PlannedParameter, ...]:
        """What the delta will hold: see `plan_expert`."""
        return plan_expert(
            self.base, self.expert, self.architecture, base_tied=self.tied, codecs=codecs, linears=linears
        )


def open_pair(base_root: Path, expert_root: Path, *, on_bytes: Callable[[int], None] | None = None) -> Pair:
    """The two, checked as far as headers and configs tell. Reads no weights but those of doubtful heads.

    Raises:
        CheckpointError: one of them cannot be used, or they do not fit each other.
    """
    base = Checkpoint(base_root)
    config = read_config(base_root)
    architecture = describe(config)
    tied = is_tied(base, config, architecture)
    check_checkpoint(base, architecture, tied=tied)
    expert: ExpertSource
    if (expert_root / ADAPTER_CONFIG).is_file():
        expert = AdapterSource(expert_root, base, config, architecture, base_tied=tied)
    else:
        expert = CheckpointSource(expert_root, architecture)
        check_compatible(config, expert.config)
        check_checkpoint(expert.checkpoint, architecture, tied=expert.tied)
    return Pair(base=base, config=config, architecture=architecture, tied=tied, expert=expert, on_bytes=on_bytes)
