"""What the expert's linears see when it reads calibration texts, one layer at a time.

Second moments of a whole 7B model would take more memory than the model itself.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from blake3 import blake3
from torch import nn

from meswitch.calibration import collect_input_second_moments, collect_input_square_sums
from meswitch.calibration_file import read_texts
from meswitch.codecs import Codec, CompressedDelta, takes_second_moment
from meswitch.errors import CheckpointError
from meswitch.format.manifest import CalibrationRecord
from meswitch.input_statistics import checked, collecting, second_moment, square_sum
from meswitch.layer_stream import LayerStream, NotAChainError
from meswitch.pair import Pair

__all__ = ["Calibration", "CalibrationStream", "InputStatistics", "collect_statistics", "compress_delta", "load_expert"]

MAX_TOKENS = 2048
"""Of one text; later ones are cut off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InputStatistics:
    """Of one linear's inputs over all tokens.

    Attributes:
        square_sum: `Σ x_k²` `[K]`.
        second_moment: `Σ x xᵀ` `[K, K]`, where it was asked for.
    """

    square_sum: torch.Tensor
    second_moment: torch.Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Statistics of the linears' inputs.

    Attributes:
        square_sums: `Σ x_k²` `[K]` by parameter name.
        record: where they came from.
        second_moments: `Σ x xᵀ` `[K, K]` by parameter name, of the linears that they were asked for.
    """

    square_sums: Mapping[str, torch.Tensor]
    record: CalibrationRecord
    second_moments: Mapping[str, torch.Tensor] = field(default_factory=dict)


class CalibrationStream:
    """Statistics of the expert's linears over the texts of a file, each there until it is asked for.

    Holds one decoder layer and the hidden states of all texts; where the model is no plain chain of layers, the model.

    Args:
        pair: base and expert.
        file: see `read_texts`.
        second_moments: parameters of which second moments are collected too; those that are no linears of the model
            have none.
        device: where the expert is computed.
        progress: called with the number of layers that were read, of how many, the head included.

    Raises:
        CheckpointError: the file is not one of texts, or the expert has no tokenizer.
    """

    def __init__(
        self,
        pair: Pair,
        file: Path,
        *,
        second_moments: Collection[str] = (),
        device: torch.device | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        texts = read_texts(file)
        self._file, self._pair, self._moments = file, pair, frozenset(second_moments)
        self._device, self._progress = device or torch.device("cpu"), progress
        tokenizer = _load_tokenizer(pair)
        ids = [list(tokenizer(text)["input_ids"])[:MAX_TOKENS] for text in texts]
        self._ids = [row for row in ids if row]
        if not self._ids:
            raise CheckpointError(f"{file} cannot calibrate this expert: its texts must have tokens, got none")
        digest = blake3(file.read_bytes()).hexdigest()
        self.record = CalibrationRecord(file=file.name, blake3=digest, texts=len(texts))
        self._steps = self._collected()
        self._held: dict[str, InputStatistics] = {}

    @property
    def texts(self) -> Sequence[Sequence[int]]:
        """The token ids of each text that has any, cut off at 2048."""
        return self._ids

    def of(self, name: str) -> InputStatistics | None:
        """The statistics of a linear's inputs; `None` if the model has no linear of that name, or after the last one.

        Ask in the order of the model's parameters: what is asked for is given away, and what was passed is forgotten.

        Raises:
            CheckpointError: an input is not finite.
        """
        if name not in self._pair.linear_names:
            return None
        while name not in self._held:
            step = next(self._steps, None)
            if step is None:
                return None
            self._held = step
        return self._held.pop(name)

    def rest(self) -> Iterator[tuple[str, InputStatistics]]:
        """All that is left, in the order of the model's linears.

        Raises:
            CheckpointError: an input is not finite.
        """
        yield from self._held.items()
        for step in self._steps:
            yield from step.items()

    def _collected(self) -> Iterator[dict[str, InputStatistics]]:
        """The statistics of one layer after the other."""
        try:
            try:
                stream = self._start()
            except NotAChainError:
                yield self._of_whole_model()
                return
            found: dict[str, InputStatistics] = {}
            for done in stream.steps(lambda linears, read: found.update(self._observe(linears, read))):
                if self._progress is not None:
                    self._progress(done + 1, len(stream))
                yield dict(found)
                found.clear()
        except ValueError as cause:
            raise CheckpointError(f"{self._file} cannot calibrate this expert: {cause}") from cause

    def _start(self) -> LayerStream:
        expert = self._pair.expert
        stream = LayerStream(expert.config, expert.values, dtype=_model_dtype(self._pair), device=self._device)
        stream.start(self._ids)
        return stream

    def _observe(self, linears: Mapping[str, nn.Linear], read: Callable[[], None]) -> dict[str, InputStatistics]:
        wanted = {name: linear for name, linear in linears.items() if name in self._moments}
        with ExitStack() as stack:
            sums = stack.enter_context(collecting(linears, square_sum, 0, device=self._device))
            moments = stack.enter_context(collecting(wanted, second_moment, 0, device=self._device))
            read()
        # one at a time, so that both precisions of all are never held together
        return {
            name: InputStatistics(
                square_sum=checked(name, total),
                second_moment=checked(name, moments.pop(name)) if name in moments else None,
            )
            for name, total in sums.items()
        }

    def _of_whole_model(self) -> dict[str, InputStatistics]:
        model = load_expert(self._pair).to(self._device)
        texts = {str(number): {"input_ids": ids} for number, ids in enumerate(self._ids)}
        sums = collect_input_square_sums(model, texts.__getitem__, texts)
        wanted = [name for name in sums if name in self._moments]
        moments = collect_input_second_moments(model, texts.__getitem__, texts, names=wanted) if wanted else {}
        return {name: InputStatistics(square_sum=sums[name], second_moment=moments.get(name)) for name in sums}


def collect_statistics(pair: Pair, file: Path, *, second_moments: Collection[str] = ()) -> Calibration:
    """All statistics of the expert's linears over the texts of `file`; arguments and errors of `CalibrationStream`."""
    stream = CalibrationStream(pair, file, second_moments=second_moments)
    found = dict(stream.rest())
    return Calibration(
        square_sums={name: statistics.square_sum for name, statistics in found.items()},
        record=stream.record,
        second_moments={name: s.second_moment for name, s in found.items() if s.second_moment is not None},
    )


def compress_delta(codec: Codec, delta: torch.Tensor, statistics: InputStatistics | None) -> CompressedDelta:
    """`delta` `[N, K]` as `codec` describes it, with all that is known of its inputs and that the codec can use."""
    if statistics is None:
        return codec.compress(delta)
    sums, moment = statistics.square_sum.to(delta.device), statistics.second_moment
    if moment is not None and takes_second_moment(codec):
        return codec.compress(delta, input_square_sum=sums, input_second_moment=moment.to(delta.device))
    return codec.compress(delta, input_square_sum=sums)


def _load_tokenizer(pair: Pair) -> Callable[[str], Mapping[str, Sequence[int]]]:
    from transformers import AutoTokenizer

    source = pair.expert
    files = [path for path in source.companions() if path.name.startswith("tokenizer")]
    if not files:
        raise CheckpointError(f"calibration needs the expert's tokenizer, but {source.root} has none")
    try:
        tokenizer: Callable[[str], Mapping[str, Sequence[int]]] = AutoTokenizer.from_pretrained(
            files[0].parent, local_files_only=True
        )
    except (OSError, ValueError, KeyError, TypeError) as cause:
        reason = str(cause).strip().splitlines()[0]
        raise CheckpointError(f"the tokenizer in {files[0].parent} cannot be loaded: {reason}") from cause
    return tokenizer


def _model_dtype(pair: Pair) -> torch.dtype:
    """What transformers would load the expert in: its config's word counts, then its weights'."""
    stated = getattr(pair.expert.config, "dtype", None) if pair.expert.kind == "checkpoint" else None
    return stated if isinstance(stated, torch.dtype) else pair.expert.spec(pair.architecture.embedding).dtype


def load_expert(pair: Pair) -> Any:
    """The expert's whole model, on the CPU, in the type that its config or weights say."""
    from transformers import AutoModelForCausalLM

    source = pair.expert
    if source.kind == "checkpoint":
        return AutoModelForCausalLM.from_pretrained(source.root, local_files_only=True, dtype="auto")
    model = AutoModelForCausalLM.from_config(source.config, dtype=_model_dtype(pair))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(source.values(name))
    return model
