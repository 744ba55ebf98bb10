"""Makes a family's checkpoints and compressed deltas ready, in a process of its own: the client never imports torch."""

import hashlib
import json
import multiprocessing
import signal
from collections.abc import Callable
from math import prod
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import HarnessError
from harness.prepared import DeltaSize, Prepared, PrepareRequest
from meswitch.errors import DeltaError, DeltaFormatError, MeswitchError, StorageError

if TYPE_CHECKING:
    from meswitch.format.manifest import Manifest as DeltaManifest

__all__ = ["checked_manifest", "ignore_interrupts", "prepare", "prepare_here"]

Report = Callable[[str], None]
# part of the cache key: raised when compression gives other bytes for the same input
CACHE_VERSION = 1
FLOAT32_BYTES = 4
ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def prepare(request: PrepareRequest, *, report: Report = lambda _: None) -> Prepared:
    """`prepare_here` in a fresh process.

    Args:
        report: called with a few words each time there is something to say.

    Raises:
        MeswitchError, HarnessError: as the process raised it.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(request, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        while True:
            kind, value = ours.recv()
            if kind == "report":
                report(value)
            elif kind == "done":
                return value  # type: ignore[no-any-return]
            else:
                raise value
    except EOFError:
        process.join()
        raise HarnessError(f"preparing the family ended with exit code {process.exitcode}") from None
    finally:
        ours.close()
        if process.is_alive():
            process.terminate()
        process.join()


def ignore_interrupts() -> None:
    """Leave a Ctrl-C, which reaches all processes of a terminal, to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _work(request: PrepareRequest, connection: Connection) -> None:
    ignore_interrupts()
    try:
        prepared = prepare_here(request, report=lambda words: connection.send(("report", words)))
        connection.send(("done", prepared))
    except (MeswitchError, HarnessError) as error:
        connection.send(("error", error))
    except OSError as error:
        where = error.filename or request.home
        connection.send(("error", StorageError(f"{where} cannot be read or written: {error.strerror or error}")))
    finally:
        connection.close()


def prepare_here(request: PrepareRequest, *, report: Report = lambda _: None) -> Prepared:
    """The family ready to be served. Imports torch.

    Made once: checkpoints and deltas are kept under `home`, under names that depend on their inputs and options.

    Raises:
        MeswitchError: the family or the codec is unknown, or something cannot be made.
    """
    from harness.shapes import is_shape_family, prepare_shapes
    from meswitch.families import load_family, materialise

    if is_shape_family(request.family):
        return prepare_shapes(request)
    # before torch is imported, so that a misspelt name is refused at once
    family = load_family(request.family)

    import torch

    from meswitch.architecture import read_config
    from meswitch.codecs import format_spec, parse_codec
    from meswitch.identity import base_identity

    torch.set_num_threads(1)
    codec = parse_codec(request.codec)
    spec = format_spec(codec.name, codec.options)
    report(f"unpacking the {family.name} family")
    checkpoints = materialise(family, request.home)
    chosen = {
        name: path for name, path in checkpoints.experts.items() if request.experts is None or name in request.experts
    }
    identities = {name: base_identity(path) for name, path in chosen.items()}
    base_id = base_identity(checkpoints.base)
    deltas: dict[str, Path] = {}
    for number, (name, path) in enumerate(chosen.items(), 1):
        report(f"compressing expert {number} of {len(chosen)}: {name}")
        key = _key(base_id, identities[name], spec)
        deltas[name] = _compress(request.home / "cache" / "harness" / key / name, name, checkpoints.base, path, spec)
    manifests = {name: checked_manifest(path) for name, path in deltas.items()}
    router = checkpoints.router
    return Prepared(
        family=family.name,
        base=checkpoints.base,
        checkpoints=chosen,
        deltas=deltas,
        router=router,
        domains={name: family.experts[name].description for name in chosen},
        tasks={name: family.experts[name].task for name in chosen},
        model_bytes=_model_bytes(checkpoints.base, request.dtype),
        router_bytes=_model_bytes(router, request.dtype),
        sizes={name: _size(manifest) for name, manifest in manifests.items()},
        codec=spec,
        codec_name=codec.name,
        codec_options=dict(codec.options),
        weights_hash=_key(base_id, *(identities[name] for name in sorted(identities)), base_identity(router)),
        vocabulary=int(read_config(checkpoints.base).vocab_size),
    )


def _compress(output: Path, name: str, base: Path, expert: Path, spec: str) -> Path:
    from meswitch.compress import compress_expert
    from meswitch.compress_config import CompressConfig
    from meswitch.format.manifest import MANIFEST_FILE
    from meswitch.format.staging import exclusive

    # the manifest is written last: where it is, the delta is whole, and nothing needs to be locked or written
    manifest = output / MANIFEST_FILE
    if manifest.exists():
        return output
    # a second run that needs the same delta waits for it; `compress_expert` itself would refuse
    with exclusive(output.parent):
        if not manifest.exists():
            output.parent.mkdir(parents=True, exist_ok=True)
            # the family itself says whose fine-tune it is: nothing is left to guess from the size of the delta
            config = CompressConfig(base=base, expert=expert, output=output, name=name, linear=spec, force=True)
            compress_expert(config)
    return output


def checked_manifest(path: Path) -> "DeltaManifest":
    """The manifest of a delta that was made earlier, its files checked.

    Raises:
        DeltaFormatError: it is damaged.
    """
    from meswitch.format.reader import open_delta

    try:
        return open_delta(path).manifest
    except DeltaError as error:
        raise DeltaFormatError(f"a kept delta is damaged ({error}); delete {path}, and it is made again") from error


def _model_bytes(root: Path, dtype: str) -> int:
    from meswitch.checkpoint import Checkpoint

    checkpoint = Checkpoint(root)
    return ITEM_BYTES[dtype] * sum(prod(checkpoint.spec(name).shape) for name in checkpoint.names)


def _size(manifest: "DeltaManifest") -> DeltaSize:
    described = (prod(record.shape) for record in manifest.parameters if record.codec is not None)
    return DeltaSize(
        whole=manifest.nbytes.whole,
        linears=manifest.nbytes.linears,
        full_model=manifest.nbytes.full_model,
        bits_per_weight=manifest.bits_per_weight["linears"],
        bits_per_weight_whole=manifest.bits_per_weight["whole"],
        dense=FLOAT32_BYTES * sum(described),
    )


def _key(*parts: str) -> str:
    return hashlib.sha256(json.dumps([CACHE_VERSION, *parts]).encode()).hexdigest()[:16]
