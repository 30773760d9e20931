"""Files of the project that are gone or changed: named by `doctor`, and everything else goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from server.domain.names import output_blob, public_blob, tree_blob
from server.domain.records import BatchRow, ModelRow
from server.errors import Damaged
from server.http.uploads import Offer, Received
from server.services.assembly import Assembly
from tests.support.disk_server import WIDE, Stage
from tests.support.halfway import Halfway, doctor, work_through
from tests.support.work_server import MODEL, MODEL_FILE, ROWS, input_of, output_of
from workunits.trust import digests
from workunits.values import LeaseId


@pytest.fixture(scope="module")
def halfway(tmp_path_factory: pytest.TempPathFactory) -> Halfway:
    return Halfway.in_folder(tmp_path_factory.mktemp("halfway"))


@pytest.fixture
def stage(tmp_path: Path, halfway: Halfway) -> Iterator[Stage]:
    opened = halfway.open(halfway.copy(tmp_path / "project"))
    yield opened
    opened.server.database.close()


def wide(stage: Stage) -> BatchRow:
    return stage.batches["wide"]


# What to damage, and how `doctor` names it.
BLOBS: Final[dict[str, tuple[Callable[[Stage], str], str]]] = {
    "manifest": (lambda stage: public_blob(wide(stage).manifest), "the manifest"),
    "tree": (lambda stage: tree_blob(wide(stage).id), "the tree"),
    "input": (
        lambda stage: public_blob(digests.of_tensors(input_of(1, WIDE))),
        "unit 1: its input",
    ),
    "output": (
        lambda stage: output_blob(digests.of_tensors(output_of(0, ROWS, width=WIDE))),
        "unit 0: its output",
    ),
    "model": (lambda stage: public_blob(MODEL), "model toy: its file"),
}


@pytest.mark.parametrize("is_lost", [True, False])
@pytest.mark.parametrize("kind", BLOBS)
def test_a_blob_that_is_not_well_is_named_and_the_rest_goes_on(
    stage: Stage, kind: str, is_lost: bool
) -> None:
    add_model(stage)
    stage.server.settle()
    assert doctor(stage.server.folder, "blobs").is_well
    name, named = BLOBS[kind]
    damage_blob(stage, name(stage), is_lost=is_lost)
    found = doctor(stage.server.folder, "blobs")
    assert not found.is_well
    assert named in found.detail
    stage.server.start()
    another = stage.server.publish(1)
    work_through(stage, ("one", "two"))
    assert stage.server.batch(another).state == "completed"


def add_model(stage: Stage) -> None:
    server = stage.server
    server.blobs.put(public_blob(MODEL), MODEL_FILE)
    row = ModelRow("toy", MODEL, len(MODEL_FILE), b"{}", "active", server.clock.now_ms())
    with server.database.transaction() as repos:
        repos.models.add(row)


def damage_blob(stage: Stage, name: str, *, is_lost: bool) -> None:
    if is_lost:
        stage.server.blobs.delete(name)
        return
    raw = stage.server.blobs.read(name)
    stage.server.blobs.put(name, raw[:-1] + bytes([raw[-1] ^ 1]))


def test_an_answer_is_not_put_together_from_a_damaged_result(stage: Stage, tmp_path: Path) -> None:
    server = stage.server
    server.settle()
    assembly = Assembly(server.database, server.blobs)
    batch = server.batch(wide(stage))
    assembly.assemble(batch, tmp_path / "whole.npz", is_partial=True)
    name = output_blob(digests.of_tensors(output_of(0, ROWS, width=WIDE)))
    damage_blob(stage, name, is_lost=False)
    with pytest.raises(Damaged, match="restore FILE"):
        assembly.assemble(batch, tmp_path / "wrong.npz", is_partial=True)
    assert not (tmp_path / "wrong.npz").exists()


def test_a_part_that_a_power_cut_damaged_is_sent_again(stage: Stage) -> None:
    server = stage.server
    lease, raw = LeaseId(b"some lease id .."), output_of(0, ROWS, width=WIDE)
    offer = Offer(lease, 0, len(raw), digests.of_tensors(raw))
    server.taking.begin(offer)
    server.taking.append(lease, bytes(len(raw)))
    assert server.taking.standing(lease) == Received(0, len(raw), False)
    server.taking.begin(offer)
    server.taking.append(lease, raw)
    assert server.taking.standing(lease).complete
