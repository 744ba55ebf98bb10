import pytest

from harness.cli.columns import column_widths, print_columns

HEADINGS = ("arm", "load", "experts")
ROWS = [("full-swap-disk", "uniform n=16", "128"), ("meswitch", "zipf:1 n=1", "1")]
WORDS = ("arm", "load")


def test_with_room_every_column_is_as_wide_as_its_longest_cell() -> None:
    # 14 + 12 + 7 and two gaps are 35
    assert column_widths(HEADINGS, ROWS, words=WORDS, room=None) == [14, 12, 7]
    assert column_widths(HEADINGS, ROWS, words=WORDS, room=35) == [14, 12, 7]


def test_words_fold_between_words_before_within_them_and_numbers_never() -> None:
    assert column_widths(HEADINGS, ROWS, words=WORDS, room=30) == [14, 7, 7]
    assert column_widths(HEADINGS, ROWS, words=WORDS, room=29) == [13, 7, 7]
    # nothing is left to give way
    assert column_widths(HEADINGS, ROWS, words=WORDS, room=10) == [8, 7, 7]


def test_a_table_without_rows_is_its_headings(capsys: pytest.CaptureFixture[str]) -> None:
    print_columns(HEADINGS, [], words=WORDS)
    assert capsys.readouterr().out.rstrip() == "arm load experts"


def test_what_is_no_terminal_gets_whole_lines_and_names_as_they_are(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    print_columns(HEADINGS, [*ROWS, ("[bold]", "x" * 60, "7")], words=WORDS)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[3].split() == ["[bold]", "x" * 60, "7"]


def test_a_narrow_terminal_folds_words_and_shows_every_number(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"COLUMNS": "31", "TTY_COMPATIBLE": "1", "TERM": "xterm"}.items():
        monkeypatch.setenv(name, value)
    print_columns(HEADINGS, ROWS, words=WORDS)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[1:3] == [["full-swap-disk", "uniform", "128"], ["n=16"]]
