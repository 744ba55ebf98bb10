"""Options of a codec: read from a spec string, typed by the codec's fields, and refused by name.

A spec is `name` or `name:option=value,option=value`, such as `salient:bits=2,channels=8,step=unbiased`.
"""

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, cast

from meswitch.codecs.base import OptionValue
from meswitch.errors import CodecOptionError, UnknownCodecError

__all__ = ["check_choice", "check_not_negative", "closest", "format_spec", "options_of", "parse_spec", "typed_options"]


def parse_spec(spec: str) -> tuple[str, dict[str, str]]:
    """The name and the raw options of `spec`.

    Raises:
        UnknownCodecError: if there is no name.
        CodecOptionError: if an option is not `key=value`, or is given twice.
    """
    name, _, rest = spec.strip().partition(":")
    if not name.strip():
        raise UnknownCodecError(f"a codec spec must start with a name, got {spec!r}")
    options: dict[str, str] = {}
    for item in rest.split(",") if rest.strip() else ():
        key, equals, value = (part.strip() for part in item.partition("="))
        if not (key and equals and value):
            raise CodecOptionError(f"a codec option must be key=value, got {item.strip()!r} in {spec!r}")
        if key in options:
            raise CodecOptionError(f"a codec option must be given once, got {key!r} twice in {spec!r}")
        options[key] = value
    return name.strip().lower(), options


def format_spec(name: str, options: Mapping[str, OptionValue]) -> str:
    """The spec string that `parse_spec` reads back to `name` and `options`."""
    items = (f"{k}={str(v).lower() if isinstance(v, bool) else v}" for k, v in options.items())
    return ":".join(filter(None, (name, ",".join(items))))


def options_of(codec: Any) -> dict[str, OptionValue]:
    """The fields of a codec's dataclass as an options mapping, in the order of their declaration."""
    return {field.name: getattr(codec, field.name) for field in dataclasses.fields(codec)}


def typed_options(codec: type[Any], given: Mapping[str, OptionValue]) -> dict[str, OptionValue]:
    """`given` with each text turned into the type of that option's default.

    Raises:
        CodecOptionError: if `codec` has no such option, or the value has another type.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(codec)}
    for key in given:
        if key not in defaults:
            valid = ", ".join(defaults) or "none"
            raise CodecOptionError(
                f"codec {codec.name} has no option {key!r}{closest(key, defaults)}; its options: {valid}"
            )
    return {key: _typed(codec.name, key, value, type(defaults[key])) for key, value in given.items()}


def check_choice(codec: str, option: str, value: OptionValue, choices: Iterable[OptionValue]) -> None:
    """Refuse a `value` that is not among `choices`.

    Raises:
        CodecOptionError: with the valid values and the closest of them.
    """
    valid = tuple(choices)
    if value not in valid:
        listed = ", ".join(map(str, valid))
        near = closest(str(value), map(str, valid))
        raise CodecOptionError(f"codec {codec}: {option} must be one of {listed}, got {value}{near}")


def check_not_negative(codec: str, **values: float) -> None:
    """Refuse options below 0, given by name.

    Raises:
        CodecOptionError: with the first of them.
    """
    for option, value in values.items():
        if value < 0:
            raise CodecOptionError(f"codec {codec}: {option} must be at least 0, got {value}")


def closest(word: str, valid: Iterable[str]) -> str:
    """A question naming the valid word most like `word`, or nothing if none is like it."""
    found = difflib.get_close_matches(word, list(valid), n=1)
    return f" (did you mean {found[0]!r}?)" if found else ""


def _typed(codec: str, key: str, value: OptionValue, kind: type) -> OptionValue:
    if type(value) is kind:
        return value
    if kind is bool and value in ("true", "false"):
        return value == "true"
    if kind is float and type(value) is int:
        return float(value)
    if kind in (int, float) and isinstance(value, str):
        with suppress(ValueError):
            return cast(OptionValue, kind(value))
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    raise CodecOptionError(f"codec {codec}: {key} must be {words[kind]}, got {value!r}")
