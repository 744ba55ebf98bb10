"""Reading, writing and finding trace files: JSONL, one record a line, an optional header on the first."""

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from importlib.resources import files
from pathlib import Path

from workloads.errors import TraceFormatError, WorkloadError
from workloads.trace import FieldError, Trace, TraceHeader, TraceRequest
from workloads.trace_schema import parse_record, render_header, render_request
from workloads.verifiers import VERIFIERS, verify

__all__ = ["bundled_traces", "find_trace", "read_trace", "write_text_atomically", "write_trace"]

SUFFIX = ".jsonl"


def read_trace(path: Path) -> Trace:
    """The trace in the file, checked as a whole.

    Raises:
        TraceFormatError: naming file, line and field of the first record that breaks the schema.
    """
    data = _read_bytes(path)
    header = TraceHeader(name=path.stem)
    requests: dict[str, TraceRequest] = {}
    previous: TraceRequest | None = None
    for number, line in _lines(data):
        try:
            record = parse_record(_decode(line))
            if isinstance(record, TraceRequest):
                _check_request(record, previous, requests)
                requests[record.id] = previous = record
            elif number == 1:
                header = record
            else:
                raise FieldError("type", "must be 'request' after the first line, got 'header'")
        except FieldError as error:
            raise TraceFormatError(f"{path.name}, line {number}, field {error.field}: {error.rule}") from None
    if not requests:
        raise TraceFormatError(f"{path.name}: must hold at least one request, got none")
    return Trace(header=header, requests=tuple(requests.values()), sha256=hashlib.sha256(data).hexdigest())


def write_trace(path: Path, header: TraceHeader, requests: Iterable[TraceRequest]) -> None:
    """Write the trace; the file appears whole or not at all. Requests must come in order of time.

    Raises:
        ValueError: when the records could not be read back.
        WorkloadError: when the disk refuses.
    """
    lines = [render_header(header)]
    seen: dict[str, TraceRequest] = {}
    previous: TraceRequest | None = None
    for request in requests:
        _check_request(request, previous, seen)
        seen[request.id] = previous = request
        lines.append(render_request(request))
    if not seen:
        raise ValueError("a trace must hold at least one request, got none")
    write_text_atomically(path, "\n".join(lines) + "\n")


def find_trace(name_or_path: str | Path) -> Path:
    """The path of a trace: the file at that path, or else the bundled trace of that bare name.

    A file in the current folder wins over a bundled one of the same name: it is what the path says.

    Raises:
        TraceFormatError: listing the bundled names, when there is neither.
    """
    path = Path(name_or_path)
    if path.is_file():
        return path
    bundled = bundled_traces()
    if path.name == str(name_or_path):
        for name in (path.name, path.name + SUFFIX):
            if name in bundled:
                return bundled[name]
    names = ", ".join(bundled) or "none"
    what = "is a folder" if path.is_dir() else "is no file"
    raise TraceFormatError(f"a trace must be a file or a bundled name ({names}): {name_or_path} {what}")


def bundled_traces() -> dict[str, Path]:
    """Paths of the traces that ship with the package, by file name, sorted."""
    folder = Path(str(files("workloads"))) / "bundled"
    return {path.name: path for path in sorted(folder.glob("*" + SUFFIX))}


def write_text_atomically(path: Path, text: str) -> None:
    """Write UTF-8 text; a crash or a full disk leaves the old file or none, never half of one.

    Raises:
        WorkloadError: when the disk refuses.
    """
    temporary: Path | None = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = Path(file.name)
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        # the temporary file is private; what is published follows the user's umask
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise WorkloadError(f"cannot write {path}: {error.strerror or error}") from None


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise TraceFormatError(f"{path}: there is no such file") from None
    except OSError as error:
        raise TraceFormatError(f"{path}: cannot be read: {error.strerror or error}") from None


def _lines(data: bytes) -> Iterator[tuple[int, bytes]]:
    # only line feeds end a line: a JSON string may hold other separators of Unicode as they are
    for number, line in enumerate(data.split(b"\n"), start=1):
        if line.strip():
            yield number, line


def _decode(line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise FieldError("(line)", f"must be UTF-8, but {error}") from None


def _check_request(request: TraceRequest, previous: TraceRequest | None, earlier: dict[str, TraceRequest]) -> None:
    """Check what one record alone cannot tell.

    Raises:
        FieldError: the first rule broken.
    """
    if request.id in earlier:
        raise FieldError("id", f"must be unique in the trace, got {request.id!r} again")
    if previous is not None and request.t_ms < previous.t_ms:
        raise FieldError("t", f"must not go back in time, got {request.t_ms} after {previous.t_ms}")
    if request.parent is not None and request.parent not in earlier:
        raise FieldError("parent", f"must be the id of an earlier request, got {request.parent!r}")
    if request.verifier is not None and request.verifier not in VERIFIERS:
        raise FieldError("verifier", f"must be one of {', '.join(VERIFIERS)}, got {request.verifier!r}")
    # an answer that its own verifier refuses would count every output as wrong
    if request.verifier and request.answer is not None and not verify(request.verifier, request.answer, request.answer):
        raise FieldError("answer", f"must pass its verifier {request.verifier}, got {request.answer!r}")
