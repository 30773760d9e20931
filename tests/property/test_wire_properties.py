"""Whatever bytes come, the codec, the tree and the envelope refuse cleanly or give what was meant."""

from __future__ import annotations

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.contract import wire_samples as samples
from workunits.errors import BadProof, BadSignature, ContractError, LimitExceeded, MalformedMessage
from workunits.trust import merkle, roles
from workunits.trust.envelope import open_with, pack_message, seal, unpack_message
from workunits.wire import codec, limits
from workunits.wire.messages import Envelope, OutputRule, Signature, WorkRequest

names = st.sampled_from(sorted(samples.MESSAGES))


@given(names, st.data())
def test_a_changed_byte_never_crashes_and_never_passes_for_the_original(
    name: str, data: st.DataObject
) -> None:
    value = samples.MESSAGES[name]
    raw = bytearray(codec.pack(value))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    try:
        found = codec.unpack(bytes(raw), type(value), most=len(raw))
    except MalformedMessage:
        return
    assert found != value or codec.pack(found) == codec.pack(value)


@given(names, st.data())
def test_a_cut_message_is_malformed(name: str, data: st.DataObject) -> None:
    value = samples.MESSAGES[name]
    raw = codec.pack(value)
    cut = raw[: data.draw(st.integers(0, len(raw) - 1))]
    with pytest.raises(MalformedMessage):
        codec.unpack(cut, type(value), most=len(raw))


@given(names, st.text(min_size=1, max_size=8), st.integers())
def test_an_unknown_field_is_refused_by_name(name: str, field: str, number: int) -> None:
    value = samples.MESSAGES[name]
    fields = msgspec.to_builtins(value, builtin_types=(bytes,))
    if field in fields:
        return
    fields[field] = number % 1000
    with pytest.raises(MalformedMessage):
        codec.unpack(msgspec.msgpack.encode(fields), type(value), most=10**6)


@given(st.binary(max_size=300))
def test_noise_is_a_contract_error(raw: bytes) -> None:
    for kind in (Envelope, WorkRequest, OutputRule):
        try:
            codec.unpack(raw, kind, most=300)
        except ContractError:
            continue
    with contextlib.suppress(ContractError):
        unpack_message(raw)


def test_deep_nesting_is_malformed() -> None:
    with pytest.raises(MalformedMessage):
        codec.unpack(b"\x91" * 5_000, WorkRequest, most=10_000)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf"), -1.0, 1e301])
def test_a_number_that_is_not_finite_or_out_of_range_is_refused(number: float) -> None:
    raw = msgspec.msgpack.encode({"name": "x", "rule": "tolerance", "tau": number})
    with pytest.raises(MalformedMessage, match=r"\$\.tau"):
        codec.unpack(raw, OutputRule, most=200)


@given(st.integers(1, 300), st.data())
def test_every_leaf_proves_at_its_place_and_nowhere_else(size: int, data: st.DataObject) -> None:
    leaves = [b"leaf %d" % i for i in range(size)]
    levels = merkle.build(map(merkle.leaf_hash, leaves))
    root = merkle.root_of(levels)
    index = data.draw(st.integers(0, size - 1))
    proof = merkle.prove(levels, index, size)
    merkle.verify(leaves[index], index, size, proof, root)
    elsewhere = data.draw(st.integers(0, size + 2))
    if elsewhere != index:
        with pytest.raises(BadProof):
            merkle.verify(leaves[index], elsewhere, size, proof, root)
    for wrong in (proof[:-1], (*proof, root)):
        if wrong != proof:
            with pytest.raises(BadProof):
                merkle.verify(leaves[index], index, size, wrong, root)
    with pytest.raises(BadProof):
        merkle.verify(b"another leaf", index, size, proof, root)


@given(st.binary(max_size=64), st.data())
def test_a_signature_covers_type_and_every_byte(payload: bytes, data: st.DataObject) -> None:
    sealed = seal(samples.REQUEST, roles.WORK_REQUEST, samples.VEHICLE)
    keys = (samples.REQUEST.key,)
    assert open_with(sealed, roles.WORK_REQUEST, WorkRequest, keys) == samples.REQUEST
    other_type = Envelope(
        payload_type=roles.REPLY, payload=sealed.payload, signatures=sealed.signatures
    )
    with pytest.raises(BadSignature):
        open_with(other_type, roles.REPLY, WorkRequest, keys)
    if payload != sealed.payload:
        changed = Envelope(
            payload_type=sealed.payload_type, payload=payload, signatures=sealed.signatures
        )
        with pytest.raises(BadSignature):
            open_with(changed, roles.WORK_REQUEST, WorkRequest, keys)
    sig = bytearray(sealed.signatures[0].sig)
    sig[data.draw(st.integers(0, 63))] ^= data.draw(st.integers(1, 255))
    forged = Envelope(
        payload_type=sealed.payload_type,
        payload=sealed.payload,
        signatures=(Signature(keyid=sealed.signatures[0].keyid, sig=bytes(sig)),),
    )
    with pytest.raises(BadSignature):
        open_with(forged, roles.WORK_REQUEST, WorkRequest, keys)


@given(st.lists(st.binary(max_size=200), max_size=5))
def test_messages_survive_the_journey(attachments: list[bytes]) -> None:
    sealed = seal(samples.REQUEST, roles.WORK_REQUEST, samples.VEHICLE)
    message = unpack_message(pack_message(sealed, attachments))
    assert message.envelope == sealed
    assert list(message.attachments) == attachments


def test_too_much_to_carry_is_refused_before_it_leaves_and_when_it_comes() -> None:
    sealed = seal(samples.REQUEST, roles.WORK_REQUEST, samples.VEHICLE)
    with pytest.raises(LimitExceeded):
        pack_message(sealed, [b"x" * (limits.ATTACHMENT_BYTES + 1)])
    with pytest.raises(LimitExceeded):
        pack_message(sealed, [b"x" * limits.ATTACHMENT_BYTES] * (limits.ATTACHMENTS))
    with pytest.raises(LimitExceeded):
        pack_message(sealed, [b""] * (limits.ATTACHMENTS + 1))
    with pytest.raises(LimitExceeded):
        unpack_message(b"x" * (limits.MESSAGE_BYTES + 1))
