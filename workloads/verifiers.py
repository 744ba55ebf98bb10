"""Verdicts on answers: whether an output is the expected answer, by a rule that leaves no room for taste."""

import ast
import json
import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from workloads.errors import UnknownVerifierError

__all__ = ["VERIFIERS", "verify"]

INTEGER = re.compile(r"[+-]?[0-9]{1,4000}")


def verify(verifier: str, expected: str, output: str) -> bool:
    """Whether `output` is the answer `expected`, as `verifier` understands answers.

    An output that the verifier cannot even read is wrong, and so is every output when `expected` itself is malformed.

    Raises:
        UnknownVerifierError: listing the names there are.
    """
    if verifier not in VERIFIERS:
        raise UnknownVerifierError(f"a verifier must be one of {', '.join(VERIFIERS)}, got {verifier!r}")
    return VERIFIERS[verifier](expected, output)


def _exact(expected: str, output: str) -> bool:
    return expected.strip() == output.strip()


def _integer(expected: str, output: str) -> bool:
    want, got = expected.strip(), output.strip()
    if not (INTEGER.fullmatch(want) and INTEGER.fullmatch(got)):
        return False
    return int(want) == int(got)


def _json(expected: str, output: str) -> bool:
    try:
        return _same(_load(expected), _load(output))
    except (ValueError, RecursionError):
        return False


def _load(text: str) -> Any:
    return json.loads(text, parse_constant=_no_constant, object_pairs_hook=_distinct_keys)


def _no_constant(name: str) -> None:
    raise ValueError(f"JSON has no {name}")


def _distinct_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # two values under one key have no one meaning
    record = dict(pairs)
    if len(record) != len(pairs):
        raise ValueError("an object's keys must be distinct")
    return record


def _same(a: Any, b: Any) -> bool:
    """Equality of JSON values: 1 and 1.0 are one number, true and 1 are not one value."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    return bool(a == b)


def _python_expression(expected: str, output: str) -> bool:
    try:
        return _tree(expected) == _tree(output)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


def _tree(text: str) -> str:
    with warnings.catch_warnings():
        # what a model writes may be doubtful Python; that is no news for the user
        warnings.simplefilter("ignore")
        return ast.dump(ast.parse(text.strip(), mode="eval"))


VERIFIERS: Mapping[str, Callable[[str, str], bool]] = {
    "exact": _exact,
    "integer": _integer,
    "json": _json,
    "python_expression": _python_expression,
}
"""By name, from the expected answer and the output to the verdict."""
