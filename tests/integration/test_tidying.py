"""Files that a kill left behind go; those that somebody still writes or names stay."""

from __future__ import annotations

import os
from pathlib import Path

from server.domain.records import UploadRow
from server.settings import PASSING_KEPT_MS
from tests.support.disk_server import DiskServer, Stage, scene
from workunits.trust import digests
from workunits.values import LeaseId

STRAY = LeaseId(b"stray lease id..")


def test_parts_that_no_upload_names_are_removed(tmp_path: Path) -> None:
    stage = Stage(DiskServer(tmp_path))
    for name, act in scene():
        if name == "one uploads":
            break
        act(stage)
    server = stage.server
    (lease, *_) = stage.vehicles["one"].holds
    for each in (lease, STRAY):
        server.partials.append(each, b"some bytes")
    begin_upload(stage, lease)
    assert server.tidying.tidy(server.clock.now_ms()) == 1
    assert server.partials.kept() == [lease]
    server.database.close()


def begin_upload(stage: Stage, lease: LeaseId) -> None:
    row = UploadRow(lease, digests.of_tensors(b"whole"), 70_000, False, stage.server.clock.now_ms())
    with stage.server.database.transaction() as repos:
        repos.uploads.put(row)


def test_half_written_blobs_are_removed_when_their_writer_must_be_gone(tmp_path: Path) -> None:
    server = DiskServer(tmp_path)
    server.blobs.put("aa11", b"whole")
    folder = tmp_path / "blobs" / "public" / "aa"
    old, young = folder / "aa11.0.part", folder / "aa11.1.part"
    for path in (old, young):
        path.write_bytes(b"half")
    now_s = server.clock.now_ms() / 1000
    os.utime(young, (now_s, now_s))
    os.utime(old, (now_s - PASSING_KEPT_MS / 1000 - 1,) * 2)
    assert server.tidying.tidy(server.clock.now_ms()) == 1
    assert sorted(path.name for path in folder.iterdir()) == ["aa11", "aa11.1.part"]
    server.database.close()
