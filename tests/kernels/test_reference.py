import torch

from meswitch_kernels.arena import DeltaArena
from meswitch_kernels.packing import pack
from meswitch_kernels.reference import (
    _philox,
    choose_tokens_ref,
    decode_attention_ref,
    delta_matmul_ref,
    delta_rows_ref,
    delta_weight_ref,
    fused_matmul_ref,
    gated_activation_ref,
    rms_norm_ref,
    rotary_and_store_ref,
)
from meswitch_kernels.rows import RowVectors


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


def test_a_norm_takes_the_weight_of_each_rows_slot():
    weight = RowVectors(base=torch.tensor([1.0, 2.0]), experts=torch.tensor([[10.0, 10.0], [0.0, -1.0]]))
    # the mean of 9 and 16 and of eps is 16
    x = torch.tensor([[3.0, 4.0]]).expand(3, -1)
    got = rms_norm_ref(x, weight, torch.tensor([-1, 0, 1], dtype=torch.int32), eps=3.5)
    assert got.tolist() == [[0.75, 2.0], [7.5, 10.0], [0.0, -1.0]]
    assert rms_norm_ref(x, weight, eps=3.5).tolist() == [[0.75, 2.0]] * 3


def test_the_gate_comes_first():
    assert gated_activation_ref(torch.tensor([[100.0, -100.0, 2.0, 3.0]]), kind="silu").tolist() == [[200.0, 0.0]]


def test_a_head_turns_as_in_transformers():
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    torch.manual_seed(0)
    qkv, angles = torch.randn(2, 3 * 8), torch.randn(5, 4)
    tables = {"cos": angles.cos(), "sin": angles.sin()}
    positions = torch.tensor([4, 1])
    keys, values = torch.zeros(2, 1, 5, 8), torch.zeros(2, 1, 5, 8)
    places = {"positions": positions, "cache_rows": torch.tensor([1, 0]), "keys": keys, "values": values}
    got = rotary_and_store_ref(qkv, **tables, **places, heads=1, kv_heads=1)
    q, k, v = qkv.view(2, 1, 3, 8).split(1, dim=2)
    full = [table[positions].repeat(1, 2)[:, None] for table in tables.values()]
    q, k = apply_rotary_pos_emb(q, k, *full, unsqueeze_dim=2)
    assert torch.allclose(got, q[:, 0])
    assert torch.allclose(keys[[1, 0], 0, positions], k[:, 0, 0])
    assert torch.equal(values[[1, 0], 0, positions], v[:, 0, 0])
    assert keys.count_nonzero() == values.count_nonzero() == 16


def test_attention_is_that_of_torch_over_the_window():
    torch.manual_seed(0)
    q, keys, values = torch.randn(1, 4, 8), torch.randn(3, 2, 9, 8), torch.randn(3, 2, 9, 8)
    where = {"rows": torch.tensor([2]), "lengths": torch.tensor([7], dtype=torch.int32)}
    got = decode_attention_ref(q, keys, values, **where, scale=0.3, window=4)
    want = torch.nn.functional.scaled_dot_product_attention(
        q[:, :, None], keys[2:, :, 3:7], values[2:, :, 3:7], scale=0.3, enable_gqa=True
    )
    assert torch.allclose(got, want.view(1, 32), atol=1e-6)


def test_the_counters_give_the_published_words():
    # known answers of Philox4x32-10 in Random123: the counter and the key all 0
    assert _philox(0, 1, 0).tolist() == [0x6627E8D5]


def test_a_token_is_the_largest_of_logit_plus_noise():
    options = {"vocabulary": torch.tensor([3]), "seeds": torch.tensor([5]), "positions": torch.tensor([0])}
    logits = torch.tensor([[0.0, 4.0, 4.0, 9.0]])
    assert choose_tokens_ref(logits, temperature=torch.tensor([0.0]), **options).tolist() == [1]
    logits[0, 0] = float("nan")
    assert choose_tokens_ref(logits, temperature=torch.tensor([0.0]), **options).tolist() == [-1]
