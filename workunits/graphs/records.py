"""How many records a file holds, counted before protobuf makes objects of them.

Protobuf spends about seventy-five bytes of memory on each byte of a file made of empty messages, so
a small hostile file could take gigabytes. The count walks the wire format along ONNX's own message
types, skips every payload by its length, and stops at the limit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from onnx import ModelProto

from workunits.graphs.refusal import refused
from workunits.wire import limits

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor

# The worst file below this size takes 75 MiB, and most models need no count.
_UNCOUNTED_BYTES: Final = limits.MIB
_VARINT, _BYTES = 0, 2
_FIXED_BYTES: Final = {1: 8, 5: 4}
_MESSAGE_WEIGHT: Final = 8  # fields that one message object takes the memory of

# Field number -> the message type inside it; a number that is missing is a payload to be skipped.
_Level = dict[int, "_Level"]


def check_record_count(raw: bytes) -> None:
    """Raise `GraphRefused` if `raw` is not protobuf or holds more records than the limit."""
    if len(raw) <= _UNCOUNTED_BYTES:
        return
    try:
        is_within = _is_within(raw, limits.GRAPH_RECORDS)
    except (IndexError, KeyError, ValueError):
        raise refused("the file is not an ONNX model", "export it again") from None
    if not is_within:
        raise refused(
            f"the file holds more than {limits.GRAPH_RECORDS:,} fields",
            "keep weights as raw_data in initialisers, or use a smaller model",
        )


def _is_within(raw: bytes, most: int) -> bool:
    fields = at = 0
    nested: list[tuple[_Level, int]] = [(_MODEL, len(raw))]
    while nested:
        level, end = nested[-1]
        if at == end:
            nested.pop()
            continue
        fields += 1
        tag, at = _varint(raw, at)
        kind, inside = tag & 7, level.get(tag >> 3)
        if kind == _VARINT:
            _, at = _varint(raw, at)
        elif kind == _BYTES:
            size, at = _varint(raw, at)
            if at + size > end:
                raise ValueError("a field ends outside its message")
            if inside is None:
                at += size
            else:
                nested.append((inside, at + size))
                fields += _MESSAGE_WEIGHT
        else:
            at += _FIXED_BYTES[kind]
        if at > end:
            raise ValueError("a field ends outside its message")
        if fields > most:
            return False
    return True


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    """The number at `at` and where it ends."""
    value = shift = 0
    while True:
        byte = raw[at]
        at += 1
        if byte < 128:
            return value | byte << shift, at
        value |= (byte & 127) << shift
        shift += 7
        if shift > 63:
            raise ValueError("a number longer than 64 bits")


def _levels(kind: Descriptor, known: dict[str, _Level]) -> _Level:
    """A message type as a level; types refer to each other in circles."""
    if kind.full_name not in known:
        known[kind.full_name] = level = {}
        for field in kind.fields:
            if field.message_type is not None:
                level[field.number] = _levels(field.message_type, known)
    return known[kind.full_name]


_MODEL: Final = _levels(ModelProto.DESCRIPTOR, {})
