"""What is believed of an answer and of a lease: bytes in, trusted values out, or an error.

Decides by the rules of `workunits.trust.roles`; the project's keys and the sizes of its models come
from TUF, through the driver. Reads no file and no clock.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from tesla_at_home.agent.books import Facts
from tesla_at_home.agent.events import Need
from tesla_at_home.agent.words import one_line
from workunits.errors import ContractError, LimitExceeded
from workunits.program import check_size, step_count
from workunits.trust import digests, envelope, roles
from workunits.trust.roles import Answer
from workunits.values import Digest, LeaseId, Milliseconds
from workunits.wire import codec, limits
from workunits.wire.messages import Envelope, Lease, Manifest, Project, Reply, Unit


@dataclass(frozen=True, slots=True)
class Accepted:
    """A signed answer, and of its attachments those that its leases speak of."""

    answer: Answer
    files: tuple[tuple[Need, bytes], ...]


def read_answer(
    raw: bytes,
    project: Project,
    request: Digest,
    now: Milliseconds,
    holding: Collection[LeaseId] = (),
) -> Accepted:
    """The project's answer to the request with digest `request`, made with the leases `holding`.

    Of a lease that is not new, or that is one too many, nothing is kept: no unit would ever let go
    of it. What is then missing after all comes as a blob.

    Raises:
        ContractError: not one, or not signed by who may sign it, or an answer to something else.
    """
    message = envelope.unpack_message(raw)
    answer = roles.accept_answer(message.envelope, project, request, now)
    if not isinstance(answer, Reply):
        return Accepted(answer, ())
    manifests = envelope.by_digest(message, digests.of_manifest)
    inputs = envelope.by_digest(message, digests.of_tensors)
    wanted = [need for offer in _new(answer.leases, holding) for need in _carried_for(offer)]
    found = {"manifest": manifests, "input": inputs}
    return Accepted(
        answer,
        tuple(
            (need, found[need.kind][need.digest])
            for need in dict.fromkeys(wanted)
            if need.digest in found[need.kind]
        ),
    )


def _new(offers: Iterable[Lease], holding: Collection[LeaseId]) -> list[Lease]:
    by_lease: dict[LeaseId, Lease] = {}
    for offer in offers:
        if offer.lease not in holding:
            by_lease.setdefault(offer.lease, offer)
    return list(by_lease.values())[: limits.HOLDING - len(holding)]


def manifest_of(offer: Lease) -> Need:
    """The manifest that a lease names."""
    return Need("manifest", offer.manifest, limits.PAYLOAD_BYTES)


def prove(
    offer: Lease,
    manifest_raw: bytes,
    project: Project,
    now: Milliseconds,
    model_size: Callable[[Digest], int],
) -> tuple[Facts, tuple[Need, ...]]:
    """What the unit of a lease is, and the files that it takes.

    `model_size` gives the bytes of the model that TUF names, or raises `Untrusted`.

    Raises:
        ContractError: the manifest, the unit or the model is not what may be run.
    """
    manifest = roles.accept_manifest(manifest_raw, offer.manifest, project, now)
    unit = roles.accept_unit(offer, manifest)
    program = manifest.program
    if model_size(program.model) != manifest.model_bytes:
        raise LimitExceeded("the model's size in the manifest is not that of its TUF target")
    facts = _facts(unit, manifest, check_size(program, unit.rows))
    return facts, files_of(facts)


def open_manifest(raw: bytes) -> Manifest:
    """The manifest of a unit that was proved before."""
    sealed = codec.unpack(raw, Envelope, most=limits.PAYLOAD_BYTES)
    return codec.unpack(sealed.payload, Manifest, most=limits.PAYLOAD_BYTES)


def _facts(unit: Unit, manifest: Manifest, output_bytes: int) -> Facts:
    program = manifest.program
    return Facts(
        batch=unit.batch,
        index=unit.index,
        rows=unit.rows,
        steps=step_count(unit.rows, program.rows_per_step),
        kflop=unit.rows * program.kflop_per_row,
        model=program.model,
        model_bytes=manifest.model_bytes,
        model_name=one_line(manifest.model_name),
        inputs=unit.inputs,
        output_bytes=output_bytes,
    )


def files_of(facts: Facts) -> tuple[Need, ...]:
    """The files that a proved unit takes: its model, then its inputs in their order."""
    model = Need("model", facts.model, facts.model_bytes)
    return (model, *(Need("input", part.digest, part.size) for part in facts.inputs))


def inputs_of(offer: Lease) -> tuple[Digest, ...]:
    """The inputs that a lease names; nothing of it is believed yet."""
    return tuple(need.digest for need in _carried_for(offer) if need.kind == "input")


def _carried_for(offer: Lease) -> tuple[Need, ...]:
    """What may ride along with a lease; nothing of it is believed yet."""
    try:
        unit = codec.unpack(offer.unit, Unit, most=4096)
    except ContractError:
        return (manifest_of(offer),)
    inputs = (Need("input", part.digest, part.size) for part in unit.inputs)
    return (manifest_of(offer), *inputs)
