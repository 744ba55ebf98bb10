"""The library of experts: found, listed and removed by name, whatever the case."""

import shutil
from pathlib import Path

import pytest

from meswitch.compress import CompressConfig, compress_expert
from meswitch.errors import ExpertNameError, StorageError, UnknownExpertError
from meswitch.library import find_expert, list_experts, place_for, remove_expert
from tests.meswitch.checkpoints import fine_tune, save_model, tiny_config


@pytest.fixture(scope="module")
def delta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    base = save_model(root / "base", tiny_config(num_hidden_layers=1))
    expert = fine_tune(base, root / "expert")
    compress_expert(CompressConfig(base=base, expert=expert, output=root / "Math", name="Math"))
    return root / "Math"


@pytest.fixture
def home(delta: Path, tmp_path: Path) -> Path:
    for name in ("Math", "code"):
        shutil.copytree(delta, tmp_path / name)
    return tmp_path


def test_experts_are_listed_by_name_with_what_is_wrong_with_damaged_ones(home: Path) -> None:
    (home / "broken").mkdir()
    (home / ".code.partial").mkdir()
    entries = list_experts(home)
    assert [entry.name for entry in entries] == ["broken", "code", "Math"]
    assert entries[0].delta is None
    assert "manifest.json" in (entries[0].problem or "")
    assert entries[2].delta is not None
    assert entries[2].delta.manifest.name == "Math"


def test_library_that_does_not_exist_yet_is_empty(tmp_path: Path) -> None:
    assert list_experts(tmp_path / "none") == ()


@pytest.mark.parametrize("name", ["Math", "math", "MATH"])
def test_names_are_found_whatever_their_case(name: str, home: Path) -> None:
    assert find_expert(name, home) == home / "Math"
    assert place_for(name, home) == home / "Math"


def test_path_to_a_delta_is_taken_as_it_is(home: Path, delta: Path) -> None:
    assert find_expert(str(delta), home) == delta


def test_unknown_expert_is_refused_with_the_known_ones(home: Path) -> None:
    with pytest.raises(UnknownExpertError, match=r"'law'.*: code, Math"):
        find_expert("law", home)
    with pytest.raises(UnknownExpertError, match="'law'"):
        remove_expert("law", home)


def test_removed_expert_is_gone_and_the_others_stay(home: Path) -> None:
    assert remove_expert("math", home) == home / "Math"
    assert [p.name for p in home.iterdir()] == ["code"]


def test_place_for_a_reserved_name_is_refused(home: Path) -> None:
    with pytest.raises(ExpertNameError):
        place_for("Auto", home)


def test_expert_whose_replacement_was_cut_off_is_listed(home: Path) -> None:
    (home / "code").rename(home / ".code.old")
    assert [entry.name for entry in list_experts(home)] == ["code", "Math"]


def test_a_home_that_is_a_file_is_named_and_not_called_empty(tmp_path: Path) -> None:
    (tmp_path / "home").touch()
    with pytest.raises(StorageError, match=r"MESWITCH_HOME must be a directory, and .+/home is a file"):
        list_experts(tmp_path / "home" / "experts")
