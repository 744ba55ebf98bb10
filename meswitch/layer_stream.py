"""A decoder that reads texts one layer at a time: no more of it is held than one layer and what goes between layers.

Each layer is called as the model itself would call it, with the arguments that its own code made for that layer, so
that results are those of the whole model.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from meswitch.input_statistics import linears_of

__all__ = ["LayerStream", "NotAChainError", "Observe", "find_layers"]

Values = Callable[[str], torch.Tensor]
Observe = Callable[[Mapping[str, nn.Linear], Callable[[], None]], None]
"""Given linears by their parameters' names, and what makes them read all texts."""


class NotAChainError(Exception):
    """A model that is no plain chain: embedding, layers, head."""


class _HeadReached(Exception):  # noqa: N818, it is no error
    """The head would be computed now."""


class LayerStream:
    """The linears of a decoder while they read texts, layer by layer.

    Args:
        config: of a causal language model of transformers.
        values: a parameter by its name; called once for each.
        dtype: that everything is computed in.
        device: where one layer at a time lies, and all texts' hidden states.

    Attributes:
        model: its parameters are on the meta device, but for those of what is read now.

    Raises:
        NotAChainError: it is not made of an embedding, layers that are called in turn, and a head.
    """

    def __init__(self, config: Any, values: Values, *, dtype: torch.dtype, device: torch.device) -> None:
        from transformers import AutoModelForCausalLM

        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=dtype)
        self.model = model.eval().requires_grad_(False)
        self._values, self._dtype, self._device = values, dtype, device
        self._prefix, self._layers = find_layers(model, config.num_hidden_layers)
        self._head = model.get_output_embeddings()
        outer = linears_of(self.model).keys() - {f"{self._name_of(self._head)}.weight"}
        if any(not name.startswith(self._prefix) for name in outer):
            raise NotAChainError("a linear is neither in a layer nor the head")
        self._restore_buffers()
        self._states: list[torch.Tensor] = []
        self._calls: list[list[tuple[tuple[Any, ...], dict[str, Any]]]] = []

    def __len__(self) -> int:
        """The layers, and the head."""
        return len(self._layers) + 1

    def start(self, texts: Sequence[Sequence[int]]) -> None:
        """Embed the token ids of `texts`; none may be empty.

        Raises:
            NotAChainError: the model does not call its layers in turn.
        """
        self._load(self._outer)
        self._states, self._calls = [], []
        for ids in texts:
            self._embed(torch.tensor([list(ids)], device=self._device))
        self._release(self._outer)

    def steps(self, observe: Observe) -> Iterator[int]:
        """Read on, layer by layer, and then up to the head; the number of the step after each."""
        for number, layer in enumerate(self._layers):
            names = [f"{self._prefix}{number}.{name}" for name, _ in layer.named_parameters()]
            self._load(names)
            observe(linears_of(layer, f"{self._prefix}{number}."), partial(self._read, number))
            self._release(names)
            yield number
        self._load(self._outer)
        observe({f"{self._name_of(self._head)}.weight": self._head}, self._read_head)
        self._release(self._outer)
        yield len(self._layers)

    @property
    def _outer(self) -> list[str]:
        """What is in no layer, but for the head."""
        head = f"{self._name_of(self._head)}."
        names = (name for name, _ in self.model.named_parameters())
        return [name for name in names if not name.startswith((self._prefix, head))]

    @torch.inference_mode()
    def _embed(self, ids: torch.Tensor) -> None:
        first: list[torch.Tensor] = []
        calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

        def passing(number: int) -> Callable[..., torch.Tensor]:
            def forward(hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
                if len(calls) != number:
                    raise NotAChainError("layers are not called in turn")
                first.append(hidden_states)
                calls.append((args, kwargs))
                return hidden_states

            return forward

        reached = self._run_model([passing(number) for number in range(len(self._layers))], input_ids=ids)
        if len(calls) != len(self._layers) or reached != first[0].shape:
            raise NotAChainError("the head does not read what the last layer gives")
        self._states.append(first[0])
        self._calls.append(calls)

    @torch.inference_mode()
    def _read(self, number: int) -> None:
        layer = self._layers[number]
        for text, calls in enumerate(self._calls):
            args, kwargs = calls[number]
            output = layer(self._states[text], *args, **kwargs)
            self._states[text] = output[0] if isinstance(output, tuple) else output

    @torch.inference_mode()
    def _read_head(self) -> None:
        for state in self._states:
            # whatever it embeds, the last layer's output takes its place
            passing = [_constant(state)] * len(self._layers)
            self._run_model(passing, inputs_embeds=state)

    def _run_model(self, forwards: Sequence[Callable[..., torch.Tensor]], **inputs: torch.Tensor) -> torch.Size | None:
        """Run the model with `forwards` in place of its layers' own, up to the head; the shape of the head's input."""
        shape: list[torch.Size] = []

        def stop(_: nn.Module, given: tuple[Any, ...]) -> None:
            shape.append(given[0].shape)
            raise _HeadReached

        handle = self._head.register_forward_pre_hook(stop)
        try:
            for layer, forward in zip(self._layers, forwards, strict=True):
                layer.__dict__["forward"] = forward
            self.model(**inputs, use_cache=False)
        except _HeadReached:
            return shape[0]
        finally:
            handle.remove()
            for layer in self._layers:
                layer.__dict__.pop("forward", None)
        return None

    def _load(self, names: Sequence[str]) -> None:
        for name in names:
            self._place(name, self._values(name).to(self._device, self._dtype))

    def _release(self, names: Sequence[str]) -> None:
        for name in names:
            self._place(name, self.model.get_parameter(name).to("meta"))

    def _place(self, name: str, value: torch.Tensor) -> None:
        module, _, own = name.rpartition(".")
        self.model.get_submodule(module)._parameters[own] = nn.Parameter(value, requires_grad=False)

    def _name_of(self, wanted: nn.Module) -> str:
        names: Iterator[str] = (name for name, module in self.model.named_modules() if module is wanted)
        return next(names)

    def _restore_buffers(self) -> None:
        """What follows from the config, such as rotary frequencies: a model without weights does not have it."""
        for module in self.model.modules():
            own = {name: buffer for name, buffer in module._buffers.items() if buffer is not None}
            if not own:
                continue
            for name, buffer in own.items():
                unknown = torch.nan if buffer.is_floating_point() else torch.iinfo(buffer.dtype).min
                module._buffers[name] = torch.full_like(buffer, unknown, device=self._device)
            self.model._init_weights(module)
            if any(_is_unknown(buffer) for name in own if (buffer := module._buffers[name]) is not None):
                raise NotAChainError(f"the buffers of {type(module).__name__} are not known from its config")


def find_layers(model: nn.Module, count: int) -> tuple[str, nn.ModuleList]:
    """The name that the parameters of the `count` decoder layers start with, and the layers.

    Raises:
        NotAChainError: there is no list of so many.
    """
    lists = [(f"{name}.", m) for name, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m) == count]
    if not lists:
        raise NotAChainError(f"there is no list of {count} layers")
    # the outermost comes first
    return lists[0]


def _constant(state: torch.Tensor) -> Callable[..., torch.Tensor]:
    return lambda *_, **__: state


def _is_unknown(buffer: torch.Tensor) -> bool:
    if buffer.is_floating_point():
        return bool(buffer.isnan().any())
    return bool((buffer == torch.iinfo(buffer.dtype).min).any())
