"""A `transformers` decoder whose parameters differ from row to row.

Rows of one expert are neighbours in the batch. Each module that carries parameters is replaced by one that applies,
to each segment of rows, the parameters of that segment's expert; attention, rotary and residual code stays as it is.
Which tensors those are is settled once, when the batch's composition changes, not at each step.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import nn

from meswitch.errors import UnsupportedModelError
from meswitch.operand import Operand
from meswitch.slot_cache import SlotCache
from meswitch.weights import ExpertWeights

__all__ = [
    "Segment",
    "SwitchEmbedding",
    "SwitchHead",
    "SwitchLinear",
    "SwitchModel",
    "SwitchModule",
    "SwitchNorm",
]


@dataclass(frozen=True, slots=True)
class Segment:
    """Neighbouring rows of one expert."""

    rows: int
    weights: ExpertWeights


class _Switch(Protocol):
    def bind(self, segments: Sequence[Segment]) -> None: ...


class SwitchLinear(nn.Module):
    """A linear layer: `y = x·W_eᵀ + b_e` for the rows of expert e."""

    def __init__(self, name: str, *, bias: bool) -> None:
        super().__init__()
        self._weight_name = f"{name}.weight"
        self._bias_name = f"{name}.bias" if bias else None
        self._sizes: list[int] = []
        self._parts: list[tuple[Operand | None, torch.Tensor | None, ExpertWeights]] = []

    def bind(self, segments: Sequence[Segment]) -> None:
        """Use the parameters of `segments` from now on."""
        self._sizes = [segment.rows for segment in segments]
        self._parts = []
        for segment in segments:
            weights = segment.weights
            bias = None if self._bias_name is None else weights.vector(self._bias_name)
            self._parts.append((weights.find(self._weight_name), bias, weights))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The product `[M, T, N]` of rows `x` `[M, T, K]`."""
        pieces = self._products(x)
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def _products(self, x: torch.Tensor) -> list[torch.Tensor]:
        inputs = (x,) if len(self._sizes) == 1 else torch.split(x, self._sizes)
        pieces = []
        for part, (operand, bias, weights) in zip(inputs, self._parts, strict=True):
            # an expert without room in the cache is computed from its codes: the same numbers, formed again
            operand = operand or weights.form(self._weight_name)
            pieces.append(operand.product(part, bias))
        return pieces


class SwitchHead(SwitchLinear):
    """The output head: experts' vocabularies may differ, so shorter ones are padded with −inf."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The logits `[M, T, V]` of rows `x` `[M, T, K]`; V is the largest vocabulary among them."""
        pieces = self._products(x)
        if len(pieces) == 1:
            return pieces[0]
        widest = max(piece.shape[-1] for piece in pieces)
        return torch.cat([F.pad(p, (0, widest - p.shape[-1]), value=-torch.inf) for p in pieces])


class SwitchEmbedding(nn.Module):
    """The embedding: each token's row of its own expert's table."""

    def __init__(self, name: str, inner: nn.Embedding) -> None:
        super().__init__()
        self._inner = inner
        self._name = f"{name}.weight"
        self._sizes: list[int] = []
        self._parts: list[tuple[Operand | None, ExpertWeights]] = []
        inner._parameters.clear()
        # matters to gradients only, and need not be a row of what the inner module is given
        inner.padding_idx = None

    def bind(self, segments: Sequence[Segment]) -> None:
        """Use the tables of `segments` from now on."""
        self._sizes = [segment.rows for segment in segments]
        self._parts = [(s.weights.find(self._name), s.weights) for s in segments]

    def forward(self, token_ids: torch.Tensor) -> torch.Tensor:
        """The rows `[M, T, K]` of tokens `[M, T]`, scaled if the architecture does so."""
        inputs = (token_ids,) if len(self._sizes) == 1 else torch.split(token_ids, self._sizes)
        rows = [
            (operand or weights.form(self._name)).rows(part.reshape(-1))
            for part, (operand, weights) in zip(inputs, self._parts, strict=True)
        ]
        # the inner module looks up, and scales, every row of a table made of just these rows
        self._inner.__dict__["weight"] = rows[0] if len(rows) == 1 else torch.cat(rows)
        result: torch.Tensor = self._inner(torch.arange(token_ids.numel()).view(token_ids.shape))
        return result


class SwitchModule(nn.Module):
    """Any other module with parameters of its own: called once for each segment, with that segment's parameters."""

    def __init__(self, name: str, inner: nn.Module) -> None:
        super().__init__()
        self._inner = inner
        self._names = {p: f"{name}.{p}" for p, value in inner._parameters.items() if value is not None}
        self._sizes: list[int] = []
        self._parts: list[dict[str, torch.Tensor]] = []
        # plain attributes are found before registered parameters, and cost nothing to replace
        inner.__dict__.update(dict.fromkeys(inner._parameters))
        inner._parameters.clear()

    def bind(self, segments: Sequence[Segment]) -> None:
        """Use the parameters of `segments` from now on."""
        self._sizes = [segment.rows for segment in segments]
        self._parts = [{p: s.weights.vector(name) for p, name in self._names.items()} for s in segments]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What the module makes of rows `x` `[M, ...]`."""
        inputs = (x,) if len(self._sizes) == 1 else torch.split(x, self._sizes)
        pieces = []
        for part, parameters in zip(inputs, self._parts, strict=True):
            self._inner.__dict__.update(parameters)
            pieces.append(self._inner(part))
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


class SwitchNorm(nn.Module):
    """A norm that multiplies by its weight, for all rows at once: the weight gets a row for each row of the batch."""

    def __init__(self, name: str, inner: nn.Module) -> None:
        super().__init__()
        self._inner = inner
        self._name = f"{name}.weight"
        self._stacked = False
        self._weight = torch.empty(0)
        inner._parameters.clear()

    def bind(self, segments: Sequence[Segment]) -> None:
        """Use the parameters of `segments` from now on."""
        own = [segment.weights.vector(self._name) for segment in segments]
        self._stacked = len(own) > 1
        if self._stacked:
            rows = torch.tensor([segment.rows for segment in segments])
            self._weight = torch.stack(own).repeat_interleave(rows, dim=0)
        elif own:
            self._inner.__dict__["weight"] = own[0]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The norm of rows `x` `[M, ..., K]`."""
        if self._stacked:
            shape = (x.shape[0], *(1,) * (x.ndim - 2), x.shape[-1])
            self._inner.__dict__["weight"] = self._weight.view(shape)
        result: torch.Tensor = self._inner(x)
        return result


class SwitchModel:
    """A decoder built from a config, without parameters of its own: `bind` says whose to use."""

    def __init__(self, config: Any) -> None:
        self.config = config
        _check_attention(config)
        self._model = _build(config)
        self._switches = _replace(self._model)

    def bind(self, segments: Sequence[Segment]) -> None:
        """Use the parameters of `segments` for the batches from now on; none frees them."""
        for switch in self._switches:
            switch.bind(segments)

    @torch.inference_mode()
    def forward(
        self, token_ids: torch.Tensor, *, positions: torch.Tensor, mask: torch.Tensor, cache: SlotCache
    ) -> torch.Tensor:
        """The logits `[B, V]` after the last of `token_ids` `[B, T]`.

        Args:
            token_ids: int64, rows in the order of the bound segments.
            positions: of each token in its request, `[B, T]`.
            mask: `[B, 1, T, L]`, true where attention may look.
            cache: begun for these rows; keys and values are written into it.
        """
        out = self._model(
            input_ids=token_ids,
            position_ids=positions,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: torch.Tensor = out.logits
        return logits[:, -1]

    def new_cache(self, *, slots: int, tokens: int) -> SlotCache:
        """A cache for `slots` requests of up to `tokens` tokens each.

        Raises:
            UnsupportedModelError: attention would have to forget the first of so many tokens.
        """
        config = self.config
        window = getattr(config, "sliding_window", None)
        if window is not None and tokens > window:
            raise UnsupportedModelError(
                f"{config.model_type}: max_context_tokens must be at most the sliding window, {window}, got {tokens}"
            )
        heads = config.num_attention_heads
        return SlotCache(
            layers=config.num_hidden_layers,
            slots=slots,
            kv_heads=getattr(config, "num_key_value_heads", None) or heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
            tokens=tokens,
        )


def _check_attention(config: Any) -> None:
    if getattr(config, "attn_logit_softcapping", None) is not None:
        raise UnsupportedModelError(f"{config.model_type}: soft-capped attention logits are not supported")
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if unknown := kinds - {"full_attention", "sliding_attention"}:
        raise UnsupportedModelError(f"{config.model_type}: layers of type {sorted(unknown)} are not supported")
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") in ("dynamic", "longrope"):
        raise UnsupportedModelError(
            f"{config.model_type}: rope_type {rope['rope_type']!r} is not supported: its frequencies depend on the "
            "longest row of a batch"
        )


def _build(config: Any) -> nn.Module:
    from transformers import AutoModelForCausalLM

    # the random initial values are thrown away; the caller's generator must not notice
    with torch.random.fork_rng(devices=[]):
        model: nn.Module = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa")
    return model.eval().requires_grad_(False)


def _replace(model: Any) -> list[_Switch]:
    head = model.get_output_embeddings()
    switches: list[_Switch] = []
    for name, module in list(model.named_modules()):
        if not module._parameters or all(p is None for p in module._parameters.values()):
            continue
        if any(module.children()):
            raise UnsupportedModelError(f"{name} is a {type(module).__name__} with parameters and parts of its own")
        switch = _switch_for(name, module, is_head=module is head)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, switch)
        switches.append(switch)
    return switches


def _switch_for(
    name: str, module: nn.Module, *, is_head: bool
) -> SwitchLinear | SwitchEmbedding | SwitchModule | SwitchNorm:
    if type(module) is nn.Linear:
        kind = SwitchHead if is_head else SwitchLinear
        return kind(name, bias=module.bias is not None)
    if _broadcasts(module):
        return SwitchNorm(name, module)
    if isinstance(module, nn.Embedding):
        return SwitchEmbedding(name, module)
    return SwitchModule(name, module)


@torch.no_grad()
def _broadcasts(module: nn.Module) -> bool:
    """Whether the module accepts a weight with a row for each row of the batch, found by trying it."""
    if set(module._parameters) != {"weight"} or not isinstance(module.weight, torch.Tensor):
        return False
    weight = module.weight
    if weight.ndim != 1:
        return False
    K = weight.shape[0]
    generator = torch.Generator().manual_seed(0)
    x, weights = (torch.randn(shape, generator=generator) for shape in ((2, 3, K), (2, 1, K)))
    parameter = module._parameters.pop("weight")
    try:
        module.__dict__["weight"] = weights
        together = module(x)
        apart = []
        for row in range(2):
            module.__dict__["weight"] = weights[row, 0]
            apart.append(module(x[row : row + 1]))
        return torch.equal(together, torch.cat(apart))
    except (RuntimeError, ValueError):
        return False
    finally:
        module.__dict__.pop("weight", None)
        module._parameters["weight"] = parameter
