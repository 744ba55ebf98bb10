"""An expert's linear weights as a codec describes them, here or, where that takes long, by other processes.

The described delta is written as D̂; it is float32, `[N, K]`, by parameter name.
"""

import os
from collections.abc import Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from uuid import uuid4

import torch

from harness.answers import end_on_interrupt
from harness.fidelity.moments import Moments
from harness.fidelity.stacked import Stacks
from harness.fidelity.subject import Subject
from meswitch.codecs import Codec, decompress, parse_codec, takes_second_moment

__all__ = [
    "HeavyWork",
    "describe",
    "describe_one",
    "is_heavy",
    "size_of",
    "stacks_of",
]

Described = Mapping[str, torch.Tensor]
SIXTEEN_BITS = 2
MATRICES_A_TURN = 8
"""How many a process takes before it looks whether it is still wanted."""


def is_heavy(codec: Codec) -> bool:
    """Whether it decomposes large matrices."""
    return codec.name in ("lowrank", "eora")


def describe_one(codec: Codec, delta: torch.Tensor, second: torch.Tensor | None, sums: torch.Tensor) -> torch.Tensor:
    """D̂ of one matrix."""
    sums = sums.to(delta.device)
    if takes_second_moment(codec):
        moment = None if second is None else second.to(delta.device)
        return decompress(codec.compress(delta, input_square_sum=sums, input_second_moment=moment))
    return decompress(codec.compress(delta, input_square_sum=sums))


def describe(codec: Codec, stacks: Stacks) -> dict[str, torch.Tensor]:
    """D̂ of all linears, on the deltas' device; products are rounded to no less than float32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        found, moments = stacks.describe(codec), stacks.moments
        if found is not None:
            return found
        return {
            name: describe_one(codec, delta, moments.second[name], moments.square_sums[name])
            for name, delta in stacks.deltas.items()
        }
    finally:
        torch.set_float32_matmul_precision(before)


def stacks_of(subject: Subject, moments: Moments, *, half: bool = False) -> Stacks:
    """The deltas of a subject's linears."""
    expert = subject.trained(half)
    return Stacks({name: expert[name] - subject.base[name] for name in subject.linears}, moments)


def size_of(codec: Codec, subject: Subject) -> tuple[float, int]:
    """Bits per linear weight, and bytes of the whole expert with everything that is not linear in 16 bits."""
    linears, weights, others = 0, 0, 0
    names = set(subject.linears)
    for name, tensor in subject.base.items():
        if name in names:
            N, K = tensor.shape
            linears += sum(spec.nbytes for spec in codec.layout(N, K).values())
            weights += N * K
        else:
            others += SIXTEEN_BITS * tensor.numel()
    return 8 * linears / weights, linears + others


class HeavyWork:
    """Describes matrices in other processes while this one goes on.

    Args:
        folder: for files that pass between the processes; the caller removes it.
        processes: each with one thread.
    """

    def __init__(self, folder: Path, processes: int) -> None:
        self.folder, self.processes = folder, processes
        self.pool = ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=_begin)
        self.jobs: dict[tuple[str, str], list[Future[Path]]] = {}

    def begin(self, label: str, subject: Subject, moments: Moments, specs: tuple[str, ...]) -> None:
        """Set out to describe a subject, which `label` stands for, by each of `specs`."""
        if not specs:
            return
        places = {}
        for name in subject.linears:
            places[name] = self.folder / f"{uuid4().hex}.pt"
            delta = (subject.expert[name] - subject.base[name]).cpu()
            torch.save((delta, moments.second[name].cpu(), moments.square_sums[name].cpu()), places[name])
        # the widest first, so that none is left over at the end
        order = sorted(subject.linears, key=lambda name: -subject.base[name].shape[1])
        for spec in specs:
            count = max(self.processes, -(-len(order) // MATRICES_A_TURN))
            parts = [{name: places[name] for name in order[i::count]} for i in range(count)]
            self.jobs[label, spec] = [self.pool.submit(_work, spec, part, self.folder) for part in parts if part]

    def is_done(self, label: str, spec: str) -> bool:
        """Whether nothing has to be waited for."""
        return all(future.done() for future in self.jobs.get((label, spec), []))

    def collect(self, label: str, spec: str, device: torch.device) -> dict[str, torch.Tensor] | None:
        """What `begin` set out to make, waited for if need be; `None` if it never did."""
        futures = self.jobs.pop((label, spec), None)
        if futures is None:
            return None
        described: dict[str, torch.Tensor] = {}
        for future in futures:
            path = future.result()
            described |= {name: tensor.to(device) for name, tensor in torch.load(path).items()}
            path.unlink()
        return described

    def close(self) -> None:
        """Drop what has not begun, and end the processes."""
        self.pool.shutdown(wait=True, cancel_futures=True)


def _begin() -> None:
    end_on_interrupt()
    os.nice(5)
    torch.set_num_threads(1)


def _work(spec: str, places: Mapping[str, Path], folder: Path) -> Path:
    codec = parse_codec(spec)
    described = {name: describe_one(codec, *torch.load(path)) for name, path in places.items()}
    output = folder / f"{uuid4().hex}.pt"
    torch.save(described, output)
    return output
