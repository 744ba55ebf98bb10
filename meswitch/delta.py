"""One expert as a compressed delta, in memory."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from meswitch.codecs.base import CompressedDelta

__all__ = ["ExpertDelta"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertDelta:
    """What turns the base into one expert.

    Keys are parameter names of the Hugging Face model, such as `model.layers.0.self_attn.q_proj.weight`.

    Attributes:
        name: the expert's name.
        matrices: compressed deltas of linear weights, and of the embedding and head tables over the base's vocabulary.
            `lm_head.weight` is present only if the expert's head is not tied; its base is then the base's head, or
            the base's embedding where the base is tied.
        exact: parameters that are the expert's own values and not differences: norms, biases.
        added_rows: rows beyond the base's vocabulary, the expert's own values: table name -> `[rows, K]`.
    """

    name: str
    matrices: Mapping[str, CompressedDelta]
    exact: Mapping[str, torch.Tensor]
    added_rows: Mapping[str, torch.Tensor]

    @property
    def nbytes(self) -> int:
        """Bytes of everything above, as held in memory."""
        exact = (*self.exact.values(), *self.added_rows.values())
        return sum(m.nbytes for m in self.matrices.values()) + sum(t.numel() * t.element_size() for t in exact)
