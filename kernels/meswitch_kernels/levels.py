"""PTX that turns packed codes into floating-point levels without conversions: a code is placed into a mantissa.

With the exponent of 1024 (float16) or 128 (bfloat16) above a code at bit 1, a half of a register spells
`1024 + 2 * code`; subtracting `1024 + 2^bits - 1` is exact and leaves twice the level.
"""

import torch

__all__ = ["level_asm", "warpgroup_asm"]


def level_asm(bits: int, dtype: torch.dtype) -> tuple[str, ...] | None:
    """PTX for each code of an int16 that turns two of them into two doubled levels; `None` where there is none.

    A rotation brings the code to bit 1 of its half; with the exponent of 1024 (float16) or 128 (bfloat16) above it
    the half spells `1024 + 2 * code`, and subtracting `1024 + 2^bits - 1` is exact.
    """
    if bits == 8 or dtype not in (torch.float16, torch.bfloat16):
        return None
    half = dtype == torch.float16
    base = 1024 if half else 128
    twice = 0x00010001
    exponent = int(torch.tensor(base, dtype=dtype).view(torch.int16).item()) * twice
    offset = int(torch.tensor(base + 2**bits - 1, dtype=dtype).view(torch.int16).item()) * twice
    mask = (((1 << bits) - 1) << 1) * twice
    # before sm_90 bfloat16 has no subtraction, but a multiply-add by one
    subtract = (
        "sub.f16x2 $0, t, o;"
        if half
        else ".reg .b32 u; mov.b32 u, 0x3f803f80; neg.bf16x2 o, o; fma.rn.bf16x2 $0, t, u, o;"
    )
    return tuple(
        f"{{ .reg .b32 t, o; shf.r.wrap.b32 t, $1, $1, {(bits * i - 1) % 32}; "
        f"lop3.b32 t, t, {mask:#x}, {exponent:#x}, 0xEA; "
        f"mov.b32 o, {offset:#x}; {subtract} }}"
        for i in range(16 // bits)
    )


def warpgroup_asm(bits: int, dtype: torch.dtype) -> tuple[str, str]:
    """PTX from two words of codes to 8 pairs of doubled levels, and of the multiply-add that forms `W + D̂`.

    The codes of a word are 4 bits apart. A rotation brings one to bit 1 of each half of a register; with the exponent
    of 1024 (float16) or 128 (bfloat16) above it the half spells `1024 + 2 * code`, and subtracting
    `1024 + 2^bits - 1` is exact.
    """
    half = dtype == torch.float16
    base = 1024 if half else 128
    offset = _pair(-(base + 2**bits - 1), dtype)
    mask = (((1 << bits) - 1) << 1) * 0x00010001
    lines = [
        "{ .reg .b32 low, high, t, o, u;",
        "prmt.b32 low, $8, $9, 0x5410; prmt.b32 high, $8, $9, 0x7632;",
        f"mov.b32 o, {offset:#x}; mov.b32 u, {_pair(1, dtype):#x};",
    ]
    kind = "f16x2" if half else "bf16x2"
    for m in range(8):
        word = "low" if m < 4 else "high"
        lines.append(f"shf.r.wrap.b32 t, {word}, {word}, {(4 * (m % 4) - 1) % 32};")
        # before the addition by one multiply-add, which bfloat16 has where it has no addition
        lines.append(f"lop3.b32 t, t, {mask:#x}, {_pair(base, dtype):#x}, 0xEA; fma.rn.{kind} ${m}, t, u, o;")
    return " ".join([*lines, "}"]), f"fma.rn.{kind} $0, $1, $2, $3;"


def _pair(value: int, dtype: torch.dtype) -> int:
    """A register that holds `value` twice."""
    half = int(torch.tensor(value, dtype=dtype).view(torch.int16).item()) & 0xFFFF
    return half * 0x00010001
