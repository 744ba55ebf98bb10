"""KL reckoned from one measurement a linear and one a candidate: by hand, and exact where its rule holds."""

import pytest

from meswitch.allocation import measured_errors


def test_two_linears_by_hand() -> None:
    errors = [[4.0, 1.0], [8.0, 6.0]]
    # of the first: 0.2 and 0.2 / 4; of the second: 0.3 and 0.3 · 6 / 8
    # all by the first candidate cost twice the sum 0.5, all by the second half of 0.05 + 0.225
    found = measured_errors(errors, alone=(0.2, 0.3), alike=(1.0, 0.1375), reference=0)
    assert found[0] == pytest.approx([0.4, 0.025])
    assert found[1] == pytest.approx([0.6, 0.1125])


@pytest.mark.parametrize("reference", [0, 1, 2])
def test_what_adds_up_is_found_from_any_reference(reference: int) -> None:
    shares, harm = (3.0, 0.5, 7.0, 2.0), (1.0, 0.25, 4.0)
    errors = [[2.0 * i + 1, 5.0 - i, 0.5 + i] for i in range(4)]
    # the truth: a linear's share in the answers, times a candidate's error there, times what such errors do
    kl = [
        [share * error * f for error, f in zip(row, harm, strict=True)]
        for share, row in zip(shares, errors, strict=True)
    ]
    alone, alike = [row[reference] for row in kl], [sum(column) for column in zip(*kl, strict=True)]
    for found, row in zip(measured_errors(errors, alone, alike, reference=reference), kl, strict=True):
        assert found == pytest.approx(row)


def test_rounding_below_nothing_and_exact_references_cost_nothing() -> None:
    found = measured_errors([[2.0, 1.0], [0.0, 3.0], [2.0, 0.0]], (-1e-9, 0.5, 0.4), (0.4, 0.0), reference=0)
    assert found == [[0.0, 0.0], [0.0, 0.0], [0.4, 0.0]]
