"""What every decode product does beside its codes: ask early for what its end needs, and add the result to `y`.

The integers of a product are sums of levels times bytes of activations; four neighbouring columns are the four bytes of
one row (activations.py).
"""

from meswitch_kernels.launch import jit, tl

__all__ = ["add_product", "load_output"]


@jit
def load_output(
    y,
    inverse,
    steps,
    index,
    values,
    tile_rows,
    i_n,
    i_t,
    stride_ym,
    N,
    GN,
    R: tl.constexpr,
    S: tl.constexpr,
    SP: tl.constexpr,
    BM: tl.constexpr,
):
    """What `add_product` needs of memory; it is asked for at the start, and arrives while the codes stream."""
    o_n = i_n * BM + tl.arange(0, BM)
    # rows beyond N are read again and not stored
    b_n = tl.minimum(o_n, N - 1)
    b_step = tl.load(steps + b_n)
    o_r = tl.arange(0, R)
    b_out = tl.load(tile_rows + i_t * R + o_r)
    m_r = b_out >= 0
    b_unit = tl.load(inverse + b_out, mask=m_r, other=0.0)
    i_y = y + b_out.to(tl.int64)[None, :] * stride_ym + o_n[:, None]
    b_base = tl.load(i_y, mask=m_r[None, :] & (o_n < N)[:, None], other=0.0)
    if S > 0:
        o_s = tl.arange(0, SP)
        b_index = tl.load(index + i_n * BM // GN * S + o_s, mask=o_s < S, other=0)
        b_value = tl.load(values + b_n[:, None] * S + o_s[None, :], mask=(o_s < S)[None, :], other=0.0)
    else:
        b_index = b_out
        b_value = b_step
    return b_out, b_unit, b_base, b_step, b_index, b_value


@jit
def add_product(
    y,
    x,
    b_acc,  # [BM, 4 * R] int32
    b_out,
    b_unit,
    b_base,
    b_step,
    b_index,
    b_value,
    i_n,
    stride_ym,
    stride_xm,
    N,
    FACTOR: tl.constexpr,
    R: tl.constexpr,
    S: tl.constexpr,
    SP: tl.constexpr,
    BM: tl.constexpr,
):
    """`y += FACTOR * step * unit * sums` of BM output channels and R rows, and the salient channels' part."""
    o_n = i_n * BM + tl.arange(0, BM)
    o_c = tl.arange(0, 4 * R)
    m_r = b_out >= 0
    b_total = tl.sum(tl.reshape(b_acc.to(tl.int64) << (8 * (o_c % 4))[None, :], (BM, R, 4)), axis=2)
    b_y = b_total.to(tl.float32) * (FACTOR * b_step[:, None] * b_unit[None, :])
    if S > 0:
        o_s = tl.arange(0, SP)
        i_x = x + b_out.to(tl.int64)[None, :] * stride_xm + b_index[:, None]
        b_x = tl.load(i_x, mask=(o_s < S)[:, None] & m_r[None, :], other=0.0).to(tl.float32)
        # multiply-adds in the order of the channels, whatever the tile
        b_y += tl.dot(b_value.to(tl.float32), b_x, input_precision="ieee")
    b_y += b_base.to(tl.float32)
    i_y = y + b_out.to(tl.int64)[None, :] * stride_ym + o_n[:, None]
    tl.store(i_y, b_y.to(y.dtype.element_ty), mask=m_r[None, :] & (o_n < N)[:, None])
