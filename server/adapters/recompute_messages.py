"""What the server and its recomputing process say to each other, by files in a folder of one order.

The server writes `ORDER` and the tensor payloads, the process writes `REPLY`, whole or not at all.
Nothing here loads numpy or ONNX Runtime.
"""

from __future__ import annotations

from typing import Final, TypeAlias

from msgspec import Struct

from workunits.wire import limits
from workunits.wire.messages import ModelFacts, OutputRules, Program

ORDER: Final = "order"
INPUTS: Final = "inputs"  # tensor payload of scope row
SHARED: Final = "shared"  # tensor payload of scope unit, where the program has one
REPLY: Final = "reply"
REPLY_BYTES: Final = limits.TENSOR_PAYLOAD_BYTES + limits.MESSAGE_BYTES


class _Message(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="is"):
    pass


class Vet(_Message, frozen=True, tag="vet"):
    model: str
    name: str


class Calibrate(_Message, frozen=True, tag="calibrate"):
    model: str
    program: Program
    rows: int
    is_portable_exact: bool
    numbers: tuple[int, ...]  # of the rows, where they came from
    leaves_out: bool


class Run(_Message, frozen=True, tag="run"):
    model: str
    program: Program
    rows: int


class TellVersion(_Message, frozen=True, tag="tell_version"):
    pass


Task: TypeAlias = Vet | Calibrate | Run | TellVersion


class Order(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What to do, and what the process may take at most while it does it."""

    task: Task
    memory_bytes: int
    cpu_s: int


class Vetted(_Message, frozen=True, tag="vetted"):
    facts: ModelFacts


class Calibrated(_Message, frozen=True, tag="calibrated"):
    rules: OutputRules


class Ran(_Message, frozen=True, tag="ran"):
    outputs: bytes  # a tensor payload


class Version(_Message, frozen=True, tag="version"):
    version: str


class Failed(_Message, frozen=True, tag="failed"):
    """Raised on purpose by the contract; `code` names the class."""

    code: str
    text: str


class OutOfMemory(_Message, frozen=True, tag="out_of_memory"):
    pass


class Broken(_Message, frozen=True, tag="broken"):
    """A bug: the exception in one line. Its traceback is in the process's log."""

    text: str


Answer: TypeAlias = Vetted | Calibrated | Ran | Version | Failed | OutOfMemory | Broken


class Reply(Struct, frozen=True, forbid_unknown_fields=True):
    answer: Answer
