import pytest
import torch


def _tiles(groups):
    pairs = zip(groups.slot.tolist(), groups.rows.tolist(), strict=True)
    return [(slot, [r for r in rows if r >= 0]) for slot, rows in pairs if slot >= 0]


def _expected(slots, width):
    tiles = []
    for m, slot in enumerate(slots):
        if slot < 0:
            continue
        mine = next((rows for s, rows in tiles if s == slot and len(rows) < width), None)
        if mine is None:
            tiles.append((slot, [m]))
        else:
            mine.append(m)
    return tiles


@pytest.mark.parametrize("width", [1, 2, 4, 16])
@pytest.mark.parametrize("B", [1, 7, 33])
def test_every_row_with_an_expert_is_in_one_tile_of_its_expert(device, B, width):
    from meswitch_kernels.grouping import group_rows

    torch.manual_seed(B)
    slots = torch.randint(-1, 3, (B,), dtype=torch.int32)
    groups = group_rows(slots.to(device), width=width)
    assert _tiles(groups) == _expected(slots.tolist(), width)


def test_a_batch_of_the_base_alone_has_no_tiles(device):
    from meswitch_kernels.grouping import group_rows

    groups = group_rows(torch.full((5,), -1, dtype=torch.int32, device=device))
    assert (groups.slot == -1).all()
    assert (groups.rows == -1).all()


@pytest.mark.parametrize(
    ("B", "slots", "width"), [(1, 8, 2), (16, 16, 2), (16, 4, 4), (16, 1, 16), (64, 1, 16), (64, 9, 8)]
)
def test_tiles_are_as_wide_as_the_mean_share_of_an_expert(B, slots, width):
    from meswitch_kernels.grouping import tile_width

    assert tile_width(B, slots) == width


def test_batches_that_cannot_be_grouped_are_refused(device):
    from meswitch_kernels.errors import UnsupportedShapeError
    from meswitch_kernels.grouping import group_rows

    with pytest.raises(UnsupportedShapeError, match="B from 1 to 512"):
        group_rows(torch.zeros(513, dtype=torch.int32, device=device))
    with pytest.raises(UnsupportedShapeError, match="power of two"):
        group_rows(torch.zeros(2, dtype=torch.int32, device=device), width=3)
