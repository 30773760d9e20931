"""What agent and child say to each other over two pipes: a length and a MessagePack value each.

Small values only; tensors go through files (DECISIONS C.1). Both ends import this, so it knows neither
numpy nor onnxruntime.
"""

from __future__ import annotations

import os
import struct
from typing import Final

import msgspec

from tesla_at_home.ports import Job
from workunits.values import Digest, LeaseId
from workunits.wire import limits

_LENGTH: Final = struct.Struct("<I")
# A program with 64 inputs and outputs of long names is below a tenth of this.
_FRAME_BYTES: Final = limits.MIB


class Run(msgspec.Struct, frozen=True, tag=True):
    job: Job


class Beat(msgspec.Struct, frozen=True, tag=True):
    """The agent lives."""


class End(msgspec.Struct, frozen=True, tag=True):
    """No more units."""


class Ready(msgspec.Struct, frozen=True, tag=True):
    lease: LeaseId
    provider: str
    onnxruntime: str
    first_step: int


class Stepped(msgspec.Struct, frozen=True, tag=True):
    lease: LeaseId
    step: int
    took_ms: int


class Done(msgspec.Struct, frozen=True, tag=True):
    lease: LeaseId
    output: Digest
    size: int


class Failed(msgspec.Struct, frozen=True, tag=True):
    lease: LeaseId
    code: str
    detail: str


ToChild = Run | Beat | End
ToAgent = Ready | Stepped | Done | Failed

_to_child: Final = msgspec.msgpack.Decoder(ToChild)
_to_agent: Final = msgspec.msgpack.Decoder(ToAgent)


def pack(frame: ToChild | ToAgent) -> bytes:
    """The frame as it goes into the pipe."""
    body = msgspec.msgpack.encode(frame)
    return _LENGTH.pack(len(body)) + body


def read_to_child(pipe: int) -> ToChild | None:
    """The next frame for the child; None when the agent is gone."""
    body = _read_frame(pipe)
    return None if body is None else _to_child.decode(body)


def read_to_agent(pipe: int) -> ToAgent | None:
    """The next frame for the agent; None when the child is gone, or speaks what is none."""
    body = _read_frame(pipe)
    try:
        return None if body is None else _to_agent.decode(body)
    except msgspec.DecodeError:
        return None


def _read_frame(pipe: int) -> bytes | None:
    head = _read_exactly(pipe, _LENGTH.size)
    if head is None:
        return None
    (size,) = _LENGTH.unpack(head)
    return None if size > _FRAME_BYTES else _read_exactly(pipe, size)


def _read_exactly(pipe: int, size: int) -> bytes | None:
    parts = []
    while size:
        part = os.read(pipe, size)
        if not part:
            return None
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
