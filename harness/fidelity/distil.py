"""Gains of a described delta, trained so that the model's distribution comes near the expert's.

After the scale distillation of BitDelta (Liu et al., arXiv 2402.10193) and the learnt steps of ME-Switch (arXiv
2406.09041), whose recipes are not public in all parts. Ours: KL to the expert at the answer tokens of training items,
Adam, gains alone; one for each matrix or each output channel, by which its step and its salient values are multiplied.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F

from harness.fidelity.subject import Subject, take_weights
from meswitch.families.pocket.forward import hidden_of
from meswitch.families.smollm2.rows import IGNORED, Encoded, Rows, pad

__all__ = ["DistilConfig", "Distiller"]

Over = Literal["rows", "matrix"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DistilConfig:
    """How gains are trained: `steps` of Adam over `batch` training items each, from gains of 1.

    Attributes:
        items: the first so many calibration items are seen: each batch of them is captured as a graph of its own.
    """

    steps: int = 96
    batch: int = 128
    items: int = 1024
    learning_rate: float = 0.02


class Distiller:
    """Trains the gains of one description of an expert after another, on CUDA by captured graphs.

    Args:
        subject: its model holds other weights afterwards, and after each training.
        config: steps, batch and learning rate.
    """

    def __init__(self, subject: Subject, config: DistilConfig) -> None:
        self.subject, self.config = subject, config
        self.model, self.names = subject.model, subject.linears
        parameters = dict(self.model.named_parameters())
        self.places = [parameters[name] for name in self.names]
        self.base = [subject.base[name] for name in self.names]
        # captured graphs read every description from here
        self.described = [torch.zeros_like(base) for base in self.base]
        take_weights(self.model, subject.expert)
        device = self.model.lm_head.weight.device
        self.batches = [Batch(pad(part, device), self.model) for part in cut(subject.calibration, config.batch)]
        self.runs: dict[Over, Run] = {}
        self.pool: Any = None
        if device.type == "cuda":
            # the graphs of the subject before are gone; those of this one follow each other and share their memory
            torch.cuda.empty_cache()
            self.pool = torch.cuda.graph_pool_handle()

    def train(self, described: Mapping[str, torch.Tensor], over: Over) -> dict[str, torch.Tensor]:
        """`described` with its trained gains: one for each row (output channel), or for each `matrix`."""
        if over not in self.runs:
            self.runs[over] = Run(self, over)
        run = self.runs[over]
        for place, name in zip(self.described, self.names, strict=True):
            place.copy_(described[name])
        run.reset()
        for number in range(self.config.steps):
            run.rate.fill_(self.config.learning_rate * (1 - number / self.config.steps))
            run.steps[number % len(run.steps)]()
        gains = zip(self.names, run.gains, strict=True)
        return {name: described[name] * gain for name, gain in gains}


class Batch:
    """Training items, and what the expert, whose weights the model holds now, makes of their answers."""

    def __init__(self, rows: Rows, model: Any) -> None:
        self.rows = rows
        first = torch.arange(len(rows), device=rows.ids.device).unsqueeze(1) * rows.ids.shape[1]
        # an index of known length: a mask's would have to be waited for
        self.places = (first + rows.places)[rows.labels != IGNORED]
        # not the logits: those of a thousand long answers would take tens of gigabytes
        with torch.no_grad():
            self.expected = self.states(model)

    def states(self, model: Any) -> torch.Tensor:
        """Hidden states before the answer tokens, `[n, H]`."""
        return hidden_of(model, self.rows.ids).flatten(0, 1).index_select(0, self.places)

    def loss(self, model: Any) -> torch.Tensor:
        """KL(expert ‖ model) of an answer token, in nats; the head is the expert's."""
        head = model.lm_head.weight
        with torch.no_grad():
            target = F.log_softmax(F.linear(self.expected, head), dim=-1)
        found = F.log_softmax(F.linear(self.states(model), head), dim=-1)
        return F.kl_div(found, target, log_target=True, reduction="batchmean")


class Run:
    """Gains, their optimiser, and one step for each batch."""

    def __init__(self, distiller: Distiller, over: Over) -> None:
        self.distiller, self.over = distiller, over
        self.gains = [torch.ones(len(base) if over == "rows" else 1, 1, device=base.device) for base in distiller.base]
        device = self.gains[0].device
        for gain in self.gains:
            gain.grad = torch.zeros_like(gain)
        # a tensor, so that a captured graph sees each new value
        self.rate = torch.zeros((), device=device)
        cuda = device.type == "cuda"
        self.optimizer = torch.optim.Adam(self.gains, lr=self.rate, fused=True, capturable=cuda)
        seen = distiller.batches[: max(1, distiller.config.items // distiller.config.batch)]
        self.steps = [self.captured(batch) if cuda else self.plain(batch) for batch in seen]

    def reset(self) -> None:
        """Gains of 1, and an optimiser that has seen nothing, in place."""
        for gain in self.gains:
            gain.fill_(1.0)
        for state in self.optimizer.state.values():
            for tensor in state.values():
                tensor.zero_()

    def plain(self, batch: Batch) -> Callable[[], None]:
        """A step on `batch`."""
        return lambda: self.step(batch)

    def captured(self, batch: Batch) -> Callable[[], None]:
        """The same as a CUDA graph."""
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                self.step(batch)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.distiller.pool):
            self.step(batch)
        return graph.replay

    def step(self, batch: Batch) -> None:
        """One step of Adam."""
        distiller = self.distiller
        parts = list(zip(distiller.places, distiller.base, distiller.described, self.gains, strict=True))
        with torch.no_grad():
            for place, base, described, gain in parts:
                place.copy_(base).addcmul_(described, gain)
        gradients = torch.autograd.grad(batch.loss(distiller.model), distiller.places)
        for (_, _, described, gain), gradient in zip(parts, gradients, strict=True):
            along = gradient * described
            assert gain.grad is not None
            gain.grad.copy_(along.sum(dim=1, keepdim=True) if self.over == "rows" else along.sum().view(1, 1))
        self.optimizer.step()


def cut(items: Sequence[Encoded], size: int) -> list[Sequence[Encoded]]:
    """Consecutive parts of `size` items; the last may be shorter."""
    return [items[start : start + size] for start in range(0, len(items), size)]
