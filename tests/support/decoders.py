"""Everything that reads a stranger's bytes, each with valid samples and the errors that it declares.

A target is called with damaged samples: it returns, or raises one of its errors in one line; whatever
else it raises is a bug.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Final

import numpy as np

from server.adapters import settings_file as project_file
from server.errors import Refused
from server.http import api, bodies, ranges, uploads
from tesla_at_home.adapters import frames, metadata, spool
from tesla_at_home.adapters import settings_file as owner_file
from tesla_at_home.adapters.vehicle import script
from tesla_at_home.errors import TeslaAtHomeError
from tesla_at_home.ports import Cancellation
from tests.contract import wire_samples as samples
from tests.support import graphs
from tests.support.tuf_repository import NOW, TufRepository
from workunits import arrays
from workunits.errors import ContractError, SpoolDamaged
from workunits.graphs import vet
from workunits.trust import envelope, merkle, roles
from workunits.values import DIGEST_BYTES, LeaseId
from workunits.wire import codec, limits, tensors
from workunits.wire.messages import TensorSpec

Read = Callable[[bytes], object]


@dataclass(frozen=True, slots=True)
class Target:
    """`read` takes `samples`, and of other bytes says no with one of `errors`."""

    samples: tuple[bytes, ...]
    read: Read
    errors: tuple[type[Exception], ...] = (ContractError,)

    def refusal(self, raw: bytes) -> str | None:
        """The line that `raw` is refused with, or None where it is taken."""
        try:
            self.read(raw)
        except self.errors as error:
            return str(error)
        return None


# --- messages, tensors, proofs ------------------------------------------------------------------

_SEALED: Final = envelope.seal(samples.REQUEST, roles.WORK_REQUEST, samples.VEHICLE)
_SPECS: Final = (
    TensorSpec(name="x", dtype="float32", shape=(2,)),
    TensorSpec(name="ok", dtype="bool", shape=()),
)
_TENSORS: Final = arrays.to_payload(
    {"x": np.arange(6, dtype="float32").reshape(3, 2), "ok": np.array([True, False, True])}
)
_LEAVES: Final = [codec.pack(unit) for unit in samples.UNITS]
_LEVELS: Final = merkle.build(map(merkle.leaf_hash, _LEAVES))


def _message_target(name: str) -> Target:
    value = samples.MESSAGES[name]
    read = partial(codec.unpack, kind=type(value), most=limits.PAYLOAD_BYTES)
    return Target((codec.pack(value),), read)


def _work_request(raw: bytes) -> None:
    roles.accept_request(envelope.unpack_message(raw).envelope)


def _signed_request(payload: bytes) -> None:
    """As above, of a vehicle that signs whatever it says."""
    roles.accept_request(envelope.seal_bytes(payload, roles.WORK_REQUEST, samples.VEHICLE))


def _proof(raw: bytes) -> None:
    hashes = [raw[at : at + DIGEST_BYTES] for at in range(0, len(raw), DIGEST_BYTES)]
    merkle.verify(_LEAVES[0], 0, len(_LEAVES), hashes, merkle.root_of(_LEVELS))


# --- files and pipes ----------------------------------------------------------------------------


def _from_file(name: str, read: Callable[[Path], object]) -> Read:
    """`read` of a folder in which the bytes lie as `name`."""

    def read_bytes(raw: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / name).write_bytes(raw)
            read(Path(folder))

    return read_bytes


def _spool_sample() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "steps"
        origin = spool.Origin(lease=bytes(16), provider="cpu", onnxruntime="1", threads=1)
        kept = spool.Spool.begin(path, origin)
        for number in range(3):
            kept.append(number, bytes([number]) * 50)
        kept.close()
        return path.read_bytes()


def _framed(raw: bytes) -> None:
    """All frames that come through a pipe until it ends."""
    out, into = os.pipe()
    try:
        os.write(into, raw[:60_000])
        os.close(into)
        while frames.read_to_agent(out) is not None:
            pass
    finally:
        os.close(out)


def _frame_samples() -> tuple[bytes, ...]:
    lease = LeaseId(bytes(16))
    said: Iterable[frames.ToAgent] = (
        frames.Stepped(lease=lease, step=1, took_ms=5),
        frames.Failed(lease=lease, code="not_enough_memory", detail="no"),
    )
    packed = [frames.pack(frame) for frame in said]
    return (*packed, b"".join(packed))


def _text(read: Callable[[str], object]) -> Read:
    return lambda raw: read(raw.decode("utf-8", "replace"))


def _first_root(folder: Path) -> None:
    """A root as `join` meets it: pinned if it can be, then built on."""
    repository = _repository()
    raw = (folder / "root").read_bytes()
    files = dict(repository.files)
    try:
        repository.files["1.root.json"] = raw
        metadata.pin(folder / "metadata", metadata.first_root(repository, cancel=Cancellation()))
        client = metadata.TufMetadata(folder / "metadata", repository)
        client.refresh(NOW, cancel=Cancellation())
    finally:
        repository.files = files


@cache
def _repository() -> TufRepository:
    return TufRepository()


# --- addresses and headers ----------------------------------------------------------------------


def _range(raw: bytes) -> None:
    part = ranges.asked_for(raw.decode("latin-1"), 1000)
    assert part is None or 0 <= part.start < part.end <= 1000


def _offer(raw: bytes) -> None:
    fields = raw.decode("latin-1").split("\n")
    offset, size, digest = (*fields, "", "", "")[:3]
    uploads.offer_of(LeaseId(bytes(16)), offset, size, digest)


def _lease_address(raw: bytes) -> None:
    uploads.lease_of(raw.decode("latin-1"))


def _metadata_address(raw: bytes) -> None:
    folder = Path("/srv/metadata")
    assert folder in api.metadata_file(folder, raw.decode("latin-1")).parents


def _body_headers(raw: bytes) -> None:
    kind, encoding, length = (*raw.decode("latin-1").split("\n"), "", "", "")[:3]
    bodies.expect_message_type(kind, encoding)
    bodies.expect_length(length, limits.MESSAGE_BYTES)


_SCRIPT: Final = b"""
repeat_s = 60
[start]
parked = true
charge_percent = 80
[[change]]
after_steps = 3
parked = false
conflict = true
"""
_SETTINGS: Final = b'[limits]\nduty = 0.5\n[gate]\nhours = "22:00-06:30"\n'

TARGETS: Final[dict[str, Target]] = {
    **{name: _message_target(name) for name in samples.MESSAGES},
    "message": Target((envelope.pack_message(_SEALED, [b"one", b"two"]),), _work_request),
    "signed request": Target((codec.pack(samples.REQUEST),), _signed_request),
    "tensors": Target((_TENSORS,), lambda raw: tensors.decode(raw, most=limits.MIB)),
    "arrays": Target((_TENSORS,), lambda raw: arrays.from_payload(raw, _SPECS, 3, most=limits.MIB)),
    "proof": Target((b"".join(merkle.prove(_LEVELS, 0, len(_LEAVES))),), _proof),
    "spool": Target((_spool_sample(),), _from_file("s", lambda d: spool.scan(d / "s")),
                    (SpoolDamaged,)),
    "frames": Target(_frame_samples(), _framed, (frames.Garbled,)),
    "script": Target((_SCRIPT,), _text(lambda text: script.parse(text, "car.toml")),
                     (TeslaAtHomeError,)),
    "owner's settings": Target((_SETTINGS,), _from_file(owner_file.FILE_NAME, owner_file.read),
                               (TeslaAtHomeError,)),
    "project's settings": Target((b'name = "x"\nsign_up = "open"\n',),
                                 _from_file(project_file.FILE, project_file.read), (Refused,)),
    "first root": Target((_repository().files["1.root.json"],), _from_file("root", _first_root),
                         (TeslaAtHomeError,)),
    "range": Target((b"bytes=0-99", b"bytes=-5"), _range, (ranges.Unsatisfiable,)),
    "upload offer": Target((b"0\n100\n" + b"ab" * 32,), _offer, (Refused, ContractError)),
    "upload address": Target((b"ab" * 16,), _lease_address, (Refused,)),
    "metadata address": Target((b"targets/ab.project.json",), _metadata_address, (Refused,)),
    "body headers": Target((bodies.MESSAGE_TYPE.encode() + b"; a=b\nidentity\n100",),
                           _body_headers, (Refused, ContractError)),
    "model": Target(tuple(build() for build in graphs.ALLOWED.values()),
                    lambda raw: vet(raw, name="fuzzed")),
}  # fmt: skip
