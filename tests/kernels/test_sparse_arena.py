import pytest
import torch

from meswitch_kernels.errors import UnsupportedShapeError
from meswitch_kernels.sparse_arena import SparseArena


def _arena(**changes):
    fields = {
        "codes": torch.zeros(2, 6, 2, dtype=torch.int32),
        "signs": torch.zeros(2, 6, 2, dtype=torch.int16),
        "steps": torch.zeros(2, 6),
        "salient_index": torch.zeros(2, 3, dtype=torch.int32),
        "salient_values": torch.zeros(2, 6, 3, dtype=torch.float16),
        "group": 4,
        "K": 100,
    }
    return SparseArena(**{**fields, **changes})


def test_bytes_of_an_expert_count_both_planes_steps_indices_and_values():
    # 6 rows of two words and two units of 16 bits, 6 steps, 3 indices, 18 values
    assert _arena().expert_bytes == 6 * (2 * 4 + 2 * 2) + 6 * 4 + 3 * 4 + 18 * 2
    assert (_arena().slots, _arena().N, _arena().keep, _arena().row_bytes, _arena().bits) == (2, 6, 1, 12, 0.75)


def test_groups_of_eight_have_no_plane_of_signs_and_two_codes_have_two_of_each():
    arena = _arena(
        codes=torch.zeros(2, 2, 6, 2, dtype=torch.int32), signs=torch.zeros(2, 2, 6, 0, dtype=torch.int16), group=8
    )
    assert (arena.keep, arena.row_bytes, arena.bits) == (2, 8, 0.5)
    assert arena.expert_bytes == 2 * 6 * 8 + 6 * 4 + 3 * 4 + 18 * 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"group": 16}, r"group must be one of \(4, 8\), got 16"),
        ({"group": 8}, r"signs must be \[2, 6, 0\] torch.int16"),
        ({"K": 200}, r"codes must be \[2, 6, 4\] torch.int32"),
        ({"K": 0}, "K must be from 1"),
        ({"codes": torch.zeros(2, 3, 6, 2, dtype=torch.int32)}, "1 or 2 planes of codes"),
        ({"signs": torch.zeros(2, 1, 6, 2, dtype=torch.int16)}, "signs must be"),
    ],
)
def test_tensors_that_do_not_fit_together_are_refused(changes, message):
    with pytest.raises(UnsupportedShapeError, match=message):
        _arena(**changes)


def test_rows_of_a_table_are_not_looked_up(make_sparse_arena, device):
    from meswitch_kernels.embedding import delta_rows

    arena = make_sparse_arena(1, 20, 64, 0, 8)
    tokens, slots = torch.zeros(2, dtype=torch.int64), torch.zeros(2, dtype=torch.int32)
    with pytest.raises(UnsupportedShapeError, match="codes must be of single elements, got groups of 8"):
        delta_rows(torch.zeros(2, 64, device=device), tokens.to(device), arena, slots.to(device))
