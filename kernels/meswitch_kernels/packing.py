"""Low-bit codes packed into 32-bit words, and back.

N is the output dimension, K the input dimension. K is padded to blocks of 64 elements. A block of `bits`-bit codes
takes `P = 2 * bits` words; word `j` of the block holds the elements `j + i * P`, element `i` in the bits
`[i * bits, (i + 1) * bits)`. A shift by `i * bits` and one mask therefore turn P neighbouring words into P
neighbouring elements, and no block depends on K: a matrix can be cut along K at any multiple of 64.
"""

import torch

__all__ = ["BITS", "BLOCK", "LAYOUT", "pack", "unpack", "words_per_row"]

BITS = (1, 2, 4, 8)
"""The code widths that can be packed."""

BLOCK = 64
"""Elements along K of one block."""

LAYOUT = "interleaved-64/1"
"""The name of this arrangement of bits, written beside every packed tensor."""

_WORD_BITS = 32

_LANES = {1: torch.int16, 2: torch.int32, 4: torch.int64}
"""An integer of as many bytes as a block of codes has words."""


def words_per_row(K: int, bits: int) -> int:
    """The 32-bit words of one row of K codes, padding included.

    Raises:
        ValueError: if `bits` is not one of `BITS` or K is negative.
    """
    if bits not in BITS:
        raise ValueError(f"bits must be one of {BITS}, got {bits}")
    if K < 0:
        raise ValueError(f"K must be at least 0, got {K}")
    return -(-K // BLOCK) * _words_per_block(bits)


def pack(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """`codes` `[N, K]` uint8 as words `[N, words_per_row(K, bits)]` int32. Padding codes are 0.

    Raises:
        ValueError: if `codes` is not a uint8 matrix or holds a code of more than `bits` bits.
    """
    if codes.ndim != 2 or codes.dtype != torch.uint8:
        raise ValueError(f"codes must be [N, K] uint8, got {list(codes.shape)} {codes.dtype}")
    N, K = codes.shape
    W = words_per_row(K, bits)
    if not codes.is_meta and codes.numel() and int(codes.max()) >= 1 << bits:
        raise ValueError(f"codes must be below {1 << bits} at {bits} bits, got {int(codes.max())}")
    padded = torch.nn.functional.pad(codes, (0, -K % BLOCK))
    # [N, blocks, elements of a word, words of a block]
    grid = padded.reshape(N, -(-K // BLOCK), _WORD_BITS // bits, _words_per_block(bits))
    words = torch.zeros(grid.shape[0], grid.shape[1], grid.shape[3], dtype=torch.int32, device=codes.device)
    for i in range(grid.shape[2]):
        words |= grid[:, :, i].to(torch.int32) << (i * bits)
    return words.view(N, W)


def unpack(words: torch.Tensor, bits: int, K: int) -> torch.Tensor:
    """The codes `[N, K]` uint8 that `pack` put into `words` `[N, words_per_row(K, bits)]` int32.

    Raises:
        ValueError: if `words` is not an int32 matrix of that width.
    """
    W = words_per_row(K, bits)
    if words.ndim != 2 or words.dtype != torch.int32 or words.shape[1] != W:
        raise ValueError(
            f"words must be [N, {W}] int32 for K = {K} at {bits} bits, got {list(words.shape)} {words.dtype}"
        )
    N, P = words.shape[0], _words_per_block(bits)
    blocks = W // P
    # [N, blocks, bytes of a word, P]: where bytes are of one place in their words, equal bits name neighbours along K
    octets = words.contiguous().view(torch.uint8).view(N, blocks, P, _WORD_BITS // 8).transpose(2, 3)
    # a clone even of no rows, which count as contiguous whatever their strides
    octets = octets.clone(memory_format=torch.contiguous_format)
    if bits < 8:
        # P neighbours at once, as one integer: the mask also removes what a shift brings from the byte above
        lanes = octets.view(_LANES[bits])
        shifts = torch.arange(8 // bits, dtype=lanes.dtype, device=words.device) * bits
        mask = int.from_bytes(bytes([(1 << bits) - 1]) * lanes.element_size(), "little")
        octets = (lanes >> shifts).bitwise_and_(mask).view(torch.uint8)
    return octets.view(N, blocks * BLOCK)[:, :K].contiguous()


def _words_per_block(bits: int) -> int:
    return BLOCK * bits // _WORD_BITS
