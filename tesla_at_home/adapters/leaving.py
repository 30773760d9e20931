"""Leaving a project: the consent ends here at once, the project confirms, the key goes last.

Order matters. Withdrawing needs nobody else, so it comes first; the key is deleted only when the
signed confirmation is on disk, because without it the project could not be told any more.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import msgspec

from tesla_at_home.adapters import enrolment, joining, keystore, orders, repair, store_copy
from tesla_at_home.adapters.files import sync_directory, write_whole
from tesla_at_home.adapters.keystore import FileKeys
from tesla_at_home.adapters.metadata import TufMetadata
from tesla_at_home.adapters.store import FILE_NAME as STORE
from tesla_at_home.adapters.store import Store
from tesla_at_home.adapters.transport import HttpTransport
from tesla_at_home.agent.events import Order
from tesla_at_home.errors import ClientError, Untrusted
from tesla_at_home.ports import Cancellation, Clock, Membership, Randomness
from workunits.errors import ContractError
from workunits.trust import envelope, roles
from workunits.values import Milliseconds, Nonce
from workunits.wire import codec, limits
from workunits.wire.messages import Consent, Departed, Departure, Envelope

LEAVE: Final = "/v1/leave"
REQUEST: Final = "departure"
CONFIRMATION: Final = "left"
# The child is killed within a second; the rest is for a disk that writes slowly.
_STOP_S: Final = 30.0
_LOOK_S: Final = 0.05
_WORK: Final = ("spool", "models", "inputs", "manifests")


class Confirmation(msgspec.Struct, frozen=True, kw_only=True):
    """`DIR/left`: the project's signed word that the vehicle has left, and what was agreed to."""

    url: str
    vehicle_name: str
    owner_name: str
    erased: bool
    at_ms: int
    answer: Envelope
    consents: tuple[Consent, ...]


@dataclass(frozen=True, slots=True)
class Leaver:
    """One vehicle that leaves; its directory's lock is held by who calls."""

    directory: Path
    clock: Clock
    randomness: Randomness

    def member(self) -> Membership:
        """Who leaves which project. Raises `NotJoined`."""
        return joining.expect_membership(self.directory)

    def withdraw(self) -> None:
        """End the consent, here and now, whether or not the project can be reached."""
        with Store.open(self.directory) as store:
            record = store.consent()
            if record is not None and record.withdrawn_ms is None:
                store.add_consent(replace(record, withdrawn_ms=self.clock.now_ms()))

    def tell(self, member: Membership, *, erase: bool) -> Confirmation:
        """Tell the project, with the same request until it has answered; then forget everything.

        Raises:
            Unreachable, Told: not told yet; calling it again goes on.
        """
        sealed = self._request(erase)
        asked = roles.accept_departure(sealed)
        transport = enrolment.connect(member.url)
        raw = transport.post(LEAVE, envelope.pack_message(sealed), cancel=Cancellation())
        answer, departed = self._check(raw, sealed, transport)
        confirmation = Confirmation(
            url=member.url,
            vehicle_name=member.vehicle_name,
            owner_name=member.owner_name,
            erased=departed.erased,
            at_ms=departed.server_time,
            answer=answer,
            consents=self._consents(),
        )
        if asked.erase and not departed.erased:
            raise Untrusted("the project confirmed the leaving, but not the erasing")
        write_whole(self.directory / CONFIRMATION, codec.pack(confirmation))
        self._forget()
        return confirmation

    def _request(self, erase: bool) -> Envelope:
        path = self.directory / REQUEST
        if path.exists():
            kept = codec.unpack(path.read_bytes(), Envelope, most=limits.PAYLOAD_BYTES)
            if roles.accept_departure(kept).erase == erase:
                return kept
        keys = FileKeys.open(self.directory)
        nonce = Nonce(self.randomness.token(16))
        sealed = keys.seal(Departure(key=keys.public, erase=erase, nonce=nonce), roles.DEPARTURE)
        write_whole(path, codec.pack(sealed))
        return sealed

    def _check(
        self, raw: bytes, sealed: Envelope, transport: HttpTransport
    ) -> tuple[Envelope, Departed]:
        client = TufMetadata(self.directory / joining.METADATA, transport)
        now: Milliseconds = self.clock.now_ms()
        try:
            answer = envelope.unpack_message(raw).envelope
            digest = enrolment.request_digest(sealed)
            return answer, roles.accept_departed(answer, client.held(now).project, digest, now)
        except ContractError as error:
            raise Untrusted(f"the project's answer does not check out: {error}") from None

    def _consents(self) -> tuple[Consent, ...]:
        with Store.open(self.directory) as store:
            return tuple(record.consent for record in store.consents())

    def _forget(self) -> None:
        """The key first: from here on nobody can speak for this vehicle."""
        keystore.delete(self.directory)
        store_copy.remove(self.directory)
        for name in (enrolment.FILE_NAME, REQUEST, f"{STORE}-wal", f"{STORE}-shm", STORE):
            (self.directory / name).unlink(missing_ok=True)
        for aside in repair.set_aside(self.directory):
            repair.discard(aside)
        for name in (*_WORK, joining.METADATA):
            shutil.rmtree(self.directory / name, ignore_errors=True)
        sync_directory(self.directory)


@contextlib.contextmanager
def stopped_agent(directory: Path) -> Iterator[None]:
    """Have a running agent stop and end, and hold the directory in its stead.

    Raises:
        ClientError: it did not end in time.
    """
    if orders.give(directory, Order(kind="leave")):
        waiting = threading.Event()
        for _ in range(int(_STOP_S / _LOOK_S)):
            if not orders.is_running(directory):
                break
            waiting.wait(_LOOK_S)
        else:
            raise ClientError(
                "your consent has ended, but `tesla-at-home run` does not stop; end it, then "
                "run `tesla-at-home leave` again"
            )
    with orders.locked(directory):
        yield


def read_confirmation(directory: Path) -> Confirmation | None:
    """The confirmation of a vehicle that has left."""
    try:
        raw = (directory / CONFIRMATION).read_bytes()
        return codec.unpack(raw, Confirmation, most=limits.PAYLOAD_BYTES)
    except FileNotFoundError:
        return None
    except ContractError as error:
        raise ClientError(f"{directory / CONFIRMATION}: damaged: {error}") from None
