"""A base and an expert of a model's shape with fewer layers, of random weights: for time and memory, never for quality.

Weights are normal, and so is the difference, at 2 % of their size; both are kept in bfloat16, as fine-tunes are.
"""

import json
import random
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from harness.errors import UsageError
from harness.sizes import format_bytes
from meswitch.architecture import describe, read_config
from meswitch.checkpoint import CONFIG_FILE, SINGLE_FILE
from meswitch.codecs.base import TensorSpec
from meswitch.tensor_file import TensorFileWriter

__all__ = ["SyntheticPair", "write_pair", "write_texts"]

WEIGHT, DELTA = 0.02, 0.0004
WORDS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class SyntheticPair:
    """Two checkpoint directories.

    Attributes:
        largest_tensor_bytes: of either.
        model_bytes: of the expert.
    """

    base: Path
    expert: Path
    largest_tensor_bytes: int
    model_bytes: int


def write_pair(root: Path, config_dir: Path, *, layers: int, seed: int, device: str = "cpu") -> SyntheticPair:
    """Base and expert below `root`, of the config in `config_dir` with `layers` layers.

    One parameter of each is held at a time. The same seed gives the same bytes on the same kind of `device`, where
    weights are drawn.

    Raises:
        UnsupportedModelError: no checkpoint of that config can be compressed.
        UsageError: the disk has no room for both and a delta of at most the size of one.
    """
    content = {**json.loads((config_dir / CONFIG_FILE).read_text()), "num_hidden_layers": layers}
    content.pop("layer_types", None)
    for name in ("base", "expert"):
        (root / name).mkdir(parents=True)
        (root / name / CONFIG_FILE).write_text(json.dumps(content, indent=2))
        write_tokenizer(root / name, rows=content["vocab_size"])
    specs = specs_of(root / "base")
    sizes = [spec.nbytes for spec in specs.values()]
    needed, free = 3 * sum(sizes), shutil.disk_usage(root).free
    if needed > free:
        raise UsageError(
            f"base, expert and delta need {format_bytes(needed)}, and {root} has {format_bytes(free)} free; "
            "take fewer --layers, or another --scratch"
        )
    writers = [TensorFileWriter(root / name / SINGLE_FILE, specs) for name in ("base", "expert")]
    generator = torch.Generator(device).manual_seed(seed)
    for writer in writers:
        writer.start()
    for name, spec in specs.items():
        for writer, tensor in zip(writers, drawn(spec, generator), strict=True):
            writer.write(name, tensor)
    for writer in writers:
        writer.finish()
    return SyntheticPair(
        base=root / "base", expert=root / "expert", largest_tensor_bytes=max(sizes), model_bytes=sum(sizes)
    )


def specs_of(root: Path) -> dict[str, TensorSpec]:
    """The tensors of a checkpoint with the config in `root`, sorted by name."""
    config = read_config(root)
    tied = bool(getattr(config, "tie_word_embeddings", False))
    architecture = describe(config)
    shapes = {p.name: p.shape for p in architecture.parameters if not (tied and p.name == architecture.head)}
    return {name: TensorSpec(shape, torch.bfloat16) for name, shape in sorted(shapes.items())}


def drawn(spec: TensorSpec, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """A parameter of the base and of the expert, on the CPU; norms are near 1."""
    base = torch.randn(spec.shape, generator=generator, device=generator.device).mul_(WEIGHT)
    if len(spec.shape) == 1:
        base += 1
    expert = base + torch.randn(spec.shape, generator=generator, device=generator.device).mul_(DELTA)
    return base.to(spec.dtype).cpu(), expert.to(spec.dtype).cpu()


def write_tokenizer(root: Path, *, rows: int) -> None:
    """A tokenizer of a few words, all of them rows of the embedding."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {f"w{number}": number for number in range(min(WORDS, rows))}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(root / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast"}
    (root / "tokenizer_config.json").write_text(json.dumps(settings))


def write_texts(path: Path, *, texts: int, tokens: int, seed: int) -> None:
    """A file of calibration texts, one a line, of `tokens` words each."""
    rng = random.Random(f"texts/{seed}")
    lines = (" ".join(f"w{rng.randrange(WORDS)}" for _ in range(tokens)) for _ in range(texts))
    path.write_text("".join(line + "\n" for line in lines))
