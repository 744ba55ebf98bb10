import pytest
import torch

from meswitch_kernels.errors import UnsupportedShapeError
from meswitch_kernels.rows import RowVectors, check_slots


def test_without_experts_a_kernel_is_given_the_base_twice():
    base = torch.zeros(5)
    assert RowVectors(base=base).arguments() == (base, base, 0)
    assert RowVectors(base=base, experts=torch.zeros(2, 8)[:, :5]).arguments()[2] == 8


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"base": torch.zeros(2, 5)}, r"base must be contiguous \[K\] float32"),
        ({"base": torch.zeros(5, dtype=torch.float16)}, "base must be"),
        ({"base": torch.zeros(5), "experts": torch.zeros(2, 4)}, r"experts must be \[E, 5\] float32"),
        ({"base": torch.zeros(5), "experts": torch.zeros(2, 10)[:, ::2]}, "contiguous in a slot"),
    ],
)
def test_vectors_that_do_not_fit_together_are_refused(fields, message):
    with pytest.raises(UnsupportedShapeError, match=message):
        RowVectors(**fields)


def test_slots_are_one_int32_a_row():
    check_slots(None, 3)
    with pytest.raises(UnsupportedShapeError, match=r"slots must be \[3\] int32"):
        check_slots(torch.zeros(3, dtype=torch.int64), 3)
