"""Preparing a family: what was kept from an earlier run is checked before it is used."""

from pathlib import Path

import pytest

from harness.prepare import checked_manifest
from meswitch.errors import DeltaFormatError


def test_a_kept_delta_that_is_damaged_says_what_to_delete(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(
        DeltaFormatError, match=rf"a kept delta is damaged \(.*manifest\.json.*; delete {tmp_path}, and"
    ):
        checked_manifest(tmp_path)
