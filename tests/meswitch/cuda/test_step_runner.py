import pytest

from meswitch.cuda.step_runner import buckets, step_width, step_widths


@pytest.mark.parametrize(("rows", "wanted"), [(1, (1,)), (4, (1, 2, 4)), (6, (1, 2, 4, 6)), (16, (1, 2, 4, 8, 16))])
def test_buckets_are_powers_of_two_and_the_most_rows(rows, wanted):
    assert buckets(rows) == wanted


@pytest.mark.parametrize(
    ("slots", "wanted"),
    [
        ([-1, -1], None),
        ([0], 2),
        ([0, 1, 2, 3], 2),
        ([0, 0, 1, 1, -1], 2),
        ([0] * 3, 2),
        ([0] * 8, 16),
        ([5] * 16, 16),
        ([5] * 40, 16),
    ],
)
def test_rows_that_share_experts_share_reads(slots, wanted):
    bucket = next(size for size in buckets(64) if size >= len(slots))
    assert step_width(slots, bucket) == wanted
    assert wanted in step_widths(bucket)
