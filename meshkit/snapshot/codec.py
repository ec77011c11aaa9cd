"""Typed dataclasses ↔ canonical JSON, and the hash that names the bytes.

A blob is named by what it says, so equal values must give equal bytes: keys are
sorted, fields that hold their default are left out, floats are always floats.
Decoding is strict, because a worker trusts the value afterwards: an unknown or
missing field, or a value of another type, is a `CodecError`.

A worker decodes a host while a request waits for it.  So the walk over type
hints happens once per class and leaves plain closures; nothing is looked up by
reflection afterwards.
"""

from __future__ import annotations

import hashlib
import json
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from meshkit.snapshot.types import HostConfig, OutboundHost

T = TypeVar("T")
Convert = Callable[[Any], Any]

HASH_LENGTH = 32
"""Hex digits of a content hash: 128 bits, collision-free by accident or search."""


class CodecError(ValueError):
    """Bytes that are not the canonical JSON of the expected class."""


def encode(value: Any) -> bytes:
    """The canonical JSON of a dataclass instance; equal values, equal bytes."""
    return canonical(_encoder(_hint(type(value)))(value))


def canonical(plain: Any) -> bytes:
    """JSON with sorted keys and no spaces, as UTF-8; raises ValueError for NaN."""
    text = json.dumps(
        plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode()


def decode(cls: type[T], data: bytes) -> T:
    """The value of class ``cls`` that `encode` wrote; raises CodecError."""
    try:
        value: T = _decoder(_hint(cls))(json.loads(data, parse_constant=_refuse_constant))
    except CodecError:
        raise
    except KeyError as error:
        raise CodecError(f"{cls.__name__}: missing field {error}") from error
    except (TypeError, AttributeError, ValueError, RecursionError) as error:
        raise CodecError(f"{cls.__name__}: {error}") from error
    return value


def decode_outbound(data: bytes) -> OutboundHost:
    """One host's blob; raises CodecError."""
    return decode(OutboundHost, data)


def decode_host(data: bytes) -> HostConfig:
    """The blob that `Snapshot.host` names; raises CodecError."""
    return decode(HostConfig, data)


def content_hash(data: bytes) -> str:
    """The name of a blob: the first 32 hex digits of its SHA-256."""
    return hashlib.sha256(data).hexdigest()[:HASH_LENGTH]


def _hint(cls: type[Any]) -> Any:
    """A class as a cache key, for a type checker that doubts its hash."""
    return cls


def _refuse_constant(name: str) -> None:
    raise CodecError(f"{name} is not JSON")


def _default(item: Field[Any]) -> Any:
    if item.default is not MISSING:
        return item.default
    if item.default_factory is not MISSING:
        return item.default_factory()
    return MISSING


# -- encoding -----------------------------------------------------------------


@cache
def _encoder(kind: Any) -> Convert:
    """How a value of type hint ``kind`` becomes what `json.dumps` takes."""
    origin, args = get_origin(kind), get_args(kind)
    if is_dataclass(kind):
        return _object_encoder(kind)
    if kind is float:
        return float
    if kind in (str, int, bool) or origin is Literal:
        return _same
    if origin in (Union, types.UnionType):
        return _optional(_encoder(_only(args)))
    if origin is tuple and args[-1] is Ellipsis:
        return _list_of(_encoder(args[0]))
    if origin is tuple and float not in args and _SCALARS.keys() >= {*args}:
        return _same
    if origin is tuple:
        return _fixed(tuple(map(_encoder, args)), list)
    if origin is Mapping:
        return _dict_of(str if args[0] is int else _same, _encoder(args[1]))
    raise TypeError(f"the codec does not know {kind}")


def _object_encoder(cls: Any) -> Convert:
    hints = get_type_hints(cls)
    parts = [(f.name, _default(f), _encoder(hints[f.name])) for f in fields(cls)]

    def convert(value: Any) -> dict[str, Any]:
        plain = {}
        for name, default, inner in parts:
            held = getattr(value, name)
            if held is not default and held != default:
                plain[name] = inner(held)
        return plain

    return convert


def _same(value: Any) -> Any:
    return value


def _list_of(inner: Convert) -> Convert:
    return lambda value: [inner(item) for item in value]


# -- decoding -----------------------------------------------------------------


@cache
def _decoder(kind: Any) -> Convert:
    """The strict inverse of `_encoder`."""
    origin, args = get_origin(kind), get_args(kind)
    if is_dataclass(kind):
        return _object_decoder(kind)
    if kind in _SCALARS:
        return _SCALARS[kind]
    if origin is Literal:
        return _one_of(frozenset(args))
    if origin in (Union, types.UnionType):
        return _optional(_decoder(_only(args)))
    if origin is tuple and args[-1] is Ellipsis:
        return _tuple_of(_decoder(args[0]))
    if origin is tuple and _SCALARS.keys() >= {*args}:
        return _row(args)
    if origin is tuple:
        return _fixed(tuple(map(_decoder, args)), tuple)
    if origin is Mapping:
        return _dict_of(_key_of_int if args[0] is int else _str, _decoder(args[1]))
    raise TypeError(f"the codec does not know {kind}")


def _object_decoder(cls: Any) -> Convert:
    """Write and compile one function for the class, as `dataclasses` does for __init__.

    Measured on a host of 10 rules and 10 endpoints, a loop over the fields takes
    twice as long as this straight line, and a request is waiting.
    """
    hints = get_type_hints(cls)
    names: dict[str, Any] = {"cls": cls, "wrong": _wrong, "unknown": _unknown, "absent": object()}
    lines = ["def convert(plain):", " left = len(plain)"]
    for index, item in enumerate(fields(cls)):
        names[f"default{index}"] = _default(item)
        lines += _take(index, item.name, names[f"default{index}"] is MISSING)
        lines += [f"  {line}" for line in _check(index, item.name, hints[item.name], names)]
    values = ", ".join(f"v{index}" for index in range(len(fields(cls))))
    lines += [" if left: unknown(cls, plain)", f" return cls({values})"]
    exec("\n".join(lines), names)
    convert: Convert = names["convert"]
    return convert


def _take(index: int, name: str, required: bool) -> list[str]:
    """Lines that fetch one field and open the block that checks it."""
    if required:
        return [f" v{index} = plain[{name!r}]", " if True:", "  left -= 1"]
    return [
        f" v{index} = plain.get({name!r}, absent)",
        f" if v{index} is absent: v{index} = default{index}",
        " else:",
        "  left -= 1",
    ]


def _check(index: int, name: str, kind: Any, names: dict[str, Any]) -> list[str]:
    """Lines that check a scalar in place, or convert anything else."""
    if kind in _SCALARS:
        names[kind.__name__] = kind
        return [f"if v{index}.__class__ is not {kind.__name__}: wrong({name!r}, v{index})"]
    names[f"inner{index}"] = _decoder(kind)
    return [f"v{index} = inner{index}(v{index})"]


def _wrong(name: str, value: Any) -> None:
    raise CodecError(f"{name}: unexpected {value!r:.60}")


def _unknown(cls: Any, plain: Mapping[str, Any]) -> None:
    extra = sorted(plain.keys() - {item.name for item in fields(cls)})
    raise CodecError(f"{cls.__name__}: unknown field {', '.join(extra)}")


def _str(value: Any) -> Any:
    if value.__class__ is not str:
        raise CodecError(f"expected a string, got {value!r:.60}")
    return value


def _int(value: Any) -> Any:
    if value.__class__ is not int:
        raise CodecError(f"expected an integer, got {value!r:.60}")
    return value


def _bool(value: Any) -> Any:
    if value.__class__ is not bool:
        raise CodecError(f"expected true or false, got {value!r:.60}")
    return value


def _float(value: Any) -> Any:
    if value.__class__ is not float:
        raise CodecError(f"expected a number with a fraction, got {value!r:.60}")
    return value


_SCALARS: Mapping[Any, Convert] = {str: _str, int: _int, bool: _bool, float: _float}


def _key_of_int(value: str) -> int:
    number = int(value)
    if str(number) != value:
        raise CodecError(f"{value!r:.60} is not a canonical integer key")
    return number


def _one_of(allowed: frozenset[Any]) -> Convert:
    def convert(value: Any) -> Any:
        if value not in allowed:
            raise CodecError(f"{value!r:.60} is none of {', '.join(sorted(allowed))}")
        return value

    return convert


def _tuple_of(inner: Convert) -> Convert:
    def convert(value: Any) -> Any:
        if value.__class__ is not list:
            raise CodecError(f"expected a list, got {value!r:.60}")
        return tuple([inner(item) for item in value])

    return convert


def _row(kinds: tuple[Any, ...]) -> Convert:
    """A fixed tuple of scalars in one comparison: an address table has tens of thousands."""

    def convert(value: Any) -> Any:
        if value.__class__ is not list or tuple(map(type, value)) != kinds:
            raise CodecError(f"expected {', '.join(k.__name__ for k in kinds)}, got {value!r:.60}")
        return tuple(value)

    return convert


# -- shared by both directions ------------------------------------------------


def _only(args: tuple[Any, ...]) -> Any:
    """The X of ``X | None``, the only union that the values use."""
    (one,) = [arg for arg in args if arg is not type(None)]
    return one


def _optional(inner: Convert) -> Convert:
    return lambda value: None if value is None else inner(value)


def _dict_of(key: Convert, inner: Convert) -> Convert:
    if key is inner is _same:
        return dict
    return lambda value: {key(name): inner(held) for name, held in value.items()}


def _fixed(inner: tuple[Convert, ...], build: Callable[[Any], Any]) -> Convert:
    def convert(value: Any) -> Any:
        if len(value) != len(inner):
            raise CodecError(f"expected {len(inner)} items, got {value!r:.60}")
        return build([each(item) for each, item in zip(inner, value, strict=True)])

    return convert
