"""That what is published follows from the records that are kept beside it."""

import json
import shutil
from pathlib import Path

import pytest

from harness.fidelity.ablations import rebuild_ablations
from harness.fidelity.rebuild import rebuild_fidelity

RESULTS = Path(__file__).parents[3] / "reports" / "results"


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["smollm2", "pocket/likelihood"])
def test_published_figures_are_those_of_the_records(folder: str, tmp_path: Path) -> None:
    shutil.copytree(RESULTS / folder / "records", tmp_path / "records")
    rebuild_ablations(tmp_path, rebuild_fidelity(tmp_path))
    for name in ("quality.json", "summary.json", "ablations.json"):
        made, published = (json.loads((place / name).read_text()) for place in (tmp_path, RESULTS / folder))
        assert numbers(made) == pytest.approx(numbers(published), rel=1e-9, abs=1e-12), name
        assert str(words(made)) == str(words(published)), name


def numbers(value: object) -> list[float]:
    """All numbers of a document, in order."""
    return [leaf for leaf in leaves(value) if isinstance(leaf, int | float)]


def words(value: object) -> list[object]:
    """All else."""
    return [leaf for leaf in leaves(value) if not isinstance(leaf, int | float)]


def leaves(value: object) -> list[object]:
    """Keys and values that hold no others."""
    if isinstance(value, dict):
        return [leaf for key, part in value.items() for leaf in (key, *leaves(part))]
    if isinstance(value, list):
        return [leaf for part in value for leaf in leaves(part)]
    return [value]
