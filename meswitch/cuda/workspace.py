"""What a GPU's memory is needed for beside weights, keys and values: counted before anything is allocated."""

import torch

from meswitch.cuda.decoder_shape import DecoderShape

__all__ = ["DEFAULT_CONTEXT_BYTES", "context_bytes", "workspace_bytes"]

MIB = 1 << 20

DEFAULT_CONTEXT_BYTES = 600 * MIB
"""What a CUDA context is taken to need where the driver does not say."""

LIBRARY_BYTES = 256 * MIB
"""Machine code of the vendor's library and of our kernels, which a first call of each loads."""

PRODUCT_BYTES = 32 * MIB
"""What the vendor's library keeps for itself on each stream: one computes, and one captures graphs."""

SLACK_BYTES = 64 * MIB
"""PyTorch takes memory in pieces of 2 to 20 MiB, and the last ones are never full."""


def workspace_bytes(
    shape: DecoderShape, dtype: torch.dtype, *, max_rows: int, chunk_tokens: int, context_tokens: int
) -> int:
    """What computing takes beside weights, keys and values, at most.

    Args:
        shape: of the decoder.
        dtype: of weights and activations.
        max_rows: of a decode step.
        chunk_tokens: of a prompt, computed together.
        context_tokens: of one request.
    """
    size = dtype.itemsize
    # `W + D̂` of the largest stacked matrix, where prefill forms it
    merged = max(2 * shape.F, shape.qkv_rows) * shape.K * size
    logits = max_rows * shape.vocabulary * (size + 4)
    prefill = _activation_bytes(shape, size, chunk_tokens) + _attention_bytes(shape, size, chunk_tokens, context_tokens)
    # a step writes its activations twice: as they are, and as the integers that codes are multiplied by
    step = 2 * _activation_bytes(shape, size, max_rows)
    return merged + logits + max(prefill, step) + 2 * PRODUCT_BYTES + LIBRARY_BYTES + SLACK_BYTES


def context_bytes(device: torch.device) -> int:
    """What the device's memory holds before we allocate: our CUDA context, and whatever else runs there.

    0 on a CPU. `DEFAULT_CONTEXT_BYTES` where the driver does not say.
    """
    if device.type != "cuda":
        return 0
    # the first call makes the context
    torch.zeros(1, device=device)
    free, total = torch.cuda.mem_get_info(device)
    taken = total - free - torch.cuda.memory_reserved(device)
    return taken if taken > 0 else DEFAULT_CONTEXT_BYTES


def _activation_bytes(shape: DecoderShape, size: int, tokens: int) -> int:
    """The most that lives together in a layer: the stream, its norm, queries and what they attended, q/k/v or gate."""
    return tokens * size * (3 * shape.K + 2 * shape.q_rows + max(shape.qkv_rows, 3 * shape.F))


def _attention_bytes(shape: DecoderShape, size: int, tokens: int, context_tokens: int) -> int:
    """A mask in two forms, and keys and values repeated for every head, which the library does with a mask."""
    return tokens * context_tokens * (1 + size) + 2 * context_tokens * shape.q_rows * size
