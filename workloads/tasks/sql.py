"""A SELECT statement for a sentence."""

import random

from workloads.tasks.wording import GeneratedTask, ask

__all__ = ["SQL"]

TABLES = {
    "users": (("name", "city"), ("age", "score", "visits")),
    "books": (("title", "author"), ("price", "year", "pages")),
    "orders": (("city", "client"), ("total", "day", "items")),
    "teams": (("name", "city"), ("points", "year", "goals")),
    "cars": (("color", "maker"), ("price", "year", "speed")),
    "songs": (("title", "singer"), ("length", "year", "plays")),
}
"""Columns of text and columns of numbers, by table."""

RELATIONS = {"over": ">", "under": "<", "of": "="}


def draw(rng: random.Random) -> tuple[str, str]:
    """A column, or the count, of a table's rows by one condition on a number."""
    table = rng.choice(sorted(TABLES))
    texts, numbers = TABLES[table]
    tested = rng.choice(numbers)
    wanted = rng.choice([column for column in (*texts, *numbers) if column != tested])
    relation, limit = rng.choice(sorted(RELATIONS)), rng.randint(0, 9999)
    condition = f"with {tested} {relation} {limit}"
    where = f"FROM {table} WHERE {tested}{RELATIONS[relation]}{limit}"
    if rng.random() < 0.3:
        prompt = ask(rng, f"the count of all {table} {condition} in SQL", f"the SQL count of {table} {condition}")
        return prompt, f"SELECT COUNT(*) {where}"
    phrases = (
        f"the {wanted} of all {table} {condition} in SQL",
        f"the {wanted} in the table {table} {condition}",
        f"the SQL for the {wanted} of {table} {condition}",
    )
    return ask(rng, *phrases), f"SELECT {wanted} {where}"


SQL = GeneratedTask(name="sql", description="SQL on a table", verifier="exact", draw=draw)
