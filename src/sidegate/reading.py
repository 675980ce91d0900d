"""TOML text -> frozen structs, with every error of the file at once.

`msgspec.convert` stops at the first error. `read` walks the struct types itself and converts leaf by leaf, so that one
reading names every unknown key, missing key and wrong value with its path and what was expected.
"""

from __future__ import annotations

import difflib
import functools
import json
import re
import tomllib
import types
import typing
from collections.abc import Callable
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)
from typing import Any, TypeVar, cast

import msgspec

from sidegate.problems import Problem, Problems

T = TypeVar("T")

_EXPECTED: dict[Any, str] = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    IPv4Address: "an IPv4 address such as 192.168.1.2",
    IPv4Interface: "an IPv4 address with its prefix such as 192.168.1.1/24",
    IPv4Network: "an IPv4 network such as 192.168.1.0/24",
    IPv6Address: "an IPv6 address such as 2001:db8::2",
    IPv6Interface: "an IPv6 address with its prefix such as 2001:db8::1/64",
    IPv6Network: "an IPv6 network such as 2001:db8::/64",
}
_BARE_KEY = re.compile("[A-Za-z0-9_-]+")
_SHOWN_CHARACTERS = 60
_SYNTAX = 'a text stands in "quotes", a list in [brackets]; see https://toml.io for the syntax'
_ADDRESSES = (IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network)


def decode_address(kind: type, value: Any) -> Any:
    """The `dec_hook` for address types; raises ValueError for what is no address of that kind."""
    if kind not in _ADDRESSES or not isinstance(value, str):
        raise ValueError(f"expected {describe(kind)}")
    if kind in (IPv4Interface, IPv6Interface) and "/" not in value:
        raise ValueError("the prefix length is missing")
    return kind(value)


def encode_address(value: Any) -> str:
    """The `enc_hook` for address types."""
    if isinstance(value, _ADDRESSES):
        return str(value)
    raise NotImplementedError(f"cannot encode {type(value).__name__}")


def describe(kind: Any) -> str:
    """What a value of this type looks like, in words for a person."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind in _EXPECTED:
        return _EXPECTED[kind]
    if origin is typing.Annotated:
        meta = next((a for a in args[1:] if isinstance(a, msgspec.Meta)), None)
        described = meta.description if meta else None
        return described or describe(args[0])
    if origin is typing.Literal:
        return "one of " + ", ".join(f'"{a}"' for a in args)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe(a) for a in args if a is not type(None))
    if origin in (tuple, list):
        return f"a list, each item {describe(args[0])}"
    if origin is dict:
        return f"a table, each value {describe(args[1])}"
    if _is_struct(kind):
        required = [f"{f.encode_name} = …" for f in msgspec.structs.fields(kind) if f.required]
        return f"a table such as {{ {', '.join(required)} }}" if required else "a table"
    return getattr(kind, "__name__", str(kind))


def read(text: str, kind: type[T], source: str, check: Callable[[T], list[Problem]] | None = None) -> T:
    """The struct that a TOML text describes.

    source: the file's name, put before every path. check: what must hold between the fields; called only with a
    struct that is well formed, with paths relative to the file.
    Raises Problems with every error of the file.
    """
    try:
        data = tomllib.loads(text)
    except ValueError as error:  # TOMLDecodeError, or a number with too many digits
        raise Problems(Problem(source, f"not a TOML file: {error}", _SYNTAX)) from None
    except RecursionError:
        raise Problems(Problem(source, "not a TOML file that can be read: nested too deeply")) from None
    problems: list[Problem] = []
    value = _convert(data, kind, "", problems)
    if not problems and check is not None:
        problems = check(value)
    if problems:
        raise Problems(*(_in_file(p, source) for p in problems))
    return cast(T, value)


def restore(data: Any, kind: type[T]) -> T:
    """The struct that this plain data was made of, as by `msgspec.to_builtins`; None stands for an absent key.

    msgspec itself cannot decode a union of two address types. Raises Problems.
    """
    problems: list[Problem] = []
    value = _convert(_without_none(data), kind, "", problems)
    if problems:
        raise Problems(*problems)
    return cast(T, value)


def _without_none(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _without_none(item) for key, item in data.items() if item is not None}
    return [_without_none(item) for item in data] if isinstance(data, list | tuple) else data


def _in_file(problem: Problem, source: str) -> Problem:
    where = f"{source}: {problem.where}" if problem.where else source
    return msgspec.structs.replace(problem, where=where)


def _is_struct(kind: Any) -> bool:
    struct = typing.get_origin(kind) or kind
    return isinstance(struct, type) and issubclass(struct, msgspec.Struct)


@functools.cache
def _field_types(kind: Any) -> dict[str, Any]:
    """The types of a struct's fields; the parameters of a generic one filled in."""
    struct = typing.get_origin(kind) or kind
    hints = typing.get_type_hints(struct, include_extras=True)
    filled = dict(zip(getattr(struct, "__parameters__", ()), typing.get_args(kind), strict=True))

    def fill(hint: Any) -> Any:
        if hint in filled:
            return filled[hint]
        if typing.get_origin(hint) in (typing.Union, types.UnionType):
            return typing.Union[tuple(fill(a) for a in typing.get_args(hint))]  # noqa: UP007
        return hint

    return {name: fill(hint) for name, hint in hints.items()}


def _convert(data: Any, kind: Any, path: str, problems: list[Problem]) -> Any:
    """The value, or None after adding to `problems`; descends where several errors can be below."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(data, kind, path, problems)
    if not _is_struct(kind) and origin not in (tuple, dict):
        return _convert_leaf(data, kind, path, problems)
    container: Any = list if origin is tuple else dict
    if not isinstance(data, container):
        return _refuse(data, kind, path, problems)
    if origin is tuple:
        return tuple(_convert(item, args[0], f"{path}[{i}]", problems) for i, item in enumerate(data))
    if origin is dict:
        return {key: _convert(item, args[1], _join(path, key), problems) for key, item in data.items()}
    return _convert_struct(data, kind, path, problems)


def _convert_union(data: Any, kind: Any, path: str, problems: list[Problem]) -> Any:
    choices = [a for a in typing.get_args(kind) if a is not type(None)]
    structs = [a for a in choices if _is_struct(a)]
    if structs and isinstance(data, dict):
        return _convert(data, structs[0], path, problems)
    for choice in choices:
        attempt: list[Problem] = []
        value = _convert(data, choice, path, attempt)
        if not attempt:
            return value
    return _refuse(data, kind, path, problems)


def _convert_struct(data: dict[str, Any], kind: Any, path: str, problems: list[Problem]) -> Any:
    hints = _field_types(kind)
    fields = {f.encode_name: f for f in msgspec.structs.fields(kind)}
    for key in (key for key in data if key not in fields):
        near = difflib.get_close_matches(key, fields, n=1)
        remedy = f'did you mean "{near[0]}"?' if near else "known keys here: " + ", ".join(fields)
        problems.append(Problem(_join(path, key), "unknown key", remedy))
    before = len(problems)
    values = {}
    for key, field in fields.items():
        if key in data:
            values[field.name] = _convert(data[key], hints[field.name], _join(path, key), problems)
        elif field.required:
            expected = describe(hints[field.name])
            problems.append(Problem(_join(path, key), f"missing; expected {expected}"))
    return kind(**values) if len(problems) == before else None


def _convert_leaf(data: Any, kind: Any, path: str, problems: list[Problem]) -> Any:
    try:
        return msgspec.convert(data, kind, dec_hook=decode_address)
    except (msgspec.ValidationError, ValueError):
        return _refuse(data, kind, path, problems)


def _refuse(data: Any, kind: Any, path: str, problems: list[Problem]) -> None:
    problems.append(Problem(path, f"expected {describe(kind)}, got {_shown(data)}", _how_written(data, kind, path)))


def _how_written(data: Any, kind: Any, path: str) -> str:
    """Where one thing stands for a list of such, or the other way round: how TOML writes what was meant."""
    if isinstance(data, list) and _is_struct(kind):
        return f"there is one such section only: [{path}]"
    if typing.get_origin(kind) is not tuple:
        return ""
    if isinstance(data, dict):
        return f"there may be several such sections, hence two brackets: [[{path}]]"
    return f"in brackets: [{_shown(data)}]"


def _shown(data: Any) -> str:
    if isinstance(data, bool):
        return "true" if data else "false"
    if isinstance(data, dict):
        return "a table"
    if isinstance(data, list):
        return "a list"
    if isinstance(data, int) and data.bit_length() > 64:
        return "a number of more than 64 bits"
    text = json.dumps(data, ensure_ascii=False) if isinstance(data, str) else str(data)
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…"


def _join(path: str, key: str) -> str:
    """The path as TOML writes it: keys that are not bare are quoted."""
    shown = key if _BARE_KEY.fullmatch(key) else json.dumps(key, ensure_ascii=False)
    return f"{path}.{shown}" if path else shown
