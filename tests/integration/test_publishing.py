"""From a model and a data set to signed units that a vehicle accepts, on real storage and vetting."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from server import settings
from server.domain.cutting import Wishes
from server.domain.names import public_blob, tree_blob
from server.domain.records import BatchRow
from server.domain.work import UnitChange
from server.errors import Conflict, NotFound, Outage, Refused
from server.services.publishing import Submission
from tests.support import models
from tests.support.publisher import Publisher, publisher, save
from workunits import arrays
from workunits.errors import DataRefused, GraphRefused
from workunits.kinds.base import KindOptions
from workunits.trust import digests, merkle, roles
from workunits.values import BatchId
from workunits.wire import codec, limits
from workunits.wire.messages import InputPart, Lease, Manifest, Unit


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Publisher]:
    with publisher(tmp_path) as made:
        yield made


def submission(model: str, data: Path, **wishes: int | None) -> Submission:
    return Submission(
        model=model,
        input=data,
        kind="tensor",
        options=KindOptions(),
        wishes=Wishes(wishes.get("step"), wishes.get("rows_per_unit")),
        quorum=wishes.get("quorum") or settings.QUORUM,
    )


def manifest_of(site: Publisher, batch: BatchRow) -> Manifest:
    """As a vehicle reads it: from the blob, trusting what TUF says only."""
    raw = site.blobs.read(public_blob(batch.manifest))
    project = site.metadata.project()
    return roles.accept_manifest(raw, batch.manifest, project, site.clock.now_ms())


def units_of(site: Publisher, batch: BatchRow) -> list[bytes]:
    with site.database.reading() as storage:
        stories = [storage.units.story(batch.id, index) for index in range(batch.units)]
    assert all(story is not None for story in stories)
    return [story.unit.body for story in stories if story is not None]


def payload(site: Publisher, part: InputPart) -> bytes:
    with site.database.reading() as storage:
        small = storage.payloads.read([part.digest]).get(part.digest)
    raw = small if small is not None else site.blobs.read(public_blob(part.digest))
    assert (small is not None) == (part.size <= limits.ATTACHMENT_BYTES)
    assert digests.of_tensors(raw) == part.digest
    assert len(raw) == part.size
    return raw


# --- models -------------------------------------------------------------------------------------


def test_a_model_is_vetted_stored_and_published(site: Publisher) -> None:
    sample = models.mlp()
    site.add(sample, "mlp")
    (target,) = site.metadata.models()
    assert target.digest == digests.plain(sample.raw)
    assert (target.size, target.facts.name) == (len(sample.raw), "mlp")
    assert target.facts.calibration is None
    assert site.blobs.read(public_blob(target.digest)) == sample.raw


def test_a_calibrated_model_carries_its_sigma_in_the_metadata(site: Publisher) -> None:
    sample = models.mlp()
    site.add(sample, "mlp", site.data(sample, 300))
    (target,) = site.metadata.models()
    assert target.facts.calibration is not None
    assert target.facts.calibration.rows == 256
    rules = {rule.name: rule.rule for rule in target.facts.calibration.rules}
    assert rules == {"scores": "tolerance", "label": "label"}


def test_a_model_that_is_refused_leaves_nothing(site: Publisher) -> None:
    (site.folder / "bad.onnx").write_bytes(b"not a model")
    with pytest.raises(GraphRefused):
        site.models.add(site.folder / "bad.onnx", "bad", None)
    assert site.models.list() == []
    assert site.metadata.models() == ()


def test_names_are_checked_and_given_once(site: Publisher) -> None:
    sample = models.mlp()
    site.add(sample, "mlp")
    with pytest.raises(Conflict, match="called mlp already"):
        site.add(sample, "mlp")
    for wrong in ("", "A", "a/b", "..", "a" * 64, "ä"):
        with pytest.raises(Refused, match="--name"):
            site.models.add(site.folder / "mlp.onnx", wrong, None)


def test_a_model_in_use_is_not_retired(site: Publisher) -> None:
    sample = models.mlp()
    site.add(sample, "mlp")
    batch = site.publishing.submit(submission("mlp", site.data(sample, 10)))
    with pytest.raises(Conflict, match=batch.id.hex()):
        site.models.retire("mlp")
    with site.database.transaction() as storage:
        storage.batches.end(batch.id, "cancelled", site.clock.now_ms())
    site.models.retire("mlp")
    assert site.metadata.models() == ()
    with pytest.raises(Conflict, match="retired"):
        site.publishing.submit(submission("mlp", site.data(sample, 10)))
    with pytest.raises(NotFound, match="no model called other"):
        site.models.retire("other")


# --- batches ------------------------------------------------------------------------------------


def test_every_unit_proves_into_a_manifest_that_a_vehicle_accepts(site: Publisher) -> None:
    sample = models.mlp()
    site.add(sample, "mlp")
    data = site.data(sample, 103)
    batch = site.publishing.submit(submission("mlp", data, rows_per_unit=10, step=4))

    manifest = manifest_of(site, batch)
    assert (manifest.units, manifest.rows, batch.units) == (11, 103, 11)
    assert manifest.program.rows_per_step == 4
    assert manifest.program.model == digests.plain(sample.raw)
    levels = site.blobs.read(tree_blob(batch.id))
    rows = []
    for index, body in enumerate(units_of(site, batch)):
        lease = Lease(
            lease=batch.id,  # type: ignore[arg-type]
            manifest=batch.manifest,
            unit=body,
            proof=merkle.prove(levels, index, batch.units),
            duration_s=1,
            ticket=b"t" * 16,
        )
        unit = roles.accept_unit(lease, manifest)
        assert unit.first_row == index * 10
        raw = payload(site, unit.inputs[0])
        found = arrays.from_payload(raw, sample.inputs, unit.rows, most=len(raw))
        rows.append(found["x"])
    np.testing.assert_array_equal(np.concatenate(rows), sample.draw(103)["x"])


def test_every_unit_has_as_many_ready_replicas_as_the_quorum(site: Publisher) -> None:
    sample = models.mlp()
    site.add(sample, "mlp")
    asked = submission("mlp", site.data(sample, 30), rows_per_unit=10, quorum=3)
    batch = site.publishing.submit(asked)
    with site.database.reading() as storage:
        for index in range(3):
            story = storage.units.story(batch.id, index)
            assert story is not None
            assert [replica.state for replica in story.replicas] == ["ready"] * 3


def test_large_inputs_are_blobs(site: Publisher) -> None:
    sample = models.mlp(features=100)
    site.add(sample, "mlp")
    batch = site.publishing.submit(submission("mlp", site.data(sample, 400), rows_per_unit=300))
    sizes = [codec.unpack(body, Unit, most=4096).inputs[0].size for body in units_of(site, batch)]
    assert sizes[0] > limits.ATTACHMENT_BYTES > sizes[1]
    for body in units_of(site, batch):
        payload(site, codec.unpack(body, Unit, most=4096).inputs[0])


def test_sigma_comes_from_rows_of_the_batch_unless_the_model_has_its_own(site: Publisher) -> None:
    sample = models.identity()
    site.add(sample, "plain")
    data = site.folder / "d.npz"
    rows = np.arange(512 * 3, dtype=np.float32).reshape(512, 3)
    save(data, {"x": rows})
    own = manifest_of(site, site.publishing.submit(submission("plain", data)))
    if own.agreement[0].rule == "tolerance":
        assert own.agreement[0].sigma == pytest.approx(float(np.std(rows[::2])))

    mlp = models.mlp()
    site.add(mlp, "mlp", site.data(mlp, 64, "calibration.npz"))
    (facts,) = (target.facts for target in site.metadata.models() if target.facts.name == "mlp")
    assert facts.calibration is not None
    batch = site.publishing.submit(submission("mlp", site.data(mlp, 20)))
    assert manifest_of(site, batch).agreement == facts.calibration.rules


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_rows_without_numbers_do_not_calibrate(site: Publisher, bad: float) -> None:
    sample = models.mlp()
    site.add(sample, "mlp")
    rows = sample.draw(20)["x"].copy()
    rows[3, 2] = bad
    data = site.folder / "d.npz"
    save(data, {"x": rows})
    manifest = manifest_of(site, site.publishing.submit(submission("mlp", data)))
    rules = {rule.name: rule for rule in manifest.agreement}
    assert rules["scores"].rule == "tolerance"
    assert 0 < rules["scores"].sigma < np.inf


def test_rows_on_which_the_model_gives_no_numbers_do_not_calibrate(site: Publisher) -> None:
    site.add(models.logarithm(), "log")
    rows = np.ones((6, 3), np.float32)
    rows[:4] = -1
    data = site.folder / "d.npz"
    save(data, {"x": rows})
    assert site.publishing.submit(submission("log", data)).rows == 6
    rows[4] = -1
    save(data, {"x": rows})
    with pytest.raises(GraphRefused, match="row 0 of the input"):
        site.publishing.submit(submission("log", data))
    with pytest.raises(GraphRefused, match="calibration row 0"):
        site.add(models.logarithm(), "calibrated", data)


def test_what_all_rows_share_is_one_payload_in_every_unit(site: Publisher) -> None:
    sample = models.shared()
    site.add(sample, "bank")
    data = site.data(sample, 30)
    asked = submission("bank", data, rows_per_unit=10)
    with pytest.raises(Refused, match=r"needs --shared FILE\.npz with: bank"):
        site.publishing.submit(asked)
    shared = site.folder / "shared.npz"
    batch = site.publishing.submit(
        Submission("bank", data, "tensor", KindOptions(), shared, asked.wishes)
    )
    units = [codec.unpack(body, Unit, most=4096) for body in units_of(site, batch)]
    parts = [part for unit in units for part in unit.inputs if part.scope == "unit"]
    assert len(parts) == 3
    assert len(set(parts)) == 1
    specs = [spec for spec in sample.inputs if spec.scope == "unit"]
    raw = payload(site, parts[0])
    found = arrays.from_payload(raw, specs, None, most=len(raw))
    np.testing.assert_array_equal(found["bank"], sample.draw(30)["bank"])


def test_shared_data_for_a_model_without_is_refused(site: Publisher) -> None:
    sample = models.mlp()
    site.add(sample, "mlp")
    data = site.data(sample, 5)
    asked = Submission("mlp", data, "tensor", KindOptions(), shared=data)
    with pytest.raises(Refused, match="no input that all rows share"):
        site.publishing.submit(asked)


def test_a_fixed_batch_axis_is_signed_as_the_step(site: Publisher) -> None:
    sample = models.fixed_batch(rows=5)
    site.add(sample, "fixed")
    batch = site.publishing.submit(submission("fixed", site.data(sample, 12)))
    assert manifest_of(site, batch).program.rows_per_step == 5


@pytest.mark.parametrize("writes", range(4))
def test_a_disk_that_fills_up_half_way_leaves_nothing_to_see(site: Publisher, writes: int) -> None:
    sample = models.mlp(features=100)
    site.add(sample, "mlp")
    data = site.data(sample, 600)
    asked = submission("mlp", data, rows_per_unit=300)
    site.blobs.fail_after(writes)  # two inputs, the tree, the manifest
    with pytest.raises(Outage):
        site.publishing.submit(asked)
    with site.database.reading() as storage:
        assert storage.batches.list() == []
        assert storage.replicas.newest() == 0
    site.blobs.work_again()
    assert site.publishing.submit(asked).units == 2


@pytest.mark.parametrize(
    ("wishes", "words"),
    [
        ({"quorum": 9}, "--quorum 9"),
        ({"rows_per_unit": 10**8}, "--rows-per-unit"),
    ],
)
def test_wishes_that_cannot_be(site: Publisher, wishes: dict[str, int], words: str) -> None:
    sample = models.mlp()
    site.add(sample, "mlp")
    with pytest.raises(Refused, match=words):
        site.publishing.submit(submission("mlp", site.data(sample, 5), **wishes))


def test_data_that_does_not_fit_the_model_is_refused(site: Publisher) -> None:
    sample = models.mlp()
    site.add(sample, "mlp")
    wrong = site.folder / "wrong.npz"
    save(wrong, {"x": np.zeros((4, 9), np.float32)})
    with pytest.raises(DataRefused):
        site.publishing.submit(submission("mlp", wrong))


def test_an_estimate_stores_nothing(site: Publisher) -> None:
    sample = models.mlp()
    site.add(sample, "mlp")
    site.blobs.fail_after(0)
    found = site.publishing.estimate(submission("mlp", site.data(sample, 25), rows_per_unit=10))
    assert (found.cut.units, found.replicas, found.cut.rows_per_step) == (3, 6, 32)
    assert found.is_run


def test_an_estimate_refuses_what_submitting_would(site: Publisher) -> None:
    site.add(models.mlp(), "mlp")
    site.add(models.shared(), "bank")
    good = site.data(models.mlp(), 5)
    lines = [f'{{"x": {[0.5] * 8}}}'] * 4 + ["{broken"]
    broken = site.folder / "broken.jsonl"
    broken.write_text("\n".join(lines))
    for asked in (
        submission("mlp", broken),
        submission("bank", site.data(models.shared(), 5, "bank.npz")),
        Submission("mlp", good, "tensor", KindOptions(), shared=good),
    ):
        with pytest.raises((DataRefused, Refused)):
            site.publishing.estimate(asked)


# --- answers ------------------------------------------------------------------------------------


def settled_batch(site: Publisher) -> tuple[BatchRow, arrays.Arrays]:
    """30 rows in three units of a model whose output is its input; the last unit stays open."""
    site.add(models.identity(), "same")
    data = site.folder / "d.npz"
    rows = np.arange(90, dtype=np.float32).reshape(30, 3)
    save(data, {"x": rows})
    batch = site.publishing.submit(submission("same", data, rows_per_unit=10))
    result = rows.copy()
    result[4, 1] = np.nan
    site.settle(batch, {0: {"y": result[:10]}, 1: "too_many_errors", 2: None})
    return batch, {"y": result}


def end(site: Publisher, batch: BatchRow, state: str) -> BatchRow:
    with site.database.transaction() as storage:
        storage.batches.end(batch.id, state, site.clock.now_ms())
        found = storage.batches.get(batch.id)
    assert found is not None
    return found


def test_a_running_batch_gives_its_answer_only_when_asked(site: Publisher) -> None:
    batch, _ = settled_batch(site)
    output = site.folder / "answer.npz"
    with pytest.raises(Conflict, match="still running"):
        site.assembly.assemble(batch, output)
    assert not output.exists()
    made = site.assembly.assemble(batch, output, is_partial=True)
    assert made.statuses == {"ok": 9, "not_a_number": 1, "unit_failed": 10, "pending": 10}
    assert made.rows_failed == 21


@pytest.mark.parametrize("state", ["cancelled", "expired"])
def test_an_ended_batch_gives_what_there_is_in_input_order(site: Publisher, state: str) -> None:
    batch, result = settled_batch(site)
    made = site.assembly.assemble(end(site, batch, state), site.folder / "answer.npz")
    assert made.statuses == {"ok": 9, "not_a_number": 1, "unit_failed": 10, state: 10}
    with np.load(made.output) as answer:
        status = answer["row_status"]
        np.testing.assert_array_equal(answer["y"][status == 0], result["y"][:10][status[:10] == 0])
        assert np.isnan(answer["y"][status != 0]).all()
        assert (
            status.tolist()
            == [0] * 4 + [1] + [0] * 5 + [2] * 10 + [3 + (state == "cancelled")] * 10
        )


def test_units_closed_by_the_deadline_are_expired_rows(site: Publisher) -> None:
    batch, _ = settled_batch(site)
    site.settle(batch, {2: "expired"})
    made = site.assembly.assemble(end(site, batch, "expired"), site.folder / "answer.jsonl")
    assert made.statuses == {"ok": 9, "not_a_number": 1, "unit_failed": 10, "expired": 10}


def test_a_missing_result_is_named_and_no_file_appears(site: Publisher) -> None:
    batch, _ = settled_batch(site)
    with site.database.transaction() as storage:
        story = storage.units.story(batch.id, 2)
        assert story is not None
        nowhere = digests.of_tensors(b"never stored")
        storage.units.change([UnitChange(story.unit.id, "open", "done", output=nowhere)])
    output = site.folder / "answer.npz"
    with pytest.raises(Outage, match=f"{nowhere.hex()[:16]} is gone or damaged"):
        site.assembly.assemble(end(site, batch, "completed"), output)
    assert not output.exists()


def test_batch_ids_are_never_reused(site: Publisher) -> None:
    sample = models.mlp()
    site.add(sample, "mlp")
    data = site.data(sample, 5)
    made: set[BatchId] = {site.publishing.submit(submission("mlp", data)).id for _ in range(3)}
    assert len(made) == 3
