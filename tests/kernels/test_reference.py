import torch

from meswitch_kernels.arena import DeltaArena
from meswitch_kernels.packing import pack
from meswitch_kernels.reference import delta_matmul_ref, delta_rows_ref, delta_weight_ref, fused_matmul_ref


def _arena(bits, codes, steps, index=(), values=((), ())):
    return DeltaArena(
        codes=pack(torch.tensor(codes, dtype=torch.uint8), bits)[None],
        steps=torch.tensor([steps]),
        salient_index=torch.tensor([list(index)], dtype=torch.int32),
        salient_values=torch.tensor([[list(v) for v in values]], dtype=torch.float16),
        bits=bits,
        K=len(codes[0]),
    )


def test_levels_are_half_integers_at_two_bits_and_integers_at_eight():
    two = _arena(2, [[0, 1, 2, 3], [3, 3, 0, 0]], [2.0, 0.0])
    assert delta_weight_ref(two, 0).tolist() == [[-3.0, -1.0, 1.0, 3.0], [0.0, 0.0, 0.0, 0.0]]
    eight = _arena(8, [[0, 128, 255], [129, 127, 128]], [1.0, 0.5])
    assert delta_weight_ref(eight, 0).tolist() == [[-128.0, 0.0, 127.0], [0.5, -0.5, 0.0]]


def test_salient_values_are_added_to_what_the_codes_say():
    arena = _arena(1, [[1, 0, 1], [0, 0, 1]], [2.0, 4.0], index=(1,), values=((10.0,), (-1.0,)))
    assert delta_weight_ref(arena, 0).tolist() == [[1.0, 9.0, 1.0], [-2.0, -3.0, 2.0]]


def test_products_add_the_delta_of_each_rows_own_slot():
    arena = _arena(1, [[1, 0], [0, 0]], [2.0, 4.0])
    x, y = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[10.0, 20.0], [30.0, 40.0]])
    got = delta_matmul_ref(y, x, arena, torch.tensor([0, -1], dtype=torch.int32))
    # D_hat = [[1, -1], [-2, -2]]
    assert got.tolist() == [[9.0, 14.0], [30.0, 40.0]]
    weight = torch.tensor([[1.0, 1.0], [2.0, 2.0]])
    assert fused_matmul_ref(x, weight, arena, 0).tolist() == [[2.0, 0.0], [6.0, 0.0]]
    assert fused_matmul_ref(x, weight, arena, -1).tolist() == [[3.0, 6.0], [7.0, 14.0]]
    rows = delta_rows_ref(y, torch.tensor([1, 0]), arena, torch.tensor([0, -1], dtype=torch.int32))
    assert rows.tolist() == [[8.0, 18.0], [30.0, 40.0]]
