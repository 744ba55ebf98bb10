"""The delta directory: its manifest, its tensors, and how they are written and read. See docs/delta-format.md."""

from meswitch.format.manifest import MANIFEST_FILE, SCHEMA, Manifest
from meswitch.format.reader import DeltaDirectory, load_expert, open_delta

__all__ = ["MANIFEST_FILE", "SCHEMA", "DeltaDirectory", "Manifest", "load_expert", "open_delta"]
