"""Tiny bases and compressed experts that the CUDA path can hold. No test lives here."""

from pathlib import Path
from typing import Any

import torch

from meswitch.architecture import read_config
from meswitch.compress import CompressConfig, compress_expert
from meswitch.cuda.decoder_shape import DecoderShape, decoder_shape
from meswitch.format import open_delta
from meswitch.format.reader import DeltaDirectory
from tests.meswitch.checkpoints import fine_tune, save_model, tiny_config

CPU = torch.device("cpu")

NARROW = {"hidden_size": 64, "intermediate_size": 96}
"""Heads of 16 dimensions; q, k and v, and gate and up, each in a part of its own."""

WIDE = {"hidden_size": 256, "intermediate_size": 384, "num_hidden_layers": 1}
"""Stacked: q, k and v in one part of 256 + 128 + 128 rows, so that q has two lists of channels; gate and up too."""


def make_base(root: Path, kind: str = "llama", **changes: Any) -> Path:
    """A base's checkpoint directory."""
    return save_model(root, tiny_config(kind, **{**NARROW, **changes}), dtype=torch.bfloat16)


def make_delta(base: Path, output: Path, *, seed: int = 1, expert: dict[str, Any] | None = None, **codecs: str) -> Path:
    """The directory of a compressed expert of `base`."""
    source = fine_tune(base, output.with_name(f"{output.name}-model"), seed=seed, **(expert or {}))
    compress_expert(CompressConfig(base=base, expert=source, output=output, name=output.name, force=True, **codecs))
    return output


def opened(path: Path) -> DeltaDirectory:
    return open_delta(path, verify=False)


def shape_of(base: Path, *, tied: bool = False) -> DecoderShape:
    return decoder_shape(read_config(base), tied=tied)
