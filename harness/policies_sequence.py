"""Sequences of experts to replay: those of a trace, or seeded ones made for the purpose."""

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from harness.errors import UsageError
from workloads.generate import seeded_stream
from workloads.locality import with_locality
from workloads.popularity import PopularityConfig, draw_experts, parse_popularity
from workloads.trace_io import read_trace

__all__ = ["ExpertSequence", "SyntheticConfig", "parse_synthetic", "synthetic_sequence", "trace_sequence"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertSequence:
    """Experts in order of arrival, at least one.

    Attributes:
        source: where they come from, in words.
        sha256: of the trace's file, or of the names, one a line.
        requests: names of experts.
    """

    source: str
    sha256: str
    requests: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SyntheticConfig:
    """A sequence made of popularity and locality, as `harness trace generate` makes them.

    Attributes:
        switch: probability of redrawing the expert before each request; 1 is independent draws.
        drift: every so many requests, each expert takes the popularity of the one before it; 0 is never.
    """

    popularity: PopularityConfig
    experts: int = 16
    switch: float = 1.0
    drift: int = 0
    requests: int = 2000
    seed: int = 0

    def __str__(self) -> str:
        settings = [f"experts={self.experts}", f"switch={self.switch:g}", f"drift={self.drift}"]
        return ",".join([str(self.popularity), *settings, f"requests={self.requests}", f"seed={self.seed}"])


def trace_sequence(path: Path) -> ExpertSequence:
    """The experts that a trace's requests name; requests that name none are left out.

    Raises:
        UsageError: no request names one.
    """
    trace = read_trace(path)
    names = tuple(request.expert for request in trace.requests if request.expert is not None)
    if not names:
        raise UsageError(f"{path}: requests must name experts, none does; assign them with harness trace import")
    return ExpertSequence(source=path.name, sha256=trace.sha256, requests=names)


def synthetic_sequence(config: SyntheticConfig) -> ExpertSequence:
    """The sequence that `config` describes, the same for the same config."""
    draws = draw_experts(config.popularity, config.experts, seeded_stream(config.seed, "popularity"))
    wanted = with_locality(draws, config.switch, seeded_stream(config.seed, "locality"))
    names = tuple(
        f"e{(index + (place // config.drift if config.drift else 0)) % config.experts:03d}"
        for place, index in enumerate(islice(wanted, config.requests))
    )
    digest = hashlib.sha256("".join(name + "\n" for name in names).encode()).hexdigest()
    return ExpertSequence(source=str(config), sha256=digest, requests=names)


def parse_synthetic(text: str) -> SyntheticConfig:
    """The config that `POPULARITY[,experts=N][,switch=P][,drift=N][,requests=N][,seed=N]` describes.

    Raises:
        UsageError: a word is none of these, or a value is not allowed.
    """
    popularity, *words = text.split(",")
    kinds: Mapping[str, type[int] | type[float]] = {
        "experts": int,
        "switch": float,
        "drift": int,
        "requests": int,
        "seed": int,
    }
    settings: dict[str, float] = {}
    try:
        config = SyntheticConfig(popularity=parse_popularity(popularity))
        for word in words:
            name, _, value = word.partition("=")
            if name not in kinds:
                raise ValueError(f"a setting must be one of {', '.join(kinds)}, got {word!r}")
            settings[name] = kinds[name](value)
        config = dataclasses.replace(config, **settings)  # type: ignore[arg-type]
        if min(config.experts, config.requests) < 1 or config.drift < 0 or not 0 <= config.switch <= 1:
            raise ValueError("experts and requests must be at least 1, drift at least 0, switch between 0 and 1")
    except ValueError as error:
        raise UsageError(f"{text!r} describes no sequence: {error}") from None
    return config
