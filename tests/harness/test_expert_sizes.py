"""Sizes and ratios by hand."""

import json
from pathlib import Path

import pytest

from harness.cli import run_command
from harness.expert_sizes import ModelShape, paper_size, size_by_layouts

TINY = ModelShape(linears=((64, 128), (32, 64)), tables=((100, 64),), others=40)


def test_the_papers_accounting_is_codes_scales_and_the_rest_in_16_bits() -> None:
    # 10,240 weights: 2,560 bytes of codes, 96 scales; 6,400 and 40 numbers of 2 bytes
    found = paper_size(TINY, (1, 4))
    assert found.expert_bytes == 2560 + 192 + 12_880
    assert found.bits_per_weight == 8 * 2752 / 10_240
    # the full model: 2 × (10,240 + 6,400 + 40) bytes
    assert found.ratios == {1: 33_360 / (33_360 + 15_632), 4: 4 * 33_360 / (33_360 + 4 * 15_632)}
    assert paper_size(TINY, (1,), router_bytes=1000).ratios == {1: 33_360 / (33_360 + 15_632 + 1000)}


def test_ours_counts_what_is_stored() -> None:
    # rtn: 64 rows of 2 blocks and 32 rows of 1 of 4 words of 4 bytes, and a step of 4 bytes a row; tables: 8 bits
    found = size_by_layouts(TINY, "rtn:bits=2", "rtn:bits=8", (2,))
    linears = 64 * (2 * 16 + 4) + 32 * (16 + 4)
    assert found.bits_per_weight == 8 * linears / 10_240
    assert found.expert_bytes == linears + 100 * (64 + 4) + 80
    assert (found.linear, found.tables) == ("rtn:bits=2", "rtn:bits=8")


def test_the_published_ratios_of_a_7b_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        run_command(["sizes", "mistral-7b", "--linear", "rtn:bits=2", "--tables", "dense:dtype=float16", "--json"]) == 0
    )
    paper, ours = json.loads(capsys.readouterr().out)
    # 32 layers of 218,103,808 weights and 43,008 rows, two tables of 32,000 × 4,096, 65 norms of 4,096
    assert paper["expert_bytes"] == 1_744_830_464 + 2_752_512 + 524_288_000 + 532_480
    assert [round(paper["ratios"][n], 2) for n in ("3", "16")] == [2.04, 4.56]
    assert [round(ours["ratios"][n], 2) for n in ("3", "16")] == [2.04, 4.55]
    # steps of 32 bits are the whole difference
    assert ours["expert_bytes"] - paper["expert_bytes"] == 2_752_512
    assert run_command(["sizes", "--router", "3.6736GB", "--linear", "rtn:bits=2", "--json"]) == 0
    assert round(json.loads(capsys.readouterr().out)[0]["ratios"]["3"], 2) == 1.74


def test_a_tied_head_is_counted_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.meswitch.checkpoints import tiny_config

    found = []
    for tied in (True, False):
        tiny_config("llama", tie_word_embeddings=tied, head_dim=16).save_pretrained(tmp_path / str(tied))
        assert run_command(["sizes", str(tmp_path / str(tied)), "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out)[0]["expert_bytes"])
    # a head of 40 × 32 numbers
    assert found[1] - found[0] == 2 * 40 * 32


def test_the_table_names_both_accountings(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["sizes"]) == 0
    said = capsys.readouterr().out
    assert "the paper's accounting" in said
    assert "sparse-sign:group=8" in said
    # stdout is no terminal here: nothing is cut, whatever its width
    assert "salient:bits=2,channels=8 dense:dtype=float16 2.032" in said
    assert "…" not in said
    assert run_command(["sizes", "--models", "0"]) == 1
    assert "--models must be at least 1" in capsys.readouterr().err
