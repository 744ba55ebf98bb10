"""Who a checkpoint is: one hash over all of its tensors, whatever files they are spread over."""

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path

from blake3 import blake3

from meswitch.checkpoint import Checkpoint
from meswitch.home import cache_dir
from meswitch.tensor_file import dtype_name, tensor_bytes

__all__ = ["base_identity", "checkpoint_identity"]


def base_identity(root: Path) -> str:
    """`blake3:<hex>` of the checkpoint in `root`: see `checkpoint_identity`."""
    return checkpoint_identity(Checkpoint(root))


def checkpoint_identity(checkpoint: Checkpoint, *, progress: Callable[[int], None] | None = None) -> str:
    """`blake3:<hex>` over name, dtype, shape and bytes of every tensor, in order of name.

    The same weights in another dtype are another checkpoint; the same tensors in other shards are the same one.
    The result is cached under the home directory for as long as no file changes its size or modification time.

    Args:
        progress: called with the bytes hashed since the last call.
    """
    cached = cache_dir() / "identity" / f"{_fingerprint(checkpoint)}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return str(json.loads(cached.read_text())["identity"])
    identity = _hash_tensors(checkpoint, progress)
    # a home that cannot be written costs the next run a second reading, nothing else
    with contextlib.suppress(OSError):
        cached.parent.mkdir(parents=True, exist_ok=True)
        temporary = cached.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps({"identity": identity, "root": str(checkpoint.root)}))
        temporary.replace(cached)
    return identity


def _hash_tensors(checkpoint: Checkpoint, progress: Callable[[int], None] | None) -> str:
    hasher = blake3(max_threads=blake3.AUTO)
    for name in checkpoint.names:
        spec = checkpoint.spec(name)
        hasher.update(json.dumps([name, dtype_name(spec.dtype), list(spec.shape)]).encode())
        hasher.update(tensor_bytes(checkpoint.read(name)))
        if progress is not None:
            progress(spec.nbytes)
    return f"blake3:{hasher.hexdigest()}"


def _fingerprint(checkpoint: Checkpoint) -> str:
    stats = [(path, path.stat()) for path in checkpoint.files]
    parts = [
        (str(path.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ino, stat.st_ctime_ns) for path, stat in stats
    ]
    return str(blake3(json.dumps([parts, checkpoint.names]).encode()).hexdigest())
