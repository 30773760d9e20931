"""A real project in a passing folder, with a batch and a fleet that nobody had to wait for.

Units, payloads and vehicles are written as publishing and joining write them, but without a model:
what is measured here is the server, and it never looks at one.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bench import fleet
from server.adapters import serving
from server.cli_project import Opened, found, opened
from server.domain.names import public_blob, tree_blob
from server.domain.records import BatchRow, ConsentRow, NewUnit, OwnerRow, VehicleRow
from server.settings import LEASE_S, ProjectSettings
from workunits.trust import digests, merkle, roles
from workunits.values import BatchId, Digest, Milliseconds, OwnerId
from workunits.wire import codec
from workunits.wire.messages import (
    InputPart,
    Manifest,
    OutputRule,
    Program,
    TensorSpec,
    Unit,
)
from workunits.wire.tensors import RawTensor, encode

_START_S: Final = 30
_BLOCK: Final = 1000


@contextmanager
def project(units: int, vehicles: int, owners: int | None = None) -> Iterator[Path]:
    """A project with a running batch of `units` at quorum 2, and `vehicles` of as many owners.

    With fewer `owners` these share the vehicles evenly.
    """
    with tempfile.TemporaryDirectory(prefix="bench") as name:
        folder = Path(name) / "project"
        found(folder, ProjectSettings(name="bench"))
        with opened(folder) as here:
            _add_fleet(here, vehicles, owners or vehicles)
            _add_batch(here, units)
        yield folder


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """`serve` as a process of its own; its address."""
    command = [sys.executable, "-m", "server.cli", "--dir", str(folder), "serve", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield _address(folder, process)
    finally:
        process.terminate()
        process.wait(_START_S)


def _address(folder: Path, process: subprocess.Popen[bytes]) -> str:
    until = time.monotonic() + _START_S
    while process.poll() is None and time.monotonic() < until:
        try:
            return str(json.loads((folder / serving.FOUND_AT).read_text())["url"])
        except FileNotFoundError:
            time.sleep(0.05)
    raise RuntimeError("serve did not start")


def _add_fleet(here: Opened, vehicles: int, owners: int) -> None:
    now = here.clock.now_ms()
    ids = [OwnerId(number.to_bytes(16, "big")) for number in range(owners)]
    with here.database.transaction() as storage:
        for number, owner in enumerate(ids):
            storage.owners.add(OwnerRow(owner, f"owner {number}", True, None, "active", now))
        for number in range(vehicles):
            storage.vehicles.add(*_vehicle(number, ids[number % owners], now))


def _vehicle(number: int, owner: OwnerId, now: Milliseconds) -> tuple[VehicleRow, ConsentRow]:
    public = fleet.Vehicle(number).public
    key = digests.of_key(public)
    row = VehicleRow(
        id=key,
        owner_id=owner,
        public_key=public,
        name="car",
        state="active",
        state_reason=None,
        client="bench",
        created_ms=now,
        seen_ms=now,
        session=fleet.session_of(number),
        seq=0,
        last_digest=digests.ZERO,
        last_reply=None,
        nonce=None,
    )
    return row, ConsentRow(key, digests.ZERO, "1", now, "compute", now, digests.ZERO)


def _add_batch(here: Opened, units: int) -> None:
    batch = BatchId(here.randomness.token(16))
    bodies = list(_payloads(here, batch, units))
    levels = merkle.build(merkle.leaf_hash(body) for body in bodies)
    here.blobs.put(tree_blob(batch), levels)
    now = here.clock.now_ms()
    manifest = _manifest(batch, units, merkle.root_of(levels), now)
    raw = codec.pack(here.publishing().sealer.seal(manifest, roles.MANIFEST))
    digest = digests.of_manifest(raw)
    here.blobs.put(public_blob(digest), raw)
    row = BatchRow(
        id=batch,
        model_name="bench",
        kind="tensor",
        options=b"{}",
        state="running",
        quorum=2,
        assurance="replicated",
        units=units,
        rows=units * fleet.ROWS,
        kflop_per_row=1000,
        lease_s=LEASE_S,
        created_ms=now,
        deadline_ms=manifest.not_after,
        manifest=digest,
        tree=tree_blob(batch),
    )
    new = (
        NewUnit(index, index * fleet.ROWS, fleet.ROWS, body) for index, body in enumerate(bodies)
    )
    with here.database.transaction() as storage:
        storage.batches.add(row, new)


def _payloads(here: Opened, batch: BatchId, units: int) -> Iterator[bytes]:
    """The units' bodies; every unit has an input of its own, as in real batches."""
    for start in range(0, units, _BLOCK):
        raws = [_input(index) for index in range(start, min(units, start + _BLOCK))]
        with here.database.transaction() as storage:
            storage.payloads.add({digests.of_tensors(raw): raw for raw in raws})
        for index, raw in enumerate(raws, start):
            part = InputPart(scope="row", digest=digests.of_tensors(raw), size=len(raw))
            yield codec.pack(
                Unit(
                    batch=batch,
                    index=index,
                    first_row=index * fleet.ROWS,
                    rows=fleet.ROWS,
                    inputs=(part,),
                )
            )


def _input(index: int) -> bytes:
    size = fleet.ROWS * fleet.COLUMNS * 4
    data = index.to_bytes(8, "little") * (size // 8)
    return encode({"x": RawTensor("float32", (fleet.ROWS, fleet.COLUMNS), data)})


def _manifest(batch: BatchId, units: int, root: Digest, now: Milliseconds) -> Manifest:
    shape = (fleet.COLUMNS,)
    return Manifest(
        batch=batch,
        model_name="bench",
        model_bytes=1,
        program=Program(
            model=digests.plain(b"no model"),
            inputs=(TensorSpec(name="x", dtype="float32", shape=shape),),
            outputs=(TensorSpec(name="y", dtype="float32", shape=shape),),
            rows_per_step=fleet.ROWS,
            optimisation="basic",
            precision="fp32",
            runtime_from="1.0",
            runtime_below="2.0",
            kflop_per_row=1000,
        ),
        agreement=(OutputRule(name="y", rule="tolerance", tau=1.6e-5, sigma=1.0),),
        root=root,
        units=units,
        rows=units * fleet.ROWS,
        not_before=now,
        not_after=Milliseconds(now + 14 * 86_400_000),
    )
