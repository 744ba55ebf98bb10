"""An expert that is read and compressed on a GPU is the one that a CPU makes, but for rounding."""

from pathlib import Path

import pytest
import torch

from meswitch.codecs import decompress
from meswitch.compress import CompressConfig, compress_expert
from meswitch.format import load_expert
from tests.meswitch.checkpoints import fine_tune, save_model, tiny_config

pytestmark = pytest.mark.gpu

CODECS = ("salient:bits=2,channels=4", "sparse-sign:group=8,pick=wanda", "gptq:bits=2", "rtn:bits=8,step=mse")


@pytest.mark.parametrize("linear", CODECS)
def test_both_devices_describe_the_same_delta(linear: str, tmp_path: Path) -> None:
    base = save_model(tmp_path / "base", tiny_config(), dtype=torch.bfloat16)
    expert = fine_tune(base, tmp_path / "expert", size=0.05)
    (tmp_path / "texts.txt").write_text("abc\nhello\n")
    found = {}
    for device in ("cpu", "cuda"):
        config = CompressConfig(
            base=base,
            expert=expert,
            output=tmp_path / device,
            name=device,
            linear=linear,
            calibration=tmp_path / "texts.txt",
            device=device,  # type: ignore[arg-type]
        )
        compress_expert(config)
        found[device] = load_expert(tmp_path / device, base_identity=None).matrices
    for name, matrix in found["cpu"].items():
        ours, theirs = decompress(matrix), decompress(found["cuda"][name])
        assert all(tensor.device.type == "cpu" for tensor in found["cuda"][name].tensors.values())
        # a level or a channel on the edge may fall on either side
        assert float((ours - theirs).norm()) <= 0.1 * float(ours.norm())


def test_a_search_on_a_gpu_measures_what_one_on_the_cpu_does(tmp_path: Path) -> None:
    base = save_model(tmp_path / "base", tiny_config())
    expert = fine_tune(base, tmp_path / "expert", size=0.05)
    (tmp_path / "texts.txt").write_text("abc\nhello\n")
    starts = []
    for device in ("cpu", "cuda"):
        config = CompressConfig(
            base=base,
            expert=expert,
            output=tmp_path / device,
            name=device,
            calibration=tmp_path / "texts.txt",
            allocate="6bits",
            candidates=("rtn:bits=1", "rtn:bits=2", "rtn:bits=4"),
            search=3,
            device=device,  # type: ignore[arg-type]
        )
        record = compress_expert(config).allocation
        assert record is not None
        assert record.search is not None
        assert record.search.found <= record.search.start
        starts.append(record.search.start)
    assert starts[1] == pytest.approx(starts[0], rel=0.05)
