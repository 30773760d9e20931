"""What agent and child say to each other over two pipes: a length and a MessagePack value each.

Small values only; tensors go through files (DECISIONS C.1). Both ends import this, so it knows neither
numpy nor onnxruntime.
"""

from __future__ import annotations

import os
import struct
from typing import Annotated, Final, TypeVar

import msgspec

from tesla_at_home.ports import Bounds, Job, Measure
from workunits.values import Digest, LeaseId
from workunits.wire import limits
from workunits.wire.messages import Code, Count, Version

_LENGTH: Final = struct.Struct("<I")
# A program with 64 inputs and outputs of long names is below a tenth of this.
_FRAME_BYTES: Final = limits.MIB


class Garbled(Exception):
    """What came over the pipe is no frame."""


class Begin(msgspec.Struct, frozen=True, tag=True):
    """The first that a child hears: give up everything else, then load what computes."""

    bounds: Bounds


class Run(msgspec.Struct, frozen=True, tag=True):
    job: Job


class Beat(msgspec.Struct, frozen=True, tag=True):
    """The agent lives."""


class End(msgspec.Struct, frozen=True, tag=True):
    """No more units."""


class Begun(msgspec.Struct, frozen=True, tag=True):
    """The first that a child says: it is confined, and what computes is loaded."""

    onnxruntime: Version
    measures: tuple[Measure, ...]


# A child computes what strangers wrote: its words fit into a report, or are none.
class Ready(msgspec.Struct, frozen=True, tag=True):
    lease: LeaseId
    provider: Annotated[str, msgspec.Meta(max_length=limits.NAME_CHARS)]
    onnxruntime: Version
    first_step: Count


class Stepped(msgspec.Struct, frozen=True, tag=True):
    lease: LeaseId
    step: Count
    took_ms: Count


class Done(msgspec.Struct, frozen=True, tag=True):
    lease: LeaseId
    output: Digest
    size: Count


class Failed(msgspec.Struct, frozen=True, tag=True):
    lease: LeaseId
    code: Code
    detail: str


AboutUnit = Ready | Stepped | Done | Failed
ToChild = Begin | Run | Beat | End
ToAgent = Begun | AboutUnit

Frame = TypeVar("Frame")
_to_child: Final = msgspec.msgpack.Decoder(ToChild)
_to_agent: Final = msgspec.msgpack.Decoder(ToAgent)


def pack(frame: ToChild | ToAgent) -> bytes:
    """The frame as it goes into the pipe."""
    body = msgspec.msgpack.encode(frame)
    return _LENGTH.pack(len(body)) + body


def read_to_child(pipe: int) -> ToChild | None:
    """The next frame for the child; None when the agent is gone. Raises `Garbled`."""
    body = _read_frame(pipe)
    return None if body is None else _decode(_to_child, body)


def read_to_agent(pipe: int) -> ToAgent | None:
    """The next frame for the agent; None when the child is gone. Raises `Garbled`."""
    body = _read_frame(pipe)
    return None if body is None else _decode(_to_agent, body)


def _decode(decoder: msgspec.msgpack.Decoder[Frame], body: bytes) -> Frame:
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Garbled("says what is no frame") from None


def _read_frame(pipe: int) -> bytes | None:
    head = _read_exactly(pipe, _LENGTH.size)
    if head is None:
        return None
    (size,) = _LENGTH.unpack(head)
    if size > _FRAME_BYTES:
        raise Garbled(f"says a frame of {size} bytes")
    return _read_exactly(pipe, size)


def _read_exactly(pipe: int, size: int) -> bytes | None:
    parts = []
    while size:
        part = os.read(pipe, size)
        if not part:
            return None
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
