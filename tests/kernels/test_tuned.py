import json
from importlib.resources import files

import pytest

from meswitch_kernels.tuned import delta_config, fused_config

TABLE = json.loads(files("meswitch_kernels").joinpath("tuned.json").read_text())


@pytest.mark.parametrize("gpu", sorted(TABLE))
def test_a_shape_of_the_table_gets_its_own_entry(gpu):
    for entry in TABLE[gpu]["delta_matmul"]:
        shape = {k: entry[k] for k in ("rows", "width", "N", "row_bytes")}
        found = delta_config(gpu, **shape, group_rows=entry["N"])
        assert {k: getattr(found, k) for k in entry["config"]} == entry["config"]
    for entry in TABLE[gpu]["fused_matmul"]:
        warpgroups = entry["config"].get("method") == "warpgroups"
        shape = {k: entry[k] for k in ("rows", "N", "K")}
        found = fused_config(gpu, **shape, group_rows=entry["N"], warpgroups=warpgroups)
        assert {k: getattr(found, k) for k in entry["config"]} == entry["config"]


def test_an_unknown_gpu_gets_the_default_entries():
    shape = {"rows": 16, "width": 4, "N": 4096, "row_bytes": 1024, "group_rows": 4096}
    assert delta_config("some other GPU", **shape) == delta_config("default", **shape)


def test_stacked_layers_get_tiles_that_divide_a_layer():
    config = delta_config("default", rows=64, width=16, N=6144, row_bytes=1024, group_rows=64)
    assert 64 % config.BM == 0


def test_warpgroups_are_chosen_only_where_they_cover_a_call():
    shape = {"rows": 512, "N": 6144, "K": 4096}
    assert fused_config("default", **shape, group_rows=1024, warpgroups=True).method == "warpgroups"
    assert fused_config("default", **shape, group_rows=1024, warpgroups=False).method != "warpgroups"
    # a tile of 128 channels would span two groups
    assert fused_config("default", **shape, group_rows=192, warpgroups=True).method != "warpgroups"
