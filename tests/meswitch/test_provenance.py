"""What a model directory says of its origin and licence."""

from pathlib import Path

import pytest

from meswitch.provenance import licence_of, name_and_revision


def test_directory_in_the_hubs_cache_gives_repository_and_commit(tmp_path: Path) -> None:
    root = tmp_path / "models--acme--math-7b" / "snapshots" / "0123abc"
    root.mkdir(parents=True)
    assert name_and_revision(root) == ("acme/math-7b", "0123abc")


def test_any_other_directory_gives_its_name(tmp_path: Path) -> None:
    assert name_and_revision(tmp_path / "math") == ("math", None)


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: apache-2.0\n---\ntext", "apache-2.0"),
        ('---\nlanguage: en\nlicense: "mit"\n---\n', "mit"),
        ("---\nlicense: other\nlicense_name: acme-community\n---\n", "acme-community"),
        ("---\nlicense: other\n---\n", None),
        ("---\nlanguage: en\n---\nlicense: not here\n", None),
        ("license: mit\n", None),
    ],
)
def test_licence_is_read_from_the_cards_front_matter_only(card: str, licence: str | None, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(card)
    assert licence_of(tmp_path).name == licence


def test_notice_files_are_listed(tmp_path: Path) -> None:
    for name in ("LICENSE", "NOTICE.md", "model.safetensors"):
        (tmp_path / name).write_text("")
    assert licence_of(tmp_path).notices == ("LICENSE", "NOTICE.md")
    assert licence_of(tmp_path).name is None
