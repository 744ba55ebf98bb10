"""The base on the device, in its layout: read from a checkpoint tensor by tensor, or random for shapes alone."""

from pathlib import Path

import torch

from meswitch.architecture import describe, read_config
from meswitch.checkpoint import Checkpoint
from meswitch.cuda.slot_layout import Place
from meswitch.cuda.whole_layout import WholeLayout, WholeWeights
from meswitch.errors import ShapeMismatchError, UnsupportedModelError
from meswitch.plan import check_checkpoint

__all__ = ["RANDOM_STD", "random_base", "read_base"]

RANDOM_STD = 0.02
"""Of random matrices: what models of these shapes are initialised with before training."""


def read_base(root: Path, layout: WholeLayout, device: torch.device) -> WholeWeights:
    """The checkpoint in `root` on `device`; one tensor at a time is held beside it.

    Args:
        root: a Hugging Face checkpoint.
        layout: of the image: its shape says whether the head is tied, its dtype what matrices are converted to.
        device: where the image is made.

    Raises:
        CheckpointError: it is missing or damaged, or its tensors are not those of the layout.
        UnsupportedModelError: a weight does not fit into the layout's dtype.
    """
    checkpoint, places = Checkpoint(root), dict(layout.places())
    check_checkpoint(checkpoint, describe(read_config(root)), tied=layout.shape.tied)
    for name, place in places.items():
        found = checkpoint.spec(name).shape
        if found != place.spec.shape:
            raise ShapeMismatchError(f"{root}: {name} must have shape {place.spec.shape}, got {found}")
    # zeros: what lies between two tensors is then the same in every image
    memory = torch.zeros(layout.nbytes, dtype=torch.uint8, device=device)
    for name in checkpoint.names_on_disk:
        if name in places:
            target = _view(memory, places[name])
            target.copy_(checkpoint.read(name))
            _check_finite(root, name, target)
    return WholeWeights(layout, memory)


def random_base(layout: WholeLayout, *, seed: int, device: torch.device) -> WholeWeights:
    """A base of the right shapes and bytes, made on `device`: normal matrices, norms of 1 and biases of 0."""
    memory = torch.zeros(layout.nbytes, dtype=torch.uint8, device=device)
    generator = torch.Generator(device).manual_seed(seed)
    for key, place in layout.tensors.items():
        if key.endswith("_norm"):
            _view(memory, place).fill_(1.0)
        elif not key.endswith("_bias"):
            _view(memory, place).normal_(0.0, RANDOM_STD, generator=generator)
    return WholeWeights(layout, memory)


def _view(memory: torch.Tensor, place: Place) -> torch.Tensor:
    piece = memory[place.offset : place.offset + place.spec.nbytes]
    return piece.view(place.spec.dtype).view(place.spec.shape)


def _check_finite(root: Path, name: str, weights: torch.Tensor) -> None:
    # only float16 can overflow: the others have the range of float32
    if weights.dtype is torch.float16 and not bool(torch.isfinite(weights).all()):
        raise UnsupportedModelError(
            f"{root}: {name} has weights beyond the range of float16; choose dtype bfloat16 or float32"
        )
