"""Whether an expert can share a batch with its base: what may differ between two configs, and what may not."""

from collections.abc import Mapping, Sequence
from typing import Any

from meswitch.errors import ShapeMismatchError, UnsupportedModelError

__all__ = ["check_compatible"]

# in the order in which they are reported: the others often follow from the first
SIZES = (
    "hidden_size",
    "num_hidden_layers",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
)

MIXABLE = frozenset(
    {
        # identity and provenance of the files
        "_attn_implementation_autoset",
        "_name_or_path",
        "architectures",
        "auto_map",
        "transformers_version",
        # the engine keeps rows, ends and padding of each expert apart
        "bos_token_id",
        "decoder_start_token_id",
        "dtype",
        "eos_token_id",
        "pad_token_id",
        "tie_word_embeddings",
        "torch_dtype",
        "unk_token_id",
        "vocab_size",
        # training only
        "attention_dropout",
        "attn_pdrop",
        "embd_pdrop",
        "finetuning_task",
        "gradient_checkpointing",
        "initializer_range",
        "id2label",
        "label2id",
        "num_labels",
        "problem_type",
        "resid_pdrop",
        "task_specific_params",
        "unsloth_fixed",
        "unsloth_version",
        # how results are returned, not what they are
        "output_attentions",
        "output_hidden_states",
        "pretraining_tp",
        "return_dict",
        "use_cache",
    }
)
"""Fields in which an expert may differ from its base. Any other difference is refused: an unknown field may matter."""


LENGTH_FREE_ROPES = frozenset({"default", "linear", "llama3"})


def check_compatible(base: Any, expert: Any) -> None:
    """Nothing, if rows of both can be computed in one batch. Takes two configs of transformers.

    Raises:
        ShapeMismatchError: the models differ in size.
        UnsupportedModelError: they compute differently (rope, sliding window, soft caps, activation …).
    """
    ours, theirs = _comparable(base), _comparable(expert)
    _refuse(ours, theirs, ["model_type"], UnsupportedModelError)
    _refuse(ours, theirs, SIZES, ShapeMismatchError)
    others = sorted((ours.keys() | theirs.keys()) - MIXABLE)
    # with most rotary embeddings the longest position is a limit, not a factor of any computation
    if _ignores_length(ours) and _ignores_length(theirs):
        others = [key for key in others if key != "max_position_embeddings"]
    _refuse(ours, theirs, others, UnsupportedModelError)


def _comparable(config: Any) -> dict[str, Any]:
    values: dict[str, Any] = config.to_dict()
    return values


def _ignores_length(values: Mapping[str, Any]) -> bool:
    rope = values.get("rope_parameters")
    return isinstance(rope, Mapping) and rope.get("rope_type") in LENGTH_FREE_ROPES


def _refuse(base: Mapping[str, Any], expert: Mapping[str, Any], fields: Sequence[str], error: type[Exception]) -> None:
    for key in fields:
        if base.get(key) != expert.get(key):
            raise error(
                f"the expert's config must have the base's {key}, {base.get(key)!r}, got {expert.get(key)!r}; "
                "rows that differ in it cannot share a batch"
            )
