"""The spool: a torn tail is cut, a damaged middle is said, and nothing else is believed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tesla_at_home.adapters import spool
from tesla_at_home.adapters.spool import Origin, Spool, scan
from workunits.errors import SpoolDamaged

ORIGIN = Origin(lease=b"l" * 16, provider="CPU", onnxruntime="1", threads=1)
STEPS = [b"first", b"second step", b"", b"x" * 3000]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "unit.steps"
    file = Spool.begin(path, ORIGIN)
    for number, payload in enumerate(STEPS):
        file.append(number, payload)
    file.sync()
    file.close()
    spool.make_durable(path)
    return path


def test_what_was_appended_is_read_back(path: Path) -> None:
    found = scan(path)
    assert found.origin == ORIGIN
    assert list(spool.payloads(path, found)) == STEPS
    assert found.end == path.stat().st_size


def test_every_torn_tail_leaves_the_steps_before_it(path: Path) -> None:
    whole = path.read_bytes()
    found = scan(path)
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        part = scan(path)
        assert part.steps == found.steps[: len(part.steps)]
        assert part.end <= length
        complete = sum(offset + size <= length for offset, size in found.steps)
        assert len(part.steps) == complete


def test_a_tail_of_zeros_is_torn(path: Path) -> None:
    found = scan(path)
    path.write_bytes(path.read_bytes() + bytes(5000))
    assert scan(path) == found


def test_a_last_payload_that_never_reached_the_disk_is_torn(path: Path) -> None:
    found = scan(path)
    raw = bytearray(path.read_bytes())
    raw[-100:] = bytes(100)
    path.write_bytes(raw)
    assert scan(path).steps == found.steps[:-1]


def test_any_flipped_bit_before_the_last_frame_is_noticed(path: Path) -> None:
    raw = path.read_bytes()
    last = scan(path).end_of(len(STEPS) - 1)
    for at in range(last):
        damaged = bytearray(raw)
        damaged[at] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(SpoolDamaged):
            scan(path)


def test_steps_out_of_order_are_noticed(path: Path) -> None:
    file = Spool.go_on(path, scan(path).end)
    file.append(7, b"")
    file.append(8, b"")
    file.close()
    with pytest.raises(SpoolDamaged, match="step 7 where step 4 belongs"):
        scan(path)


def test_a_file_that_begins_with_a_step_is_noticed(path: Path) -> None:
    raw = path.read_bytes()
    first = scan(path).end_of(0)
    path.write_bytes(raw[: raw.index(b"\n") + 1] + raw[first:])
    with pytest.raises(SpoolDamaged, match="begins with step 0"):
        scan(path)


def test_an_origin_that_cannot_be_read_is_noticed(path: Path) -> None:
    magic = path.read_bytes()[: path.read_bytes().index(b"\n") + 1]
    path.write_bytes(magic + spool._frame(0xFFFFFFFF, b"\xc1"))
    with pytest.raises(SpoolDamaged):
        scan(path)


def test_going_on_cuts_what_lies_beyond(path: Path) -> None:
    file = Spool.go_on(path, scan(path).end_of(2))
    file.append(2, b"other")
    file.close()
    assert list(spool.payloads(path, scan(path))) == [*STEPS[:2], b"other"]


def test_no_file_and_an_empty_one_are_no_steps(tmp_path: Path) -> None:
    spool.make_durable(tmp_path / "none")
    assert scan(tmp_path / "none").steps == ()
    (tmp_path / "empty").write_bytes(b"")
    assert scan(tmp_path / "empty").origin is None
    (tmp_path / "other").write_bytes(b"something else entirely, longer than the magic")
    with pytest.raises(SpoolDamaged, match="does not begin as a spool file"):
        scan(tmp_path / "other")
