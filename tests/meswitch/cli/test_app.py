"""The command line: every command explains itself, results are right, and no mistake of a user ends in a traceback."""

import io
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import typer

from meswitch.cli.app import app, run
from meswitch.format import open_delta
from meswitch.tensor_file import TensorFileWriter
from tests.meswitch.checkpoints import edit_json, fine_tune, save_model, tensors_of, tiny_config


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("models")
    base = save_model(root / "base", tiny_config(num_hidden_layers=1))
    return base, fine_tune(base, root / "math")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MESWITCH_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def compress(models: tuple[Path, Path], *more: str) -> int:
    return run(["compress", "--base", str(models[0]), "--expert", str(models[1]), *more])


def commands() -> Iterator[list[str]]:
    def walk(command: object, path: list[str]) -> Iterator[list[str]]:
        yield path
        for name, child in getattr(command, "commands", {}).items():
            yield from walk(child, [*path, name])

    yield from walk(typer.main.get_command(app), [])


@pytest.mark.parametrize("path", list(commands()), ids=" ".join)
def test_every_command_explains_itself_and_all_its_options(path: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*path, "--help"]) == 0
    printed = capsys.readouterr().out
    assert "Usage: " + " ".join(["meswitch", *path]) in printed
    command = typer.main.get_command(app)
    for name in path:
        command = command.commands[name]
    assert command.help
    for parameter in command.params:
        assert parameter.name in ("help", "show_help") or parameter.help, f"{path} {parameter.name} has no help"


def test_expert_goes_through_all_commands(
    models: tuple[Path, Path], home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compress(models, "--linear", "dense", "--embedding", "dense", "--head", "dense") == 0
    assert str(home / "experts" / "math") in capsys.readouterr().out
    assert run(["list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [entry["name"] for entry in listed] == ["math"]
    assert run(["inspect", "MATH", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["codecs"]["linear"]["name"] == "dense"
    assert run(["inspect", "math"]) == 0
    shown = capsys.readouterr().out
    assert all(text in shown for text in ("dense", "linear", "whole expert", "32.000", "blake3:"))
    assert run(["verify", "math", "--base", str(models[0])]) == 0
    assert "intact" in capsys.readouterr().out
    assert run(["merge", "math", "--base", str(models[0]), "--output", str(tmp_path / "merged")]) == 0
    merged, expert = tensors_of(tmp_path / "merged"), tensors_of(models[1])
    assert all((merged[name] - expert[name]).abs().max() < 1e-6 for name in expert)
    assert run(["remove", "math", "--yes"]) == 0
    capsys.readouterr()
    assert run(["list"]) == 0
    assert "no experts" in capsys.readouterr().out


@pytest.mark.parametrize("command", [["list"], ["inspect", "an-expert-with-a-name-that-is-rather-long"]])
def test_a_codec_is_named_whole_and_as_the_documents_name_it_where_stdout_is_no_terminal(
    command: list[str], models: tuple[Path, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    assert compress(models, "--name", "an-expert-with-a-name-that-is-rather-long") == 0
    capsys.readouterr()
    assert run(command) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if "salient:" in line)
    assert "salient:bits=2,channels=8,step=unbiased" in row


def test_compress_prints_the_manifest_as_json(models: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert compress(models, "--name", "sums", "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["name"] == "sums"
    assert printed["codecs"]["linear"]["spec"].startswith("salient:bits=2,channels=8")
    assert printed["bits_per_weight"]["linears"] > 2


def test_remove_asks_and_takes_no_for_an_answer(
    models: tuple[Path, Path], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compress(models)
    monkeypatch.setattr(typer, "confirm", lambda _: False)
    assert run(["remove", "math"]) == 0
    assert (home / "experts" / "math").is_dir()


def test_remove_without_an_answer_deletes_nothing(
    models: tuple[Path, Path], home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compress(models)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert run(["remove", "math"]) == 1
    assert "error: aborted" in capsys.readouterr().err
    assert (home / "experts" / "math").is_dir()


def test_one_wrong_name_removes_nothing(models: tuple[Path, Path], home: Path) -> None:
    compress(models)
    assert run(["remove", "math", "law", "--yes"]) == 1
    assert (home / "experts" / "math").is_dir()


MISTAKES = {
    "no such command": (["compres"], "No such command"),
    "no such option": (["list", "--all"], "No such option"),
    "option missing": (["compress", "--base", "{base}"], "--expert"),
    "argument missing": (["inspect"], "Missing argument"),
    "wrong choice": (["merge", "math", "--base", "{base}", "--output", "{new}", "--dtype", "int3"], "int3"),
    "no base": (["compress", "--base", "{new}", "--expert", "{expert}"], "--base must be a directory"),
    "hub name": (["compress", "--base", "meta-llama/Llama-2-7b", "--expert", "{expert}"], "on this machine"),
    "no expert": (["compress", "--base", "{base}", "--expert", "{new}"], "--expert must be a directory"),
    "the base again": (["compress", "--base", "{base}", "--expert", "{base}", "--name", "same"], "the same weights"),
    "budget below all": (
        ["compress", "--base", "{base}", "--expert", "{expert}", "--allocate", "1KiB"],
        "the budget must be at least ",
    ),
    "reserved name": (["compress", "--base", "{base}", "--expert", "{expert}", "--name", "auto"], "auto"),
    "name with a slash": (["compress", "--base", "{base}", "--expert", "{expert}", "--name", "a/b"], "'a/b'"),
    "name taken": (["compress", "--base", "{base}", "--expert", "{expert}", "--name", "Taken"], "exists"),
    "unknown codec": (["compress", "--base", "{base}", "--expert", "{expert}", "--linear", "zip"], "zip"),
    "wrong bits": (["compress", "--base", "{base}", "--expert", "{expert}", "--linear", "rtn:bits=3"], "3"),
    "no such codec option": (["compress", "--base", "{base}", "--expert", "{expert}", "--head", "rtn:x=3"], "'x'"),
    "too many channels": (
        ["compress", "--base", "{base}", "--expert", "{expert}", "--linear", "salient:channels=999"],
        "999",
    ),
    "no calibration file": (
        ["compress", "--base", "{base}", "--expert", "{expert}", "--calibration", "{new}"],
        "no such file",
    ),
    "wrong parent": (["compress", "--base", "{stranger}", "--expert", "{expert}"], "relative norm"),
    "other shapes": (["compress", "--base", "{larger}", "--expert", "{expert}"], "hidden_size"),
    "missing shard": (["compress", "--base", "{base}", "--expert", "{sharded}"], "model-00002-of-"),
    "truncated weights": (["compress", "--base", "{base}", "--expert", "{truncated}"], "truncated"),
    "unsupported model": (["compress", "--base", "{gpt2}", "--expert", "{gpt2}"], "c_attn"),
    "base is not a checkpoint": (["compress", "--base", "{empty}", "--expert", "{expert}"], "config.json"),
    "broken config": (["compress", "--base", "{base}", "--expert", "{broken}"], "config"),
    "output is a file": (["compress", "--base", "{base}", "--expert", "{expert}", "--output", "{file}"], "file"),
    "output below a file": (["compress", "--base", "{base}", "--expert", "{expert}", "--output", "{file}/x"], "file"),
    "expert unknown": (["inspect", "law"], "'law'"),
    "expert unknown to verify": (["verify", "law"], "'law'"),
    "expert unknown to remove": (["remove", "law", "-y"], "'law'"),
    "manifest is no object": (["inspect", "{list}"], "not a JSON object; remove it and compress again"),
    "no delta": (["inspect", "{empty}"], "manifest.json"),
    "checkpoint for a delta": (["inspect", "{base}"], "manifest.json"),
    "flipped bit": (["verify", "{flipped}"], "BLAKE3"),
    "truncated delta": (["merge", "{cut}", "--base", "{base}", "--output", "{new}"], "bytes"),
    "other base": (["merge", "taken", "--base", "{stranger}", "--output", "{new}"], "made from base"),
    "verify other base": (["verify", "taken", "--base", "{stranger}"], "made from base"),
    "merge over something": (["merge", "taken", "--base", "{base}", "--output", "{expert}"], "must not exist"),
}


@pytest.fixture(scope="module")
def scenery(models: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Directories with all that can be wrong with them."""
    root = tmp_path_factory.mktemp("scenery")
    base, expert = models
    places = {"base": base, "expert": expert, "new": root / "new", "empty": root / "empty", "file": root / "file"}
    places["empty"].mkdir()
    places["file"].write_text("a file")
    places["list"] = root / "list"
    places["list"].mkdir()
    (places["list"] / "manifest.json").write_text("[]")
    places["stranger"] = save_model(root / "stranger", tiny_config(num_hidden_layers=1), seed=8)
    places["larger"] = save_model(root / "larger", tiny_config(num_hidden_layers=1, hidden_size=64))
    places["gpt2"] = save_model(root / "gpt2", tiny_config("gpt2", n_embd=32, n_layer=1, n_head=2))
    places["sharded"] = fine_tune(base, root / "sharded", max_shard_size="20KB")
    next(places["sharded"].glob("model-00002*")).unlink()
    places["truncated"] = fine_tune(base, root / "truncated")
    weights = places["truncated"] / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    places["broken"] = fine_tune(base, root / "broken")
    edit_json(places["broken"] / "config.json", model_type="llama", hidden_size="many")
    for name in ("flipped", "cut", "taken"):
        assert compress(models, "--output", str(root / name), "--name", "x") == 0
        places[name] = root / name
    flipped = places["flipped"] / "delta.safetensors"
    flipped.write_bytes(flipped.read_bytes()[:-1] + bytes([flipped.read_bytes()[-1] ^ 1]))
    cut = places["cut"] / "delta.safetensors"
    cut.write_bytes(cut.read_bytes()[:-7])
    return places


def snapshot(places: dict[str, Path]) -> list[str]:
    return sorted({str(p) for place in places.values() for p in place.parent.rglob("*")})


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_mistake_is_one_line_and_leaves_nothing(
    mistake: str,
    scenery: dict[str, Path],
    models: tuple[Path, Path],
    home: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    (home / "experts").mkdir(parents=True)
    (home / "experts" / "taken").symlink_to(scenery["taken"])
    before = snapshot(scenery), sorted((home / "experts").iterdir())
    arguments, named = MISTAKES[mistake]
    code = run([argument.format(**scenery) for argument in arguments])
    captured = capsys.readouterr()
    assert code == 1
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert "Traceback" not in captured.err
    assert named in captured.err
    assert (snapshot(scenery), sorted((home / "experts").iterdir())) == before


def test_debug_shows_the_traceback_wherever_it_stands(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--debug", "inspect", "law"], ["inspect", "law", "--debug"]):
        assert run(arguments) == 1
        printed = capsys.readouterr().err
        assert "Traceback" in printed
        assert printed.splitlines()[-1].startswith("error: ")


def test_without_a_command_the_help_is_shown_and_the_code_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 1
    assert "compress" in capsys.readouterr().out


def test_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    from importlib.metadata import version

    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"meswitch {version('meswitch')}\n"


def test_ctrl_c_exits_with_130_leaves_no_expert_and_is_gone_on_with(
    models: tuple[Path, Path], home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write, calls = TensorFileWriter.write, 0

    def interrupted(self: TensorFileWriter, name: str, tensor: torch.Tensor) -> None:
        nonlocal calls
        calls += 1
        if calls == 6:
            signal.raise_signal(signal.SIGINT)
        write(self, name, tensor)

    with monkeypatch.context() as patch:
        patch.setattr(TensorFileWriter, "write", interrupted)
        assert compress(models) == 128 + signal.SIGINT
    printed = capsys.readouterr().err
    assert printed.splitlines()[-1] == "error: interrupted; the same command goes on where it stopped"
    assert "Traceback" not in printed
    assert not (home / "experts" / "math").exists()
    assert compress(models) == 0
    assert open_delta(home / "experts" / "math").manifest.name == "math"
    assert [p.name for p in (home / "experts").iterdir()] == ["math"]


def test_module_is_runnable() -> None:
    ended = subprocess.run([sys.executable, "-m", "meswitch", "--version"], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0
    assert ended.stdout.startswith("meswitch ")


def test_help_is_printed_without_importing_torch() -> None:
    code = "import sys; from meswitch.cli import app; print('torch' in sys.modules, 'transformers' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ended.stdout.split() == ["False", "False"]
