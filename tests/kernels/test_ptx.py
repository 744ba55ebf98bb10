"""The inline PTX, executed by a small model of the few instructions it uses: it cannot run without a GPU."""

import re

import pytest
import torch

_MASK = 0xFFFFFFFF


def _floats(register, dtype):
    halves = torch.tensor([register & 0xFFFF, register >> 16], dtype=torch.int32).to(torch.uint16)
    return halves.view(dtype)


def _register(floats):
    low, high = floats.view(torch.uint16).tolist()
    return low | high << 16


def _run(ptx, *, outputs=1, **inputs):
    """The value of `$0`, or of all outputs, after the instructions, with 32-bit registers named as in the text."""
    registers = {f"${i}": value for i, value in enumerate(inputs.values(), start=outputs)}
    # of the fifth lane
    registers |= {"%lanemask_eq": 1 << 5, "%lanemask_lt": (1 << 5) - 1}

    def value(operand):
        return registers[operand] if operand in registers else int(operand, 0)

    for line in re.sub(r"[{}]", "", ptx).split(";"):
        operation, _, rest = line.strip().partition(" ")
        if operation in ("", ".reg"):
            continue
        target, *operands = [o.strip() for o in rest.split(",")]
        a, *more = [value(o) for o in operands]
        dtype = torch.bfloat16 if "bf16" in operation else torch.float16
        match operation:
            case "mov.b32" | "mov.u32":
                result = a
            case "and.b32":
                result = a & more[0]
            case "xor.b32":
                result = a ^ more[0]
            case "prmt.b32":
                # with the highest bit of a nibble set, the hardware would copy a byte's sign
                assert not more[1] & 0x8888
                octets = [(a | more[0] << 32) >> 8 * i & 0xFF for i in range(8)]
                result = sum(octets[more[1] >> 4 * i & 7] << 8 * i for i in range(4))
            case "shr.u32":
                result = a >> more[0]
            case "mul.hi.u32":
                result = a * more[0] >> 32
            case "shl.b32":
                result = a << more[0] & _MASK
            case "or.b32":
                result = a | more[0]
            case "shf.r.wrap.b32":
                result = ((more[0] << 32 | a) >> (more[1] % 32)) & _MASK
            case "lop3.b32":
                assert more[2] == 0xEA  # (a & b) | c
                result = a & more[0] | more[1]
            case "sub.f16x2":
                result = _register(_floats(a, dtype) - _floats(more[0], dtype))
            case "neg.bf16x2":
                result = _register(-_floats(a, dtype))
            case "fma.rn.bf16x2" | "fma.rn.f16x2":
                x, y, z = (_floats(r, dtype).float() for r in (a, *more))
                result = _register((x * y + z).to(dtype))
            case _:
                raise AssertionError(f"no model of {operation}")
        registers[target] = result
    return registers["$0"] if outputs == 1 else [registers[f"${i}"] for i in range(outputs)]


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_four_codes_of_a_position_become_four_bytes(bits):
    pytest.importorskip("triton")
    from meswitch_kernels.delta_matmul import unpack_asm

    word = 0x9E3779B9
    for position, ptx in enumerate(unpack_asm(bits)):
        got = _run(ptx, word=word)
        for byte in range(4):
            code = word >> (8 * byte + position * bits) & ((1 << bits) - 1)
            assert got >> (8 * byte) & 0xFF == code


def test_eight_bit_codes_become_signed_levels():
    pytest.importorskip("triton")
    from meswitch_kernels.delta_matmul import unpack_asm

    # 0, 127, 128 and 255 are the levels -128, -1, 0 and 127
    assert _run(unpack_asm(8)[0], word=0xFF807F00) == 0x7F00FF80


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_two_codes_become_two_doubled_levels(bits, dtype):
    pytest.importorskip("triton")
    from meswitch_kernels.levels import level_asm

    for pair in (0x9E3779B9, 0x0, 0xFFFFFFFF, 0x12345678):
        for i, ptx in enumerate(level_asm(bits, dtype)):
            got = _floats(_run(ptx, pair=pair), dtype).tolist()
            codes = [half >> (bits * i) & ((1 << bits) - 1) for half in (pair & 0xFFFF, pair >> 16)]
            assert got == [2 * code - (2**bits - 1) for code in codes]


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_two_words_become_eight_pairs_of_doubled_levels(bits, dtype):
    from meswitch_kernels.levels import warpgroup_asm

    first, second = 0x9E3779B9, 0x2545F491
    ptx, multiply_add = warpgroup_asm(bits, dtype)
    for m, pair in enumerate(_run(ptx, outputs=8, first=first, second=second)):
        codes = [word >> 4 * m & ((1 << bits) - 1) for word in (first, second)]
        assert _floats(pair, dtype).tolist() == [2 * code - (2**bits - 1) for code in codes]
    levels, steps, weights = (_register(torch.tensor(v, dtype=dtype)) for v in ([3.0, -1.0], [0.5, 0.25], [1.0, 2.0]))
    assert _floats(_run(multiply_add, levels=levels, steps=steps, weights=weights), dtype).tolist() == [2.5, 1.75]


def _group_level(words, signs, group, i, place):
    """-1, 0 or 1: the level at `place` of group i of a block."""
    from meswitch_kernels.sparse_packing import unpack_groups

    code = int(unpack_groups(torch.tensor([[words]]).int(), signs, group, 64)[0, i])
    return (1 - 2 * (code // group)) * (code % group == place)


def _levels(register):
    return [(register >> 8 * q & 0xFF ^ 0x80) - 0x80 for q in range(4)]


def test_a_word_of_groups_of_eight_becomes_the_levels_of_sums_and_differences():
    from meswitch_kernels.sparse_matmul import levels_asm, selectors_asm

    for word in (0x9E3779B9, 0x01234567, 0x89ABCDEF):
        found = _run(selectors_asm(8), outputs=4, word=word)
        for p in range(16):
            h, j = p // 8, p % 4
            for q, level in enumerate(_levels(_run(levels_asm()[j], selector=found[p // 4]))):
                even, odd = (
                    _group_level(word, torch.empty(1, 0, dtype=torch.int16), 8, 4 * h + q, 2 * j + i) for i in (0, 1)
                )
                # even * x + odd * x' is half of (even + odd) * (x + x') + (even - odd) * (x - x')
                assert level == (even - odd if p // 4 % 2 else even + odd)


def test_two_words_and_signs_of_groups_of_four_become_their_levels():
    from meswitch_kernels.sparse_matmul import levels_asm, selectors_asm

    words, signs = (0x9E3779B9, 0x2545F491), 0x6A09E667
    found = _run(selectors_asm(4), outputs=8, first=words[0], second=words[1], signs=signs)
    for p in range(32):
        u, e, h, j = p // 16, p // 8 % 2, p // 4 % 2, p % 4
        own = torch.tensor([[signs >> 16 * u & 0xFFFF]], dtype=torch.int32).to(torch.int16)
        for q, level in enumerate(_levels(_run(levels_asm()[j], selector=found[p // 4]))):
            assert level == _group_level(words[u], own, 4, 2 * (4 * h + q) + e, j)
