"""Enrolling the same key anew, for a project that was restored from before this vehicle."""

from __future__ import annotations

from pathlib import Path

import pytest

from tesla_at_home.adapters import enrolment, files, metadata
from tesla_at_home.adapters.enrolment import Enrolling, Saved
from tesla_at_home.adapters.keystore import FileKeys
from tesla_at_home.adapters.metadata import TufMetadata
from tesla_at_home.errors import ClientError, Told, Untrusted
from tesla_at_home.ports import Cancellation
from tests.support.fake_project import FakeProject, fake_project
from tests.support.tuf_repository import NOW
from workunits.trust import digests
from workunits.values import Milliseconds, SessionId
from workunits.wire import codec
from workunits.wire.messages import Consent, ExistingOwner, NewOwner

CODE = "0123-4567-89ab-cdef-0123-4567-89ab-cdef"
SESSION = SessionId(b"s" * 16)


def _enrolling(project: FakeProject, directory: Path) -> Enrolling:
    transport = enrolment.connect(project.url)
    root = metadata.first_root(transport, cancel=Cancellation())
    metadata.pin(directory / "metadata", root)
    client = TufMetadata(directory / "metadata", transport)
    client.refresh(NOW, cancel=Cancellation())
    return Enrolling(directory, transport, FileKeys.open_or_create(directory), client)


def _save(directory: Path, project: FakeProject) -> None:
    consent = Consent(terms=digests.ZERO, version="1", at=Milliseconds(1), scopes=("compute",))
    kept = Saved(
        url=project.url, owner=NewOwner(code=CODE, name="otter"), vehicle_name="car",
        consent=consent, invite=None, pending=None,
    )  # fmt: skip
    files.write_whole(directory / enrolment.FILE_NAME, codec.pack(kept))


def test_a_known_owner_gets_the_vehicle_back(tmp_path: Path) -> None:
    with fake_project(NOW) as project:
        enrolling = _enrolling(project, tmp_path)
        _save(tmp_path, project)
        enrolled = enrolling.again(SESSION, NOW, cancel=Cancellation())
    (asked,) = project.enrolments
    assert enrolled.vehicle == digests.of_key(asked.key)
    assert (asked.session, asked.owner) == (SESSION, ExistingOwner(code=CODE))


def test_an_unknown_owner_is_made_anew_with_the_same_code(tmp_path: Path) -> None:
    with fake_project(NOW) as project:
        project.known_codes = set()
        enrolling = _enrolling(project, tmp_path)
        _save(tmp_path, project)
        enrolling.again(SESSION, NOW, cancel=Cancellation())
    assert [e.owner for e in project.enrolments] == [NewOwner(code=CODE, name="otter")]


def test_other_refusals_are_told(tmp_path: Path) -> None:
    with fake_project(NOW) as project:
        enrolling = _enrolling(project, tmp_path)
        _save(tmp_path, project)
        project.refuse = (429, "too_many", "later")
        with pytest.raises(Told, match="later"):
            enrolling.again(SESSION, NOW, cancel=Cancellation())


def test_without_a_record_nothing_is_asked(tmp_path: Path) -> None:
    with fake_project(NOW) as project:
        enrolling = _enrolling(project, tmp_path)
        with pytest.raises(Untrusted, match="not on record"):
            enrolling.again(SESSION, NOW, cancel=Cancellation())
        (tmp_path / enrolment.FILE_NAME).write_bytes(b"damaged")
        with pytest.raises(ClientError, match="damaged"):
            enrolling.again(SESSION, NOW, cancel=Cancellation())
    assert project.enrolments == []
