"""An expert whose linears have codecs of their own: within the budget, weighed by hand, read and merged like any."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from meswitch.allocation import allocate_linears, choices_of, parse_budget
from meswitch.architecture import ParameterKind
from meswitch.calibration_stream import CalibrationStream, collect_statistics
from meswitch.codecs import decompress, parse_codec
from meswitch.compress import CompressConfig, compress_expert
from meswitch.errors import CapacityError, CodecOptionError, UnknownCodecError
from meswitch.format import Manifest, load_expert
from meswitch.format.writer import DeltaWriter
from meswitch.merge import merge
from meswitch.pair import open_pair
from tests.meswitch.checkpoints import fine_tune, save_model, tensors_of, tiny_config

CANDIDATES = ("rtn:bits=1", "rtn:bits=2", "salient:bits=4,channels=4")
TABLES = {ParameterKind.EMBEDDING: parse_codec("rtn:bits=8"), ParameterKind.HEAD: parse_codec("rtn:bits=8")}
UP = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("models")
    base = save_model(root / "base", tiny_config())
    return base, fine_tune(base, root / "expert", size=0.05)


def allocated(models: tuple[Path, Path], output: Path, budget: str, **changes: Any) -> Manifest:
    options: dict[str, Any] = {"allocate": budget, "candidates": CANDIDATES, **changes}
    return compress_expert(CompressConfig(base=models[0], expert=models[1], output=output, name="e", **options))


def test_linears_have_codecs_of_their_own_within_the_budget(models: tuple[Path, Path], tmp_path: Path) -> None:
    manifest = allocated(models, tmp_path / "delta", "6bits")
    record = manifest.allocation
    assert record is not None
    linears = [p for p in manifest.parameters if p.kind == "linear"]
    weights = sum(p.shape[0] * p.shape[1] for p in linears)
    assert record.budget_bytes == int(6 * weights / 8)
    assert manifest.nbytes.linears == sum(p.nbytes for p in linears) <= record.budget_bytes
    assert len({(p.codec, p.options.get("bits")) for p in linears}) > 1
    assert sum(record.linears.values()) == len(linears)
    assert record.least_error <= record.error
    assert manifest.codecs["linear"].name == "mixed"
    delta = load_expert(tmp_path / "delta", base_identity=None)
    merge(models[0], tmp_path / "delta", tmp_path / "merged")
    base, merged = tensors_of(models[0]), tensors_of(tmp_path / "merged")
    for p in linears:
        torch.testing.assert_close(merged[p.name] - base[p.name], decompress(delta.matrices[p.name]), atol=1e-6, rtol=0)
    again = allocated(models, tmp_path / "again", "6bits")
    assert again.parameters == manifest.parameters


def test_one_codec_for_all_is_named_as_such(models: tuple[Path, Path], tmp_path: Path) -> None:
    manifest = allocated(models, tmp_path / "delta", "30bits", linear="bitdelta")
    assert manifest.codecs["linear"].name == "salient"
    assert manifest.allocation is not None
    assert list(manifest.allocation.linears.values()) == [14]
    # the file has no more than before where nothing was allocated
    plain = compress_expert(CompressConfig(base=models[0], expert=models[1], output=tmp_path / "plain", name="e"))
    assert plain.allocation is None
    assert json.loads((tmp_path / "plain" / "manifest.json").read_text())["allocation"] is None


def test_an_interrupted_expert_goes_on_with_what_was_measured(
    models: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "texts.txt").write_text("abc\nhello\n")
    options: dict[str, Any] = {"calibration": tmp_path / "texts.txt", "measure": True}
    whole = allocated(models, tmp_path / "whole", "6bits", **options)
    written: list[str] = []
    write = DeltaWriter.write

    def note(self: DeltaWriter, name: str, *rest: Any) -> None:
        if len(written) == allowed:
            raise KeyboardInterrupt
        written.append(name)
        write(self, name, *rest)

    monkeypatch.setattr(DeltaWriter, "write", note)
    allowed = 5
    with pytest.raises(KeyboardInterrupt):
        allocated(models, tmp_path / "delta", "6bits", **options)
    first, allowed = list(written), len(whole.parameters)
    written.clear()
    manifest = allocated(models, tmp_path / "delta", "6bits", **options)
    assert written == [p.name for p in whole.parameters if p.name not in first]
    assert (manifest.allocation, manifest.parameters) == (whole.allocation, whole.parameters)


def test_errors_are_weighed_by_the_inputs(models: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("abc\nhello\n")
    pair = open_pair(*models)
    codecs = {ParameterKind.LINEAR: parse_codec("rtn"), **TABLES}
    candidates = [parse_codec(spec) for spec in CANDIDATES]
    choices = choices_of(
        pair, pair.plan(codecs), candidates, calibration=CalibrationStream(pair, tmp_path / "texts.txt")
    )
    squares = collect_statistics(pair, tmp_path / "texts.txt").square_sums[UP].double()
    delta = pair.expert.values(UP) - pair.base.read(UP)
    for choice, codec in zip(choices[UP], candidates, strict=True):
        compressed = codec.compress(delta, input_square_sum=squares.float())
        missed = (delta - decompress(compressed)).double()
        assert choice.error == pytest.approx(float((missed.square() * squares).sum()), rel=1e-6)
        assert choice.nbytes == compressed.nbytes
    plain = choices_of(pair, pair.plan(codecs), candidates)
    missed = (delta - decompress(candidates[1].compress(delta))).double()
    assert plain[UP][1].error == pytest.approx(float(missed.square().sum()), rel=1e-6)
    smallest = sum(min(choice.nbytes for choice in row) for row in choices.values())
    assert allocate_linears(choices, smallest).counts == {"rtn:bits=1,step=unbiased": 14}


def test_a_budget_in_bytes_is_that_of_the_whole_expert(models: tuple[Path, Path], tmp_path: Path) -> None:
    manifest = allocated(models, tmp_path / "delta", "20kB")
    assert manifest.nbytes.whole <= 20_000
    assert manifest.allocation is not None
    others = manifest.nbytes.whole - manifest.nbytes.linears
    assert manifest.allocation.budget_bytes == 20_000 - others


@pytest.mark.parametrize(
    ("text", "nbytes"), [("2bits", 250), ("0.75bit", 93), ("1.5kB", 1400), ("1KiB", 924), (" 1200 ", 1100)]
)
def test_budgets_as_people_write_them(text: str, nbytes: int) -> None:
    # 1000 weights, and 100 bytes of other parameters
    assert parse_budget(text, linear_weights=1000, other_bytes=100) == nbytes


def test_budgets_that_mean_nothing_are_refused() -> None:
    for text in ("much", "2 foo", "-3bits", ""):
        with pytest.raises(CodecOptionError, match=r"must look like 2\.25bits or 1\.2GB"):
            parse_budget(text, linear_weights=1000, other_bytes=100)
    with pytest.raises(CapacityError, match=r"at least 101 .* and 100 bytes of embedding, head and exact parameters"):
        parse_budget("100", linear_weights=1000, other_bytes=100)


@pytest.mark.parametrize(
    ("text", "least"),
    [
        # 1000 weights in 251 bytes: 2.008 bits each; 100 bytes more in all
        ("0.01bits", "2.008bits"),
        ("2bit", "2.008bit"),
        ("300", "351"),
        # 351 / 1024 is 0.34277
        ("0.1KiB", "0.3428KiB"),
        ("0.2kB", "0.351kB"),
    ],
)
def test_a_budget_that_is_too_small_is_told_the_least_in_its_own_unit(text: str, least: str) -> None:
    sizes = {"linear_weights": 1000, "other_bytes": 100, "least_bytes": 251}
    with pytest.raises(CapacityError, match=rf"must be at least {re.escape(least)} \(251 bytes .*, got {text}$"):
        parse_budget(text, **sizes)
    assert parse_budget(least, **sizes) >= 251


@pytest.mark.parametrize("weights", [1, 3, 7, 999, 114_688, 6_979_321_856])
@pytest.mark.parametrize("nbytes", [1, 17, 172_033, 1_767_112_704])
def test_the_least_budget_that_is_proposed_works(weights: int, nbytes: int) -> None:
    sizes = {"linear_weights": weights, "other_bytes": 12_345, "least_bytes": nbytes}
    for unit in ("bits", "b", "kB", "MiB", "GB"):
        with pytest.raises(CapacityError) as refused:
            parse_budget(f"0{unit}", **sizes)
        proposed = str(refused.value).split("at least ")[1].split(" ")[0]
        assert parse_budget(proposed, **sizes) >= nbytes


def test_a_budget_that_nothing_fits_leaves_nothing_behind(models: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(CapacityError, match="what the cheapest candidates take"):
        allocated(models, tmp_path / "delta", "1bits")
    with pytest.raises(CodecOptionError, match="at least one candidate"):
        allocated(models, tmp_path / "delta", "3bits", candidates=())
    assert list(tmp_path.iterdir()) == []


def test_an_allocation_among_no_candidates_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    nowhere = (tmp_path / "base", tmp_path / "expert")
    with pytest.raises(CodecOptionError, match="at least one candidate"):
        allocated(nowhere, tmp_path / "delta", "2bits", candidates=())
    with pytest.raises(UnknownCodecError, match="'grtn'"):
        allocated(nowhere, tmp_path / "delta", "2bits", candidates=("grtn:bits=2",))
