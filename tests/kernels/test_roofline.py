import json

import pytest

from meswitch_kernels.roofline import draw_roofline, main

ROW = {"kernel": "delta_matmul", "layer": "q", "N": 4096, "K": 4096, "B": 16, "E": 4, "bytes": 2e7, "time_us": 10.0}
HOST = {"read_bandwidth_bytes_per_s": 3e12, "matmul_rate_per_s": 8e14}


def test_the_picture_is_drawn_beside_the_rows(tmp_path):
    path = tmp_path / "kernels.json"
    path.write_text(json.dumps([ROW, {**ROW, "E": 16, "kernel": "fused_matmul", "B": 2048}]))
    path.with_suffix(".raw.jsonl").write_text(json.dumps(HOST) + "\n")
    assert main([str(path)]) == 0
    svg = path.with_suffix(".svg").read_text()
    assert "operations per byte" in svg or svg.count("<path") > 10


def test_missing_rows_are_an_error_of_one_line(tmp_path, capsys):
    assert main([str(tmp_path / "none.json")]) == 1
    assert capsys.readouterr().err.startswith("error: ")
    with pytest.raises(ValueError, match="at least one row"):
        draw_roofline([], tmp_path / "x.svg", read_bandwidth=1.0, matmul_rate=1.0)
