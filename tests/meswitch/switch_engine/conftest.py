"""One family on the disk for all tests of the engine, and questions with the oracle's answers."""

import itertools
from collections.abc import Sequence

import pytest

from meswitch.core import BASE
from tests.meswitch.serving_models import delta_between, fine_tune, generate, random_prompts, save_base
from tests.meswitch.switch_engine.engine_family import CONFIG, NAMES, Family


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    tmp_path = tmp_path_factory.mktemp("family")
    base = save_base(tmp_path / BASE, CONFIG)
    roots = {BASE: base, **{n: fine_tune(base, tmp_path / n, i) for i, n in enumerate(NAMES[1:], 1)}}
    deltas = {n: delta_between(base, roots[n], name=n, codec="rtn:bits=4") for n in NAMES[1:]}
    return Family(roots, deltas)


@pytest.fixture(scope="session")
def questions(family: Family) -> Sequence[tuple[str, tuple[int, ...], list[int]]]:
    """Expert, prompt and the oracle's answer, of different lengths."""
    oracles = {name: family.oracle(name) for name in NAMES}
    prompts = random_prompts(12, seed=3)
    return [(n, p, generate(oracles[n], p, 12)) for n, p in zip(itertools.cycle(NAMES), prompts)]
