"""A PEFT LoRA adapter as an expert: its product `scale · B A` is the delta.

Only what PEFT would merge into plain matrices is taken. Every other kind, and every tensor that is not accounted for,
is refused by name: an adapter that is understood by halves would be another expert.
"""

import copy
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from blake3 import blake3

from meswitch.architecture import Architecture, ParameterKind
from meswitch.checkpoint import CONFIG_FILE, Checkpoint, companions_of, read_json
from meswitch.codecs.base import TensorSpec
from meswitch.errors import CheckpointError, ShapeMismatchError, UnsupportedModelError
from meswitch.format.writer import hash_file
from meswitch.tensor_file import StoredTensor, read_header, read_tensor

__all__ = ["ADAPTER_CONFIG", "AdapterSource"]

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_FILE = "adapter_model.safetensors"
PREFIX = "base_model.model."

# these only ever mattered while the adapter was trained, or are used below
UNDERSTOOD = frozenset(
    {
        "alpha_pattern",
        "auto_mapping",
        "base_model_name_or_path",
        "bias",
        "corda_config",
        "ensure_weight_tying",
        "eva_config",
        "exclude_modules",
        "inference_mode",
        "init_lora_weights",
        "layers_pattern",
        "layers_to_transform",
        "loftq_config",
        "lora_alpha",
        "lora_dropout",
        "lora_ga_config",
        "megatron_core",
        "modules_to_save",
        "peft_type",
        "peft_version",
        "qalora_group_size",
        "r",
        "rank_pattern",
        "revision",
        "runtime_config",
        "target_modules",
        "task_type",
        "use_rslora",
    }
)

# every other way to start moves part of the base's weights into the adapter
PLAIN_STARTS = (True, False, None, "gaussian", "orthogonal", "eva")

FACTOR = re.compile(r"(?P<module>.+)\.(?P<factor>lora_A\.weight|lora_B\.weight|lora_embedding_A|lora_embedding_B)")

COPIES = re.compile(r"\.(base_layer|modules_to_save|original_module)\.")


@dataclass(frozen=True, slots=True)
class LowRank:
    """The two factors of one matrix: `down` `[r, K]` and `up` `[N, r]`, or of a table, `[r, N]` and `[K, r]`."""

    down: StoredTensor
    up: StoredTensor
    is_table: bool
    scale: float


class AdapterSource:
    """An adapter on top of `base`, read parameter by parameter.

    Raises:
        CheckpointError: the adapter's files are missing or damaged.
        UnsupportedModelError: it is of a kind that cannot be written as a delta.
        ShapeMismatchError: its factors do not fit the base.
    """

    kind: Literal["adapter"] = "adapter"

    def __init__(
        self, root: Path, base: Checkpoint, config: Any, architecture: Architecture, *, base_tied: bool
    ) -> None:
        self.root = root
        self._base = base
        self._architecture = architecture
        self._settings = settings = read_json(root / ADAPTER_CONFIG)
        _check_kind(root, settings)
        tensors = _read_tensors(root)
        self._products, self._replaced = _sort_tensors(root, tensors, settings, architecture)
        self._check_shapes()
        self.tied = self._decide_tied(base_tied)
        self.config = copy.deepcopy(config)
        self.config.vocab_size = self.spec(architecture.embedding).shape[0]
        self.config.tie_word_embeddings = self.tied
        self._base_config = config

    def config_json(self) -> dict[str, Any]:
        """The base's config, with the expert's own vocabulary and head."""
        content = read_json(self._base.root / CONFIG_FILE)
        for field in ("vocab_size", "tie_word_embeddings"):
            if getattr(self.config, field) != getattr(self._base_config, field):
                content[field] = getattr(self.config, field)
        return content

    @property
    def nbytes(self) -> int:
        """Bytes of the adapter's tensors."""
        return (self.root / ADAPTER_FILE).stat().st_size

    def identity(self, *, progress: Callable[[int], None] | None = None) -> str:
        """`blake3:<hex>` over the adapter's two files."""
        if progress is not None:
            progress(self.nbytes)
        parts = [hash_file(self.root / name).blake3 for name in (ADAPTER_CONFIG, ADAPTER_FILE)]
        return f"blake3:{blake3(json.dumps(parts).encode()).hexdigest()}"

    def spec(self, name: str) -> TensorSpec:
        """Shape and dtype of a parameter in the expert: the base's, unless the adapter replaces it."""
        return self._replaced[name].spec if name in self._replaced else self._base.spec(name)

    def values(self, name: str) -> torch.Tensor:
        """The expert's own values of a parameter."""
        replaced = name in self._replaced
        own = read_tensor(self._replaced[name], error=CheckpointError) if replaced else self._base.read(name)
        return own if name not in self._products else (self._product(name) + own).to(own.dtype)

    def delta(self, name: str, base: torch.Tensor) -> torch.Tensor:
        """The product, plus replaced values minus `base` `[N, K]`, float32; zeros where the adapter has neither."""
        rows = base.shape[0]
        has_product = name in self._products
        matrix = (
            self._product(name)[:rows].to(base.device)
            if has_product
            else base.new_zeros(base.shape, dtype=torch.float32)
        )
        if name in self._replaced:
            # the difference of near values first: it is exact, and adding the base to the product would round
            own = read_tensor(self._replaced[name], error=CheckpointError)
            matrix += own[:rows].to(base.device).float().sub_(base)
        return matrix

    def _product(self, name: str) -> torch.Tensor:
        product = self._products[name]
        down = read_tensor(product.down, error=CheckpointError).float()
        up = read_tensor(product.up, error=CheckpointError).float()
        matrix = (up @ down).mul_(product.scale)
        return matrix.T.contiguous() if product.is_table else matrix

    def companions(self) -> tuple[Path, ...]:
        """The adapter's tokenizer files if it has its own tokenizer, else the base's with its own on top."""
        own = {path.name: path for path in companions_of(self.root)}
        below = {path.name: path for path in self._base.companions()}
        if "tokenizer_config.json" in own:
            below = {name: path for name, path in below.items() if name in (CONFIG_FILE, "generation_config.json")}
        return tuple({**below, **own}.values())

    def _check_shapes(self) -> None:
        for name, product in self._products.items():
            rows, width = self.spec(name).shape
            expected = (rows, width) if not product.is_table else (width, rows)
            down, up = product.down.spec.shape, product.up.spec.shape
            if len(down) != 2 or len(up) != 2 or up[1] != down[0] or (up[0], down[1]) != expected:
                raise ShapeMismatchError(
                    f"{self.root}: the factors of {name} must multiply to the base's shape {[rows, width]}, "
                    f"got {list(up)} and {list(down)}; is this the right base?"
                )

    def _decide_tied(self, base_tied: bool) -> bool:
        """Whether the head is the embedding table; refuses what PEFT itself leaves open."""
        if not base_tied:
            return False
        embedding, head = self._architecture.embedding, self._architecture.head
        if embedding in self._products or head in self._products:
            raise UnsupportedModelError(
                f"{self.root}: factors of an embedding or a head that the base ties together are not supported; "
                "merge the adapter with peft and compress the result"
            )
        trained = any(name in embedding for name in self._settings.get("modules_to_save") or ())
        if trained and head not in self._replaced:
            raise UnsupportedModelError(
                f"{self.root} replaces the embedding but not the head that the base ties to it; "
                "merge the adapter with peft and compress the result"
            )
        if head not in self._replaced:
            return True
        return embedding in self._replaced and torch.equal(self.values(embedding), self.values(head))


def _check_kind(root: Path, settings: Mapping[str, Any]) -> None:
    where = root / ADAPTER_CONFIG
    if settings.get("peft_type") != "LORA":
        raise UnsupportedModelError(f"{where}: peft_type must be LORA, got {settings.get('peft_type')!r}")
    for field, value in settings.items():
        if value and field not in UNDERSTOOD:
            raise UnsupportedModelError(f"{where}: {field} is not supported, got {value!r}; merge it with peft first")
    start = settings.get("init_lora_weights", True)
    if start not in PLAIN_STARTS:
        raise UnsupportedModelError(
            f"{where}: an adapter with init_lora_weights {start!r} belongs to a changed base; merge it with peft first"
        )
    if not isinstance(settings.get("r"), int) or not isinstance(settings.get("lora_alpha"), int | float):
        raise CheckpointError(f"{where} must have numbers r and lora_alpha")


def _read_tensors(root: Path) -> Mapping[str, StoredTensor]:
    if not (root / ADAPTER_FILE).is_file():
        raise CheckpointError(f"{root} holds no {ADAPTER_FILE}; save the adapter as safetensors")
    return read_header(root / ADAPTER_FILE, error=CheckpointError)


def _sort_tensors(
    root: Path, tensors: Mapping[str, StoredTensor], settings: Mapping[str, Any], architecture: Architecture
) -> tuple[dict[str, LowRank], dict[str, StoredTensor]]:
    """The products and the replaced parameters, by parameter name."""
    kinds = {p.name: p.kind for p in architecture.parameters}
    factors: dict[str, dict[str, StoredTensor]] = {}
    replaced: dict[str, StoredTensor] = {}
    # shortest first: the plain name is what peft itself loads where a file holds several copies of one module
    for key, stored in sorted(tensors.items(), key=lambda item: len(item[0])):
        name = key.removeprefix(PREFIX)
        found = FACTOR.fullmatch(name)
        parameter = f"{found['module']}.weight" if found else COPIES.sub(".", name)
        if kinds.get(parameter, ParameterKind.EXACT) is ParameterKind.EXACT and (found or parameter not in kinds):
            raise UnsupportedModelError(f"{root / ADAPTER_FILE}: {key} changes nothing that this base has")
        if found:
            factors.setdefault(parameter, {})[found["factor"]] = stored
        else:
            replaced.setdefault(parameter, stored)
    return {name: _low_rank(root, name, parts, settings) for name, parts in factors.items()}, replaced


def _low_rank(root: Path, name: str, parts: Mapping[str, StoredTensor], settings: Mapping[str, Any]) -> LowRank:
    is_table = "lora_embedding_A" in parts
    wanted = ("lora_embedding_A", "lora_embedding_B") if is_table else ("lora_A.weight", "lora_B.weight")
    if set(parts) != set(wanted):
        raise CheckpointError(f"{root / ADAPTER_FILE}: {name} must have exactly {' and '.join(wanted)}")
    down, up = (parts[key] for key in wanted)
    module = name.removesuffix(".weight")
    alpha = _by_pattern(root, settings.get("alpha_pattern") or {}, module, settings["lora_alpha"])
    rank = down.spec.shape[0]
    scale = alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)
    return LowRank(down, up, is_table, scale)


def _by_pattern(root: Path, patterns: Mapping[str, Any], module: str, default: float) -> float:
    # the rule of PEFT: the first pattern that fits the end of the module's name
    try:
        found = (value for pattern, value in patterns.items() if re.match(rf"(.*\.)?({pattern})$", module))
        return float(next(found, default))
    except (re.error, AttributeError, TypeError, ValueError) as cause:
        raise CheckpointError(
            f"{root / ADAPTER_CONFIG} must have an alpha_pattern of regular expressions and numbers, got {patterns!r}"
        ) from cause
