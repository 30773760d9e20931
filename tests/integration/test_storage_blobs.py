"""Blobs in a folder: whole or not there, and no name leads out of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from server.errors import NotFound, Outage
from server.storage.blobs import FolderBlobs

NAME = "ab" * 32


@pytest.fixture
def blobs(tmp_path: Path) -> FolderBlobs:
    return FolderBlobs(tmp_path / "blobs")


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_what_is_put_can_be_read_in_every_way(blobs: FolderBlobs) -> None:
    raw = bytes(range(256)) * 4_096
    assert blobs.put_stream(f"outputs/{NAME}", (raw[:1000], raw[1000:])) == len(raw)
    name = f"outputs/{NAME}"
    assert blobs.read(name) == raw
    assert bytes(blobs.view(name)) == raw
    assert blobs.size(name) == len(raw)
    assert b"".join(blobs.chunks(name, 0, len(raw))) == raw
    assert b"".join(blobs.chunks(name, 300_000, 900_001)) == raw[300_000:900_001]
    assert b"".join(blobs.chunks(name, len(raw) - 1, len(raw) + 9)) == raw[-1:]
    assert blobs.read_ranges(name, [(0, 2), (500, 503)]) == [raw[:2], raw[500:503]]


def test_kinds_are_apart(blobs: FolderBlobs) -> None:
    blobs.put(NAME, b"public")
    blobs.put(f"outputs/{NAME}", b"secret")
    assert blobs.read(NAME) == b"public"
    assert blobs.read(f"outputs/{NAME}") == b"secret"


def test_putting_again_replaces_and_deleting_twice_is_fine(blobs: FolderBlobs) -> None:
    blobs.put(NAME, b"one")
    blobs.put(NAME, b"two")
    assert blobs.read(NAME) == b"two"
    blobs.delete(NAME)
    blobs.delete(NAME)
    assert blobs.size(NAME) is None


def test_an_empty_blob_is_a_blob(blobs: FolderBlobs) -> None:
    blobs.put(NAME, b"")
    assert blobs.size(NAME) == 0
    assert bytes(blobs.view(NAME)) == b""


def test_many_are_put_at_once(blobs: FolderBlobs) -> None:
    many = {f"{number:064x}": b"%d" % number for number in range(50)}
    blobs.put_many(many.items())
    assert {name: blobs.read(name) for name in many} == many


def test_a_blob_that_is_not_there_is_not_found(blobs: FolderBlobs) -> None:
    for read in (blobs.read, blobs.view, lambda name: list(blobs.chunks(name, 0, 1))):
        with pytest.raises(NotFound):
            read(NAME)
    with pytest.raises(NotFound):
        blobs.read_ranges(NAME, [(0, 1)])


@pytest.mark.parametrize(
    "name",
    [
        "", "..", "../ab", "ab/../cd", "/etc/passwd", "outputs/../ab", "outputs//ab", "AB" * 32,
        "ab.part", "a", "ab\n", "ab\x00", "outputs/ab/cd", "ütputs/ab", "ab" * 65,
    ],
)  # fmt: skip
def test_no_other_name_is_a_name(blobs: FolderBlobs, tmp_path: Path, name: str) -> None:
    with pytest.raises(NotFound):
        blobs.put(name, b"x")
    with pytest.raises(NotFound):
        blobs.read(name)
    assert files(tmp_path) == []


def test_a_stream_that_breaks_leaves_nothing(blobs: FolderBlobs, tmp_path: Path) -> None:
    def broken() -> Iterator[bytes]:
        yield b"half"
        raise EOFError

    with pytest.raises(EOFError):
        blobs.put_stream(NAME, broken())
    assert files(tmp_path) == []
    assert blobs.size(NAME) is None


def test_a_folder_that_cannot_be_written_is_an_outage(tmp_path: Path) -> None:
    (tmp_path / "blobs").write_bytes(b"a file in its place")
    with pytest.raises(Outage, match="blob"):
        FolderBlobs(tmp_path / "blobs").put(NAME, b"x")
