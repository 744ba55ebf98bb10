"""KL reckoned from one measurement a linear and one a candidate: by hand, and exact where its rule holds."""

from collections.abc import Sequence

import pytest

from meswitch.allocation import OWN, allocate, measure, measured_errors


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


def test_each_linear_is_scored_alone_and_then_each_candidate_for_all() -> None:
    kl: dict[tuple[int, ...], float] = {
        (1, OWN, OWN): 0.2,
        (OWN, 1, OWN): 0.3,
        (OWN, OWN, 1): 0.1,
        (0, 0, 0): 0.2,
        (1, 1, 1): 1.2,
    }
    asked: list[tuple[int, ...]] = []

    def fitness(assignment: tuple[int, ...]) -> float:
        asked.append(assignment)
        return kl[assignment]

    found = measure([[1.0, 4.0], [6.0, 8.0], [5.0, 2.0]], fitness, reference=1)
    assert asked == list(kl)
    # by the first candidate 0.2 / 4, 0.3 · 6 / 8 and 0.1 · 5 / 2, 0.525 in all, where 0.2 was measured
    scale = 0.2 / 0.525
    assert [row[0] for row in found] == pytest.approx([0.05 * scale, 0.225 * scale, 0.25 * scale])
    # by the reference twice what each costs alone
    assert [row[1] for row in found] == pytest.approx([0.4, 0.6, 0.2])


def test_bytes_go_where_the_answers_suffer_and_not_where_errors_are_large() -> None:
    # cheap and dear: the first linear has the large errors, the second is what answers hang on
    errors, costs = [[100.0, 25.0], [4.0, 1.0], [4.0, 1.0]], [[1, 2]] * 3
    shares = (0.001, 1.0, 0.25)

    def kl(assignment: Sequence[int]) -> float:
        described = zip(shares, errors, assignment, strict=True)
        return sum(share * row[number] for share, row, number in described if number != OWN)

    assert allocate(costs, errors, 4) == (1, 0, 0)
    chosen = allocate(costs, measure(errors, kl, reference=0), 4)
    assert chosen == (0, 1, 0)
    assert kl(chosen) == min(kl(a) for a in ((1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0)))
