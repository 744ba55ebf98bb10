"""The dimensions of a decoder that the CUDA path computes, read from a Hugging Face config."""

from dataclasses import dataclass
from typing import Any, Literal

import torch

from meswitch.errors import UnsupportedModelError

__all__ = ["DecoderShape", "decoder_shape", "inverse_frequencies"]

MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")
"""Decoders of RMS norms, rotary halves, grouped-query attention and a gated activation."""

ACTIVATIONS: dict[str, Literal["silu", "gelu_tanh"]] = {"silu": "silu", "gelu_pytorch_tanh": "gelu_tanh"}

HEAD_DIMS = (16, 32, 64, 128)

CHANGING_ROPE = ("dynamic", "longrope")


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderShape:
    """What the decoder is made of.

    Attributes:
        layers: how many.
        K: width of the residual stream.
        heads, kv_heads, head_dim: of attention.
        F: width of the gated activation.
        vocabulary: rows of the base's tables.
        eps: of the norms.
        activation: of the gate.
        qkv_bias: whether q, k and v have one.
        qk_norm: whether each head of q and k is normalised.
        window: the most positions a request may have, where attention would forget the first; `None` for no limit.
        tied: whether the base's head is its embedding.
    """

    layers: int
    K: int
    heads: int
    kv_heads: int
    head_dim: int
    F: int
    vocabulary: int
    eps: float
    activation: Literal["silu", "gelu_tanh"]
    qkv_bias: bool
    qk_norm: bool
    window: int | None
    tied: bool

    @property
    def q_rows(self) -> int:
        """Output channels of q."""
        return self.heads * self.head_dim

    @property
    def kv_rows(self) -> int:
        """Output channels of k, and of v."""
        return self.kv_heads * self.head_dim

    @property
    def qkv_rows(self) -> int:
        """Output channels of q, k and v together."""
        return self.q_rows + 2 * self.kv_rows


def decoder_shape(config: Any, *, tied: bool) -> DecoderShape:
    """The shape that `config` describes.

    Args:
        config: as transformers resolves it.
        tied: whether the base's head is its embedding.

    Raises:
        UnsupportedModelError: the CUDA path does not compute such a model.
    """
    kind = config.model_type
    if kind not in MODEL_TYPES:
        raise UnsupportedModelError(f"on CUDA a model must be one of {', '.join(MODEL_TYPES)}, got {kind}")
    if config.hidden_act not in ACTIVATIONS:
        raise UnsupportedModelError(
            f"{kind}: on CUDA the activation must be one of {', '.join(ACTIVATIONS)}, got {config.hidden_act}"
        )
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if head_dim not in HEAD_DIMS:
        raise UnsupportedModelError(
            f"{kind}: on CUDA a head must have {', '.join(map(str, HEAD_DIMS))} dimensions, got {head_dim}"
        )
    _check_parts(config)
    return DecoderShape(
        layers=config.num_hidden_layers,
        K=config.hidden_size,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads or config.num_attention_heads,
        head_dim=head_dim,
        F=config.intermediate_size,
        vocabulary=config.vocab_size,
        eps=config.rms_norm_eps,
        activation=ACTIVATIONS[config.hidden_act],
        qkv_bias=kind == "qwen2" or bool(getattr(config, "attention_bias", False)),
        qk_norm=kind == "qwen3",
        window=_window(config),
        tied=tied,
    )


def inverse_frequencies(config: Any) -> tuple[torch.Tensor, float]:
    """Angles of one position, `[head_dim / 2]` float32, and what cosines and sines are multiplied by."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    parameters = getattr(config, "rope_parameters", None) or {}
    kind = parameters.get("rope_type", "default")
    if kind == "default":
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        theta = parameters["rope_theta"]
        exponents = torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim
        return 1.0 / (theta**exponents), 1.0
    frequencies, scaling = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"))
    return frequencies, float(scaling)


def _check_parts(config: Any) -> None:
    kind = config.model_type
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") in CHANGING_ROPE:
        raise UnsupportedModelError(
            f"{kind}: rope_type {rope['rope_type']!r} is not supported: its frequencies depend on the longest row"
        )
    if getattr(config, "mlp_bias", False):
        raise UnsupportedModelError(f"{kind}: biases of the gated activation are not supported on CUDA")
    if kind != "qwen2" and getattr(config, "attention_bias", False):
        # the output projection has one too then, and the step has no place for it
        raise UnsupportedModelError(f"{kind}: attention_bias is not supported on CUDA")
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds - {"full_attention", "sliding_attention"} or len(kinds) > 1:
        raise UnsupportedModelError(f"{kind}: on CUDA all layers must attend alike, got {sorted(kinds)}")


def _window(config: Any) -> int | None:
    if not getattr(config, "use_sliding_window", True):
        return None
    window: int | None = getattr(config, "sliding_window", None)
    return window
