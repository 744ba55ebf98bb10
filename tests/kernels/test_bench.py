import json

import pytest
import torch


def test_the_default_grid_has_every_batch_and_share_once(monkeypatch):
    from meswitch_kernels.bench_cases import LAYERS, grid

    cases = list(grid(full=False))
    assert len({c.key for c in cases}) == len(cases)
    # B 1: E 1; B 4: 1, 4; B 16: 1, 4, 16; B 64: 1, 16, 64
    assert sum(c.kernel == "delta_matmul" for c in cases) == 9 * len(LAYERS)
    assert {c.bits for c in grid(full=True)} == {0.5, 0.75, 1, 2, 4, 8}


@pytest.mark.parametrize(("bits", "row_bytes"), [(0.5, 256), (0.75, 384), (2, 1024)])
def test_bytes_of_a_case_are_those_of_its_planes_steps_and_channels(bits, row_bytes):
    from meswitch_kernels.bench_cases import BenchCase, make_arena

    arena = make_arena(BenchCase(kernel="delta_matmul", layer="k", B=1, E=1, bits=bits), device="cpu")
    # 1024 rows of 4096 codes, a step and eight values each; eight channels
    assert arena.expert_bytes == 1024 * (row_bytes + 4 + 16) + 32
    assert arena.bits == bits


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_without_a_gpu_it_ends_with_one_line(capsys):
    from meswitch_kernels.bench import main

    assert main(["--only", "fused_matmul"]) == 1
    assert capsys.readouterr().err == "error: the benchmark needs a CUDA device: run it on a machine that has one\n"


def test_a_wrong_result_is_not_timed():
    from meswitch_kernels.bench import _compare
    from meswitch_kernels.bench_cases import BenchCase
    from meswitch_kernels.errors import BenchmarkError

    case = BenchCase(kernel="delta_matmul", layer="q", B=1, E=1, bits=2)
    want = torch.ones(4)
    _compare(case, want * 1.001, want)
    for wrong in (want * 1.01, want * float("nan")):
        with pytest.raises(BenchmarkError, match="below 5e-3"):
            _compare(case, wrong, want)


@pytest.mark.gpu
def test_a_run_is_resumed_and_rows_have_the_columns(tmp_path):
    from meswitch_kernels.bench import COLUMNS, measure
    from meswitch_kernels.bench_cases import BenchCase

    path = tmp_path / "kernels.json"
    case = BenchCase(kernel="delta_matmul", layer="k", B=4, E=1, bits=2)
    rows = measure([case], path)
    assert [tuple(row) for row in rows] == [COLUMNS]
    assert rows[0]["time_us_low"] <= rows[0]["time_us"] <= rows[0]["time_us_high"]
    assert measure([case], path) == rows == json.loads(path.read_text())
    assert len(path.with_suffix(".raw.jsonl").read_text().splitlines()) == 1
