"""A published batch in memory: signed manifest, units with proofs, inputs as blobs."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.support.models import Sample
from workunits import arrays
from workunits.program import step_count
from workunits.trust import digests, envelope, merkle, roles
from workunits.values import BatchId, Digest, LeaseId, Milliseconds
from workunits.wire import codec, limits
from workunits.wire.messages import InputPart, Lease, Manifest, OutputRule, Scope, Unit

FOR_EVER = Milliseconds(2**52)


@dataclass(frozen=True)
class MemoryBatch:
    """What the vehicle is given, and the inputs that its answers are to be computed from."""

    manifest: Manifest
    packed: bytes
    digest: Digest
    units: list[bytes]
    levels: bytes
    inputs: list[arrays.Arrays]
    shared: arrays.Arrays
    blobs: dict[str, bytes]

    def inputs_of(self, index: int) -> arrays.Arrays:
        """All inputs of one unit."""
        return self.inputs[index] | self.shared

    def lease(self, index: int, name: LeaseId, duration_s: int) -> Lease:
        """A lease on one unit; its ticket is its own id."""
        return Lease(
            lease=name,
            manifest=self.digest,
            unit=self.units[index],
            proof=merkle.prove(self.levels, index, len(self.units)),
            duration_s=duration_s,
            ticket=name,
        )

    def carried(self, index: int, *, with_manifest: bool) -> list[bytes]:
        """What rides along with a lease on one unit."""
        unit = codec.unpack(self.units[index], Unit, most=4096)
        inputs = [self.blobs[part.digest.hex()] for part in unit.inputs]
        small = [raw for raw in inputs if len(raw) <= limits.ATTACHMENT_BYTES]
        return [self.packed, *small] if with_manifest else small


def make_batch(
    sample: Sample, key: Ed25519PrivateKey, *, rows: int, rows_per_unit: int, rows_per_step: int
) -> MemoryBatch:
    """A batch of random rows over `sample`, signed with `key`."""
    program = sample.program(rows_per_step)
    drawn = sample.draw(rows)
    scopes = {spec.name: spec.scope for spec in sample.inputs}
    shared = {name: array for name, array in drawn.items() if scopes[name] == "unit"}
    blobs = {program.model.hex(): sample.raw}
    batch = BatchId(secrets.token_bytes(16))
    shared_parts = (_part("unit", shared, blobs),) if shared else ()
    units, inputs = [], []
    for index in range(step_count(rows, rows_per_unit)):
        first = index * rows_per_unit
        count = min(rows_per_unit, rows - first)
        part = {n: a[first : first + count] for n, a in drawn.items() if scopes[n] == "row"}
        parts = (_part("row", part, blobs), *shared_parts)
        unit = Unit(batch=batch, index=index, first_row=first, rows=count, inputs=parts)
        units.append(codec.pack(unit))
        inputs.append(part)
    levels = merkle.build(merkle.leaf_hash(unit) for unit in units)
    manifest = Manifest(
        batch=batch,
        model_name="sample",
        model_bytes=len(sample.raw),
        program=program,
        agreement=tuple(OutputRule(name=spec.name, rule="bitwise") for spec in sample.outputs),
        root=merkle.root_of(levels),
        units=len(units),
        rows=rows,
        not_before=Milliseconds(0),
        not_after=FOR_EVER,
    )
    packed = codec.pack(envelope.seal(manifest, roles.MANIFEST, key))
    digest = digests.of_manifest(packed)
    blobs[digest.hex()] = packed
    return MemoryBatch(manifest, packed, digest, units, levels, inputs, shared, blobs)


def _part(scope: Scope, tensors: arrays.Arrays, blobs: dict[str, bytes]) -> InputPart:
    raw = arrays.to_payload(tensors)
    digest = digests.of_tensors(raw)
    blobs[digest.hex()] = raw
    return InputPart(scope=scope, digest=digest, size=len(raw))
