import pytest
import torch

from meswitch_kernels.arena import DeltaArena
from meswitch_kernels.errors import UnsupportedShapeError


def _arena(**changes):
    fields = {
        "codes": torch.zeros(2, 6, 8, dtype=torch.int32),
        "steps": torch.zeros(2, 6),
        "salient_index": torch.zeros(2, 3, dtype=torch.int32),
        "salient_values": torch.zeros(2, 6, 3, dtype=torch.float16),
        "bits": 2,
        "K": 100,
    }
    return DeltaArena(**{**fields, **changes})


def test_bytes_of_an_expert_count_codes_steps_indices_and_values():
    # 6 rows of 8 words, 6 steps, 3 indices, 18 values
    assert _arena().expert_bytes == 6 * 8 * 4 + 6 * 4 + 3 * 4 + 18 * 2
    assert (_arena().slots, _arena().N, _arena().salient, _arena().row_bytes) == (2, 6, 3, 32)


def test_stacked_layers_share_the_rows_evenly():
    assert _arena().group_rows == 6
    assert _arena(salient_index=torch.zeros(2, 3, 3, dtype=torch.int32)).group_rows == 2
    with pytest.raises(UnsupportedShapeError, match="divide N = 6"):
        _arena(salient_index=torch.zeros(2, 4, 3, dtype=torch.int32))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bits": 3}, "bits must be one of"),
        ({"K": 0}, "K must be from 1"),
        ({"K": 200}, r"codes must be \[2, 6, 16\]"),
        ({"steps": torch.zeros(2, 6, dtype=torch.float16)}, "steps must be"),
        ({"salient_values": torch.zeros(2, 6, 4, dtype=torch.float16)}, "salient_values must be"),
    ],
)
def test_tensors_that_do_not_fit_together_are_refused(changes, message):
    with pytest.raises(UnsupportedShapeError, match=message):
        _arena(**changes)


def _apart(stride, offset=0):
    return torch.zeros(4096, dtype=torch.int32)[offset:].as_strided((2, 6, 8), (stride, 8, 1))


def test_slots_may_lie_apart_at_multiples_of_256_bytes():
    assert _arena(codes=_apart(64, 64)).expert_bytes == _arena().expert_bytes
    with pytest.raises(UnsupportedShapeError, match="the first at 0 and a stride of 200"):
        _arena(codes=_apart(50))
    with pytest.raises(UnsupportedShapeError, match="the first at 16 and a stride of 256"):
        _arena(codes=_apart(64, 4))


def test_a_slot_itself_is_contiguous():
    with pytest.raises(UnsupportedShapeError, match="contiguous in a slot"):
        _arena(codes=torch.zeros(2, 6, 16, dtype=torch.int32)[:, :, :8])
