"""Statistics that come layer by layer: asked for in order, given away once, the same whichever way they are found."""

from pathlib import Path

import pytest
import torch

from meswitch import calibration_stream
from meswitch.calibration_stream import CalibrationStream, InputStatistics, collect_statistics
from meswitch.compress_config import torch_device
from meswitch.errors import CheckpointError, EngineError
from meswitch.layer_stream import NotAChainError
from meswitch.pair import Pair, open_pair
from tests.meswitch.checkpoints import fine_tune, save_model, tiny_config

Q0, Q1, DOWN1 = (
    "model.layers.0.self_attn.q_proj.weight",
    "model.layers.1.self_attn.q_proj.weight",
    "model.layers.1.mlp.down_proj.weight",
)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    root = tmp_path_factory.mktemp("models")
    base = save_model(root / "base", tiny_config())
    return open_pair(base, fine_tune(base, root / "expert", size=0.05))


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("abc\nhello\n")
    return path


def test_statistics_are_given_in_order_and_once(pair: Pair, texts: Path) -> None:
    want = collect_statistics(pair, texts).square_sums
    stream = CalibrationStream(pair, texts)
    assert stream.of("model.embed_tokens.weight") is None
    for name in (Q0, Q1, DOWN1):
        found = stream.of(name)
        assert found is not None
        assert torch.equal(found.square_sum, want[name])
    # layer 0 is past
    assert stream.of(Q0) is None


def test_layers_are_read_only_as_far_as_they_are_asked_for(pair: Pair, texts: Path) -> None:
    seen: list[tuple[int, int]] = []
    stream = CalibrationStream(pair, texts, progress=lambda done, total: seen.append((done, total)))
    assert seen == []
    stream.of(Q0)
    assert seen == [(1, 3)]
    assert [name for name, _ in stream.rest()][-1] == "lm_head.weight"
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_a_model_that_is_no_chain_of_layers_is_read_whole(
    pair: Pair, texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    streamed = dict(CalibrationStream(pair, texts, second_moments=[DOWN1]).rest())

    def refuse(*_: object, **__: object) -> None:
        raise NotAChainError

    monkeypatch.setattr(calibration_stream, "LayerStream", refuse)
    whole = dict(CalibrationStream(pair, texts, second_moments=[DOWN1]).rest())
    assert whole.keys() == streamed.keys()
    assert all(torch.equal(whole[name].square_sum, streamed[name].square_sum) for name in whole)
    moments = [found[DOWN1].second_moment for found in (whole, streamed)]
    assert moments[0] is not None
    assert moments[1] is not None
    assert torch.equal(moments[0], moments[1])
    assert whole[Q0] == InputStatistics(square_sum=whole[Q0].square_sum)


def test_texts_without_tokens_are_refused(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t.txt").write_text("abc\n")
    monkeypatch.setattr(calibration_stream, "_load_tokenizer", lambda _: lambda text: {"input_ids": []})
    with pytest.raises(CheckpointError, match=r"t\.txt cannot calibrate this expert: its texts must have tokens"):
        CalibrationStream(pair, tmp_path / "t.txt")


def test_an_expert_whose_inputs_are_not_finite_is_refused_by_name(pair: Pair, texts: Path, tmp_path: Path) -> None:
    def spoil(model: torch.nn.Module) -> None:
        model.get_parameter("model.layers.1.input_layernorm.weight").data[3] = torch.inf

    expert = fine_tune(pair.base.root, tmp_path / "expert", change=spoil)
    stream = CalibrationStream(open_pair(pair.base.root, expert), texts)
    assert stream.of(Q0) is not None
    with pytest.raises(CheckpointError, match=rf"must be finite, got inf in channel 3 of {Q1}"):
        stream.of(Q1)


def test_an_unknown_device_is_refused() -> None:
    assert torch_device("cpu") == torch.device("cpu")
    with pytest.raises(EngineError, match="device must be cpu or cuda, got 'gpu'"):
        torch_device("gpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(EngineError, match="needs an NVIDIA GPU that torch can see"):
        torch_device("cuda")
