"""A delta and its base back into a plain Hugging Face checkpoint, one parameter at a time."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from meswitch.checkpoint import CONFIG_FILE, INDEX_FILE, SINGLE_FILE, Checkpoint
from meswitch.codecs import decompress
from meswitch.codecs.base import TensorSpec
from meswitch.delta import ExpertDelta
from meswitch.errors import CheckpointError
from meswitch.format.manifest import Manifest, ParameterRecord
from meswitch.format.reader import load_expert, open_delta
from meswitch.format.staging import staged
from meswitch.identity import checkpoint_identity
from meswitch.tensor_file import TensorFileWriter, dtype_from_name

__all__ = ["MERGE_DTYPES", "SHARD_BYTES", "merge", "merged_parameter"]

SHARD_BYTES = 5_000_000_000

MERGE_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def merge(
    base: Path,
    delta: Path,
    output: Path,
    dtype: torch.dtype | None = None,
    *,
    shard_bytes: int = SHARD_BYTES,
    progress: Callable[[str, int, int], None] | None = None,
) -> None:
    """Write base + delta to `output` as a checkpoint that `AutoModelForCausalLM` loads.

    Args:
        base: checkpoint directory of the base.
        delta: delta directory.
        output: a directory that does not exist, or is empty.
        dtype: of all parameters; `None` keeps the expert's own.
        shard_bytes: a file of weights is at most so large, a single larger tensor apart.
        progress: called with a parameter's name, its number and their count.

    Raises:
        BaseMismatchError: the delta was made from another base.
        CheckpointError: the base cannot be read, or the output exists.
        DeltaFormatError: the delta is damaged.
        StorageError: the disk refuses; nothing is left behind then.
    """
    _check_output(output)
    directory = open_delta(delta)
    checkpoint = Checkpoint(base)
    expert = load_expert(delta, base_identity=checkpoint_identity(checkpoint), verify=False)
    specs = {
        record.name: TensorSpec(record.shape, dtype or dtype_from_name(record.dtype))
        for record in directory.manifest.parameters
    }
    with staged(output) as root:
        # another process may have made one there since
        _check_output(output)
        for path in sorted(directory.tokenizer_dir.iterdir()):
            shutil.copyfile(path, root / path.name)
        if dtype is not None:
            _write_dtype(root / CONFIG_FILE, dtype)
        merged = _merged(checkpoint, expert, directory.manifest, progress)
        _write_shards(root, specs, merged, shard_bytes)


def _check_output(output: Path) -> None:
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise CheckpointError(f"the output of a merge must not exist yet, got {output}; choose another directory")


def merged_parameter(checkpoint: Checkpoint, expert: ExpertDelta, record: ParameterRecord) -> torch.Tensor:
    """One parameter of the expert: base + D̂ and added rows, float32, or its exact values."""
    if record.codec is None or record.base_parameter is None:
        return expert.exact[record.name]
    matrix = decompress(expert.matrices[record.name])
    matrix.add_(checkpoint.read(record.base_parameter))
    if record.name in expert.added_rows:
        matrix = torch.cat((matrix, expert.added_rows[record.name].float()))
    return matrix


def _merged(
    checkpoint: Checkpoint,
    expert: ExpertDelta,
    manifest: Manifest,
    progress: Callable[[str, int, int], None] | None,
) -> Iterator[tuple[str, torch.Tensor]]:
    for number, record in enumerate(manifest.parameters):
        if progress is not None:
            progress(record.name, number, len(manifest.parameters))
        yield record.name, merged_parameter(checkpoint, expert, record)


def _write_shards(
    root: Path, specs: dict[str, TensorSpec], merged: Iterator[tuple[str, torch.Tensor]], shard_bytes: int
) -> None:
    shards = _split(specs, shard_bytes)
    names = [SINGLE_FILE]
    if len(shards) > 1:
        names = [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    for name, shard in zip(names, shards, strict=True):
        writer = TensorFileWriter(root / name, shard)
        try:
            writer.start()
            for parameter, spec in shard.items():
                found, tensor = next(merged)
                assert found == parameter
                writer.write(parameter, tensor.to(spec.dtype))
            writer.finish()
        finally:
            writer.close()
    if len(shards) > 1:
        total = sum(spec.nbytes for spec in specs.values())
        weight_map = {parameter: name for name, shard in zip(names, shards, strict=True) for parameter in shard}
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        (root / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n")


def _split(specs: dict[str, TensorSpec], shard_bytes: int) -> list[dict[str, TensorSpec]]:
    shards: list[dict[str, TensorSpec]] = [{}]
    room = shard_bytes
    for name, spec in specs.items():
        if spec.nbytes > room and shards[-1]:
            shards.append({})
            room = shard_bytes
        shards[-1][name] = spec
        room -= spec.nbytes
    return shards


def _write_dtype(path: Path, dtype: torch.dtype) -> None:
    config = json.loads(path.read_text())
    # transformers renamed the field; a config keeps the one it has
    config["torch_dtype" if "torch_dtype" in config else "dtype"] = str(dtype).removeprefix("torch.")
    path.write_text(json.dumps(config, indent=2) + "\n")
