import pytest
import torch


@pytest.mark.parametrize(("text", "numbers"), [("64,128,2,3", (64, 128, 2, 3, 1)), ("16,64,4,2,4", (16, 64, 4, 2, 4))])
def test_a_tile_is_read_as_it_is_printed(text, numbers):
    from meswitch_kernels.tune import _name, parse_tile

    tile = parse_tile(text)
    assert (tile.BM, tile.BKB, tile.warps, tile.stages, tile.SK) == numbers
    assert _name(tile) == text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bits", "2", "--tile", "64,128"], "a tile must be BM,BKB,WARPS,STAGES[,SK], as 64,128,2,3, got '64,128'"),
        (["--bits", "2", "--tile", "1,x,2,3"], "a tile must be BM,BKB,WARPS,STAGES[,SK], as 64,128,2,3, got '1,x,2,3'"),
        (["--bits", "2", "--rows", "5", "--experts", "2"], "rows must be a multiple of experts, got 5 and 2"),
        (["--bits", "3"], "bits must be 0.5, 0.75, 1, 2, 4 or 8, got 3.0"),
    ],
)
def test_what_cannot_be_timed_is_one_line(capsys, arguments, message):
    from meswitch_kernels.tune import main

    assert main(arguments) == 1
    assert capsys.readouterr().err == f"error: {message}\n"


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_without_a_gpu_tuning_ends_with_one_line(capsys):
    from meswitch_kernels.tune import main

    assert main(["--bits", "0.5", "--tile", "64,128,2,3"]) == 1
    assert capsys.readouterr().err == "error: tuning needs a CUDA device: run it on a machine that has one\n"


@pytest.mark.gpu
def test_tiles_are_timed_beside_the_one_that_is_chosen_and_too_large_ones_are_said_not_to_fit(capsys):
    from meswitch_kernels.bench_cases import BenchCase
    from meswitch_kernels.tune import parse_tile, tune

    small, large = parse_tile("32,64,2,2"), parse_tile("64,128,2,16")
    case = BenchCase(kernel="delta_matmul_sliced", layer="k", B=2, E=2, bits=0.5)
    timings = tune(case, [small, large])
    assert set(timings) == {None, small}
    assert all(len(timing.repeats_us) == 14 and timing.low_us > 0 for timing in timings.values())
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert "of read bandwidth" in lines[-1]
