"""The day after a date, in ISO form."""

import random
from datetime import date, timedelta

from workloads.tasks.wording import GeneratedTask, ask

__all__ = ["DATES"]

FIRST, LAST = date(1600, 1, 1), date(2399, 12, 31)


def draw(rng: random.Random) -> tuple[str, str]:
    """A date of eight centuries, and its successor."""
    day = date.fromordinal(rng.randint(FIRST.toordinal(), LAST.toordinal()))
    if rng.random() < 0.15:
        # the ends of months are what makes the task hard
        day = day.replace(day=1) - timedelta(days=1) if day > FIRST.replace(month=2) else day
    month = day.strftime("%B")
    written = rng.choice(
        (f"{day.day} {month} {day.year}", f"{month} {day.day}, {day.year}", f"{day.day}/{day.month}/{day.year}")
    )
    phrases = (f"the date after {written}", f"the day that follows {written}", f"the next date after {written}")
    return ask(rng, *phrases), (day + timedelta(days=1)).isoformat()


DATES = GeneratedTask(name="dates", description="the next date", verifier="exact", draw=draw)
