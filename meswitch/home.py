"""Where meswitch keeps its own files: `MESWITCH_HOME`, or the platform's place for a user's data."""

import os
from pathlib import Path

import platformdirs

__all__ = ["cache_dir", "experts_dir", "home_dir"]


def home_dir() -> Path:
    """The root of everything below; not created here."""
    chosen = os.environ.get("MESWITCH_HOME")
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_data_dir("meswitch", appauthor=False))


def experts_dir() -> Path:
    """The directory that holds one delta directory for each expert."""
    return home_dir() / "experts"


def cache_dir() -> Path:
    """What can be deleted at any time and is computed again."""
    return home_dir() / "cache"
