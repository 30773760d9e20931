"""Structs to bytes and back, strictly (PROTOCOL 3).

MessagePack for what travels, JSON for what people and TUF read. Decoding refuses what is not exactly
the message asked for and says where (`$.reports[0].lease`). Encoding is deterministic: fields in
the order of the struct, so equal values give equal bytes.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from workunits.errors import LimitExceeded, MalformedMessage
from workunits.wire import limits

T = TypeVar("T")

_packer = msgspec.msgpack.Encoder()
_json = msgspec.json.Encoder()
_unpackers: dict[Any, msgspec.msgpack.Decoder[Any]] = {}


def pack(value: msgspec.Struct) -> bytes:
    """MessagePack bytes of a struct."""
    return _packer.encode(value)


def unpack(raw: bytes, kind: type[T], *, most: int) -> T:
    """The struct of type `kind` in `raw`.

    Raises:
        LimitExceeded: `raw` is longer than `most` bytes; nothing was parsed.
        MalformedMessage: anything else; the message names the field.
    """
    _check_size(raw, kind, most)
    decoder = _unpackers.get(kind)
    if decoder is None:
        decoder = _unpackers[kind] = msgspec.msgpack.Decoder(kind)
    try:
        return decoder.decode(raw)  # type: ignore[no-any-return]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedMessage(f"{_name(kind)}: {in_one_line(error)}") from None


def to_json(value: msgspec.Struct) -> bytes:
    """JSON text of a struct; bytes become base64."""
    return _json.encode(value)


def from_json(raw: bytes, kind: type[T], *, most: int) -> T:
    """As `unpack`, for JSON text."""
    _check_size(raw, kind, most)
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedMessage(f"{_name(kind)}: {in_one_line(error)}") from None


def in_one_line(error: Exception) -> str:
    """What went wrong, short and printable: it may quote a field's name out of the bytes."""
    text = " ".join(str(error)[: limits.TEXT_CHARS].split())
    return "".join(char if char.isprintable() else "?" for char in text)


def _check_size(raw: bytes, kind: type[object], most: int) -> None:
    if len(raw) > most:
        raise LimitExceeded(f"{_name(kind)}: {len(raw)} bytes, at most {most}")


def _name(kind: type[object]) -> str:
    return getattr(kind, "__name__", str(kind))
