"""Where a model directory came from and under which licence, as far as its files say."""

import re
from pathlib import Path

from meswitch.format.manifest import LicenceRecord

__all__ = ["licence_of", "name_and_revision"]

NOTICES = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")

CARD_BYTES = 1 << 16


def name_and_revision(root: Path) -> tuple[str, str | None]:
    """`(owner/name, commit)` for a directory inside the hub's cache, else the directory's own name and `None`."""
    resolved = root.resolve()
    if resolved.parent.name == "snapshots" and resolved.parents[1].name.startswith("models--"):
        return resolved.parents[1].name.removeprefix("models--").replace("--", "/"), resolved.name
    return resolved.name, None


def licence_of(root: Path) -> LicenceRecord:
    """The licence in the front matter of the model card, and the names of licence and notice files."""
    notices = sorted({path.name for pattern in NOTICES for path in root.glob(pattern) if path.is_file()})
    return LicenceRecord(name=_card_licence(root / "README.md"), notices=tuple(notices))


def _card_licence(card: Path) -> str | None:
    try:
        text = card.read_bytes()[:CARD_BYTES].decode("utf-8", errors="replace")
    except OSError:
        return None
    front = re.match(r"---\s*\n(.*?)\n---\s*(\n|$)", text, re.DOTALL)
    if front is None:
        return None
    found = dict(re.findall(r"^(license|license_name):\s*[\"']?([^\"'\n]+?)[\"']?\s*$", front[1], re.MULTILINE))
    # "other" only says that the name stands in the second field
    return found.get("license_name") if found.get("license") == "other" else found.get("license")
