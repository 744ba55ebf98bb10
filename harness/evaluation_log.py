"""Where kept answers come from: each evaluation that gave some, with its commit, machine, versions and options.

The log lies beside the answers, as `answers/evaluations.json`. An evaluation is written down before it begins, so that
the answers of an interrupted one are known too, and what is built from the answers later can still say who gave them.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import JsonValue, TypeAdapter, ValidationError

from harness.errors import RunFormatError, UsageError
from harness.results import describe_invalid, write_atomic

__all__ = ["Evaluation", "add_evaluation", "evaluations_of", "refuse_other", "refuse_other_config"]

LOG_FILE = "evaluations.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """One call of `harness quality` that had something to answer.

    Attributes:
        started: in UTC.
        config: the resolved options.
        provenance: commit, machine and versions.
        keys: of the units that it set out to answer.
    """

    started: str
    command: tuple[str, ...]
    config: Mapping[str, JsonValue]
    provenance: Mapping[str, JsonValue]
    keys: tuple[str, ...]


_LOG = TypeAdapter(tuple[Evaluation, ...])


def add_evaluation(folder: Path, evaluation: Evaluation) -> None:
    """Write `evaluation` at the end of the log in `folder`; the folder is made if there is none."""
    folder.mkdir(parents=True, exist_ok=True)
    log = (*_read(folder / LOG_FILE), evaluation)
    write_atomic(folder / LOG_FILE, _LOG.dump_json(log, indent=2) + b"\n")


def refuse_other(where: Path, kept: Collection[object], asked: object, words: str) -> None:
    """Refuse to write over records of another configuration.

    Args:
        where: the records are.
        kept: the values that they have, of which `asked` must be the only one, if there is any.
        words: that a value stands in, at `{}`.

    Raises:
        UsageError: with one of the others.
    """
    others = sorted(str(value) for value in kept if value != asked)
    if others:
        held = words.format(others[0])
        raise UsageError(f"{where} holds records {held}, this call asks for {asked}; give --output")


def refuse_other_config(folder: Path, asked: Mapping[str, JsonValue], words: Mapping[str, str]) -> None:
    """Refuse a configuration that differs from those of the log in `folder`.

    Args:
        words: of each name of the configuration that is compared, as `refuse_other` takes them.

    Raises:
        RunFormatError: the log is damaged.
        UsageError: a value differs.
    """
    log = _read(folder / LOG_FILE)
    for name, sentence in words.items():
        kept = [evaluation.config[name] for evaluation in log if name in evaluation.config]
        refuse_other(folder, kept, asked[name], sentence)


def evaluations_of(folder: Path, keys: Collection[str]) -> tuple[Evaluation, ...]:
    """The evaluations that gave the units with these keys, each with the keys that it gave, oldest first.

    A unit that several set out to answer is of the last one: that there was another says that the others failed, or
    that its file was lost.

    Raises:
        RunFormatError: the log is damaged.
    """
    log = _read(folder / LOG_FILE)
    last = {key: place for place, evaluation in enumerate(log) for key in evaluation.keys}
    given = (
        replace(evaluation, keys=tuple(key for key in evaluation.keys if key in keys and last[key] == place))
        for place, evaluation in enumerate(log)
    )
    return tuple(evaluation for evaluation in given if evaluation.keys)


def _read(path: Path) -> tuple[Evaluation, ...]:
    try:
        return _LOG.validate_json(path.read_bytes())
    except FileNotFoundError:
        return ()
    except ValidationError as error:
        raise RunFormatError(describe_invalid(path, error)) from error
