"""The published tables, and that the documentation still shows those of the figures that ship."""

import json
from pathlib import Path

from meswitch.families.quality_markdown import quality_markdown

ROOT = Path(__file__).parents[3]


def test_every_model_stands_against_every_task_and_every_domain_against_every_choice() -> None:
    result = {
        "answers": [
            {"model": "velm", "task": "velm", "value": 1.0},
            {"model": "velm", "task": "dates", "value": 0.002},
            {"model": "base", "task": "velm", "value": 0.0},
        ],
        "confusion": [
            {"domain": "velm", "chosen": "velm", "count": 248},
            {"domain": "velm", "chosen": "none of these", "count": 2},
            {"domain": "out-of-scope", "chosen": "none of these", "count": 500},
            {"domain": "zeta", "chosen": "velm", "count": 1},
        ],
    }
    assert quality_markdown(result).splitlines() == [
        "| exact match, % | dates | velm |",
        "| --- | ---: | ---: |",
        "| `base` | – | 0 |",
        "| `velm` | 0.2 | 100 |",
        "",
        "| queries of, sent to | velm | none of these |",
        "| --- | ---: | ---: |",
        "| `velm` | 248 | 2 |",
        "| `zeta` | 1 | · |",
        "| `out-of-scope` | · | 500 |",
    ]


def test_the_documentation_shows_the_figures_that_ship() -> None:
    result = json.loads((ROOT / "reports" / "results" / "pocket" / "family.json").read_text())
    assert quality_markdown(result) in (ROOT / "docs" / "pocket-family.md").read_text()
