"""What the tables of `meswitch family evaluate` say."""

import io

from rich.console import Console

from meswitch.cli.family_tables import quality_tables


def share(value: float, **names: str) -> dict[str, object]:
    return {"value": value, "low": value - 0.1, "high": value + 0.1, "n": 50, **names}


def test_tables_name_the_own_expert_the_best_other_and_the_routers_mistakes() -> None:
    result = {
        "answers": [
            share(0.1, model="base", task="a"),
            share(0.8, model="a", task="a"),
            share(0.25, model="b", task="a"),
            share(0.2, model="c", task="a"),
        ],
        "router": [share(0.7, scenario="known", domain="all"), share(0.6, scenario="known", domain="a")],
        "confusion": [
            {"domain": "a", "chosen": "a", "count": 40},
            {"domain": "a", "chosen": "b", "count": 7},
            {"domain": "out-of-scope", "chosen": "none of these", "count": 3},
        ],
    }
    console = Console(file=io.StringIO(), width=100)
    for table in quality_tables(result):
        console.print(table)
    lines = [line.split() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    cells = [[word for word in line if word != "│"] for line in lines if line and line[0] == "│"]
    assert cells == [
        ["a", "80.0", "70.0", "to", "90.0", "10.0", "25.0", "(b)"],
        ["known", "70.0", "60.0", "to", "80.0", "50"],
        ["a", "b", "7"],
    ]
