"""One signed position per group of neighbours, packed into words, and back.

N is the output dimension, K the input dimension. A group is G neighbours along K, `G·g … G·g + G - 1`; its code is
`position + G · negative`, where `position` is the place of its only element that is not 0 and `negative` 1 for -1.
K is padded to blocks of 64 elements, 64 / G groups each. Two planes hold the codes, group `i` of a unit in the bits
`[i · width, (i + 1) · width)`:

* codes: one unit per block: at G = 4 the 16 positions of 2 bits in 32 bits, at G = 8 the 8 whole codes of 4 bits in
  32 bits, at G = 16 the 4 positions of 4 bits in 16 bits.
* signs: the bits `negative`, in units of 16: one unit per block at G = 4, one per 4 blocks at G = 16, none at G = 8.

Padding groups have code 0. A block needs no other block to be expanded, and a matrix can be cut along K at any
multiple of 64 (of 256 at G = 16).
"""

import torch

from meswitch_kernels.packing import BLOCK

__all__ = ["GROUPS", "PLANE_BITS", "SPARSE_LAYOUT", "expand_groups", "pack_groups", "plane_shapes", "unpack_groups"]

GROUPS = (4, 8, 16)
"""The group sizes that can be packed."""

SPARSE_LAYOUT = "sparse-sign-64/1"
"""The name of this arrangement of bits."""

PLANE_BITS = {4: 0.75, 8: 0.5}
"""Bits of a code for each element of its group, of the groups that kernels cover."""

# bits of a code that lie in the first plane, and that plane's unit
_FIELD = {4: (2, torch.int32), 8: (4, torch.int32), 16: (4, torch.int16)}
_SIGN_UNIT_BITS = 16


def plane_shapes(K: int, group: int) -> tuple[tuple[int, torch.dtype], tuple[int, torch.dtype]]:
    """Units per row and their dtype, of the codes and of the signs of rows of K elements.

    Raises:
        ValueError: if `group` is not one of `GROUPS` or K is negative.
    """
    if group not in GROUPS:
        raise ValueError(f"group must be one of {GROUPS}, got {group}")
    if K < 0:
        raise ValueError(f"K must be at least 0, got {K}")
    blocks = -(-K // BLOCK)
    field_bits, dtype = _FIELD[group]
    signs = 0 if 1 << field_bits > group else -(-blocks * (BLOCK // group) // _SIGN_UNIT_BITS)
    return (blocks, dtype), (signs, torch.int16)


def pack_groups(codes: torch.Tensor, group: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes `[N, groups]` uint8 as the planes of codes and of signs, `[N, units]` each, as `plane_shapes` says.

    Raises:
        ValueError: if `codes` is not a uint8 matrix or holds a code of `2 · group` or more.
    """
    if codes.ndim != 2 or codes.dtype != torch.uint8:
        raise ValueError(f"codes must be [N, groups] uint8, got {list(codes.shape)} {codes.dtype}")
    (units, dtype), (sign_units, sign_dtype) = plane_shapes(codes.shape[1] * group, group)
    if not codes.is_meta and codes.numel() and int(codes.max()) >= 2 * group:
        raise ValueError(f"codes must be below {2 * group} in groups of {group}, got {int(codes.max())}")
    field_bits = _FIELD[group][0]
    fields = codes & ((1 << field_bits) - 1)
    return (
        _pack(fields, field_bits, units, dtype),
        _pack(codes >> field_bits, 1, sign_units, sign_dtype),
    )


def unpack_groups(codes: torch.Tensor, signs: torch.Tensor, group: int, K: int) -> torch.Tensor:
    """The codes `[N, ⌈K / group⌉]` uint8 that `pack_groups` put into the planes of rows of K elements.

    Raises:
        ValueError: if the planes are not of the shapes and dtypes of `plane_shapes`.
    """
    for name, plane, (units, dtype) in zip(("codes", "signs"), (codes, signs), plane_shapes(K, group), strict=True):
        if plane.ndim != 2 or plane.dtype != dtype or plane.shape[1] != units:
            raise ValueError(
                f"{name} must be [N, {units}] {dtype} for K = {K} in groups of {group}, "
                f"got {list(plane.shape)} {plane.dtype}"
            )
    field_bits = _FIELD[group][0]
    groups = -(-K // group)
    found = _unpack(codes, field_bits)[:, :groups]
    if signs.shape[1]:
        found = found | (_unpack(signs, 1)[:, :groups] << field_bits)
    return found.contiguous()


def expand_groups(codes: torch.Tensor, group: int, K: int) -> torch.Tensor:
    """The levels `[N, K]` float32 that codes `[N, ⌈K / group⌉]` uint8 name: ±1 in one place of a group, 0 elsewhere."""
    N, groups = codes.shape
    position = (codes & (group - 1)).to(torch.int64).unsqueeze(-1)
    sign = torch.where(codes >= group, -1.0, 1.0).unsqueeze(-1)
    levels = torch.zeros(N, groups, group, device=codes.device)
    return levels.scatter_(-1, position, sign).view(N, groups * group)[:, :K].contiguous()


def _pack(fields: torch.Tensor, bits: int, units: int, dtype: torch.dtype) -> torch.Tensor:
    """`fields` `[N, count]` uint8 of `bits` bits, the lowest bits first, in `units` units of `dtype`."""
    per_unit = dtype.itemsize * 8 // bits
    if units == 0:
        return torch.empty(fields.shape[0], 0, dtype=dtype, device=fields.device)
    padded = torch.nn.functional.pad(fields, (0, units * per_unit - fields.shape[1]))
    grid = padded.view(fields.shape[0], units, per_unit)
    packed = torch.zeros(grid.shape[:2], dtype=torch.int32, device=fields.device)
    for i in range(per_unit):
        packed |= grid[:, :, i].to(torch.int32) << (i * bits)
    # a narrower type keeps the low bits
    return packed.to(dtype)


def _unpack(packed: torch.Tensor, bits: int) -> torch.Tensor:
    """The fields `[N, count]` uint8 of `bits` bits in units `[N, units]`, padding included."""
    per_unit = packed.element_size() * 8 // bits
    fields = torch.empty(*packed.shape, per_unit, dtype=torch.uint8, device=packed.device)
    for i in range(per_unit):
        # the shift is arithmetic, so the mask also removes copies of the sign bit
        fields[:, :, i] = (packed >> (i * bits)) & ((1 << bits) - 1)
    return fields.flatten(1)
