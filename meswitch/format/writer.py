"""Writes a delta's tensors parameter by parameter, so that an interrupted run can go on where it stopped.

A journal beside the file records each complete parameter with a checksum. What the journal does not vouch for is cut
off and written again.
"""

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict

import torch
from blake3 import blake3

from meswitch.codecs.base import TensorSpec
from meswitch.format.manifest import MANIFEST_FILE, FileRecord, Manifest, encode_manifest
from meswitch.format.staging import clear_directory
from meswitch.tensor_file import ALIGNMENT_BYTES, TensorFileWriter

__all__ = ["JOURNAL_FILE", "TENSOR_FILE", "TOKENIZER_DIR", "DeltaWriter", "hash_file"]

TENSOR_FILE = "delta.safetensors"
TOKENIZER_DIR = "tokenizer"
JOURNAL_FILE = "journal.jsonl"


class _Entry(TypedDict):
    parameter: str
    blake3: str
    facts: dict[str, float]


class DeltaWriter:
    """Fills one directory with one delta.

    Args:
        root: the directory; what an earlier run left there is used if it was made from the same `key`.
        key: names everything that decides the content: base, expert, codecs, calibration, version.
        plan: by parameter, the tensors that will be stored for it, in load order.
    """

    def __init__(self, root: Path, key: str, plan: Mapping[str, Mapping[str, TensorSpec]]) -> None:
        self.root = root
        self._key = key
        self._plan = plan
        flat = {name: spec for tensors in plan.values() for name, spec in tensors.items()}
        self._tensors = TensorFileWriter(root / TENSOR_FILE, flat, alignment=ALIGNMENT_BYTES)
        self._journal = root / JOURNAL_FILE

    def start(self) -> dict[str, dict[str, float]]:
        """The facts of the parameters that are already there, by name; the file is ready for the next one."""
        done = self._verified_entries()
        if done:
            count = sum(len(self._plan[name]) for name in done)
            self._tensors.resume(count)
        else:
            clear_directory(self.root)
            self._tensors.start()
        lines: list[object] = [{"key": self._key}, *done.values()]
        self._journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return {name: dict(entry["facts"]) for name, entry in done.items()}

    def write(self, parameter: str, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, float]) -> None:
        """Store one parameter's tensors, which must be those planned next, and what is to be known of it later."""
        for name in self._plan[parameter]:
            self._tensors.write(name, tensors[name])
        self._tensors.sync()
        entry = {"parameter": parameter, "blake3": self._digest(parameter), "facts": dict(facts)}
        with self._journal.open("a") as file:
            file.write(json.dumps(entry) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def finish(self, manifest: Manifest) -> Manifest:
        """The manifest completed with the checksums of all files, written last."""
        self._tensors.finish()
        self._journal.unlink()
        paths = sorted(path for path in self.root.rglob("*") if path.is_file())
        files = {path.relative_to(self.root).as_posix(): hash_file(path) for path in paths}
        complete = manifest.model_copy(update={"files": files})
        with (self.root / MANIFEST_FILE).open("wb") as file:
            file.write(encode_manifest(complete))
            file.flush()
            os.fsync(file.fileno())
        return complete

    def close(self) -> None:
        """Close the file, complete or not. Idempotent."""
        self._tensors.close()

    def _digest(self, parameter: str) -> str:
        start, end = self._tensors.extent(list(self._plan[parameter]))
        hasher = blake3()
        with (self.root / TENSOR_FILE).open("rb") as file:
            file.seek(start)
            while start < end:
                piece = file.read(min(1 << 20, end - start))
                if not piece:
                    break
                hasher.update(piece)
                start += len(piece)
        return str(hasher.hexdigest())

    def _verified_entries(self) -> dict[str, _Entry]:
        """What the journal vouches for, in order, up to the first parameter that does not fit its checksum."""
        verified: dict[str, _Entry] = {}
        for name, entry in zip(self._plan, self._journal_entries(), strict=False):
            if entry["parameter"] != name or entry["blake3"] != self._digest(name):
                break
            verified[name] = entry
        return verified

    def _journal_entries(self) -> list[_Entry]:
        file = self.root / TENSOR_FILE
        if not self._journal.is_file() or not file.is_file():
            return []
        with file.open("rb") as stream:
            same_header = stream.read(len(self._tensors.header)) == self._tensors.header
        entries: list[_Entry] = []
        first: object = None
        for number, line in enumerate(self._journal.read_text().splitlines()):
            # the last line may have been cut off
            with contextlib.suppress(ValueError):
                if number:
                    entries.append(json.loads(line))
                else:
                    first = json.loads(line)
        return entries if same_header and first == {"key": self._key} else []


def hash_file(path: Path) -> FileRecord:
    """Size and BLAKE3 of a file."""
    hasher = blake3(max_threads=blake3.AUTO)
    hasher.update_mmap(path)
    return FileRecord(nbytes=path.stat().st_size, blake3=hasher.hexdigest())
