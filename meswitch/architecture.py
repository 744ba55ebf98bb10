"""What a model is made of: which parameters are linear, which are tables, which are kept exactly."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch
from torch import nn

from meswitch.errors import UnsupportedModelError

__all__ = ["BUFFER_MARKS", "Architecture", "Parameter", "ParameterKind", "classify", "describe", "read_config"]

# pieces of the names that fused projections carry in the architectures of transformers
FUSED_MARKS = ("qkv", "query_key_value", "gate_up", "gate_and_up", "up_gate", "c_attn", "in_proj_weight")

BUFFER_MARKS = ("rotary_emb.inv_freq", "rotary_emb.cos_cached", "rotary_emb.sin_cached", ".masked_bias")
"""What older checkpoints stored although it follows from the config."""


class ParameterKind(StrEnum):
    """What a parameter is, and so how it is described in a delta."""

    LINEAR = "linear"
    EMBEDDING = "embedding"
    HEAD = "head"
    EXACT = "exact"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One parameter of the model, by the name that checkpoints use."""

    name: str
    kind: ParameterKind
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """The parameters of a model in the order in which a forward pass needs them.

    Attributes:
        parameters: all of them; the head is listed although it may be tied.
        embedding: name of the embedding table.
        head: name of the head's table.
    """

    parameters: tuple[Parameter, ...]
    embedding: str
    head: str

    def of_kind(self, kind: ParameterKind) -> tuple[Parameter, ...]:
        """The parameters of one kind, in order."""
        return tuple(p for p in self.parameters if p.kind is kind)


def read_config(root: Path) -> Any:
    """The checkpoint's config as transformers resolves it, defaults filled in.

    Raises:
        UnsupportedModelError: no causal language model of transformers goes by that config, or it is quantised.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(root, local_files_only=True, trust_remote_code=False)
    # a malformed config can fail anywhere in the code that reads it, with any kind of error
    except Exception as cause:
        reason = _first_line(cause)
        raise UnsupportedModelError(
            f"{root / 'config.json'} is not a config that transformers knows: {reason}"
        ) from cause
    if getattr(config, "quantization_config", None) is not None:
        raise UnsupportedModelError(f"{root} is already quantised (quantization_config); give the original weights")
    return config


def describe(config: Any) -> Architecture:
    """The architecture that `config` builds; no weights are allocated.

    Raises:
        UnsupportedModelError: it has fused projections, 3-D expert parameters, Conv1D layers, or no plain tables.
    """
    model = _build_on_meta(config)
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if not isinstance(embedding, nn.Embedding) or type(head) is not nn.Linear:
        raise UnsupportedModelError(f"{config.model_type}: the embedding and the head must be plain tables")
    _refuse_by_name(config, model)
    parameters = []
    # duplicates kept: a tied head is listed under its own name as well
    for name, tensor in model.named_parameters(remove_duplicate=False):
        module = model.get_submodule(name.rpartition(".")[0])
        kind = classify(name, tensor, module, embedding, head)
        parameters.append(Parameter(name=name, kind=kind, shape=tuple(tensor.shape)))
    by_kind = {kind: [p.name for p in parameters if p.kind is kind] for kind in ParameterKind}
    if len(by_kind[ParameterKind.EMBEDDING]) != 1 or len(by_kind[ParameterKind.HEAD]) != 1:
        raise UnsupportedModelError(f"{config.model_type}: the model must have exactly one embedding and one head")
    return Architecture(
        parameters=tuple(parameters),
        embedding=by_kind[ParameterKind.EMBEDDING][0],
        head=by_kind[ParameterKind.HEAD][0],
    )


def _refuse_by_name(config: Any, model: nn.Module) -> None:
    # before any parameter is classified: these say why, where the parameters beside them only say that
    shapes = {name: tensor.ndim for name, tensor in model.named_parameters()}
    for name, dimensions in shapes.items():
        if dimensions > 2:
            raise UnsupportedModelError(
                f"{config.model_type}: {name} has {dimensions} dimensions; mixtures of experts aren't supported"
            )
    for name in shapes:
        if any(mark in name.lower() for mark in FUSED_MARKS):
            raise UnsupportedModelError(
                f"{config.model_type}: {name} fuses several projections into one matrix, which isn't supported"
            )


def _build_on_meta(config: Any) -> Any:
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config)
    # same as for reading it: a config of values that do not fit fails wherever they are used
    except Exception as cause:
        raise UnsupportedModelError(
            f"{config.model_type}: transformers builds no causal language model from this config: {_first_line(cause)}"
        ) from cause


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(":") if lines else type(error).__name__


def classify(
    name: str, tensor: torch.Tensor, module: nn.Module, embedding: nn.Embedding, head: nn.Module
) -> ParameterKind:
    """The kind of the parameter `name`, which `module` owns.

    Raises:
        UnsupportedModelError: it is a matrix that no codec may take for the weight of a plain linear layer.
    """
    if tensor.ndim < 2:
        return ParameterKind.EXACT
    if module is embedding:
        return ParameterKind.EMBEDDING
    if module is head:
        return ParameterKind.HEAD
    if type(module) is not nn.Linear:
        raise UnsupportedModelError(f"{name} belongs to a {type(module).__name__}: only nn.Linear is supported")
    return ParameterKind.LINEAR
