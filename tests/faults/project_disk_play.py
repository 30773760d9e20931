"""Making a project, publishing and signing on a disk that fails: a play under `disk_faults`.

`init` and `batch submit` are cut off at a call, by a disk that is gone or by the power, and begun again:
then there is a whole project, with whole batches. Metadata are changed, and at each call in turn the disk
fails or the power does: what a vehicle fetches is always a whole chain of signatures, never older than
what it has seen, and the change made again is there. Run by `test_server_disk.py`; prints one JSON line.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Final

import numpy as np
from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet
from tuf.ngclient.config import EnvelopeType

from server.adapters.keys import KeyFolder
from server.adapters.metadata import ProjectMetadata
from server.cli_doctor import examine
from server.cli_project import found, is_founded, opened
from server.domain.cutting import Wishes
from server.errors import ServerError
from server.services.publishing import Submission
from server.settings import ProjectSettings
from tests.support import models
from tests.support.disk_faults import Disk, Fault, telling
from tests.support.power_cut import Platter, Snapshot
from tests.support.publisher import publisher
from tests.support.still_clock import StillClock
from tests.support.work_server import OUTPUTS
from workunits.kinds.base import KindOptions
from workunits.trust import digests
from workunits.values import Milliseconds
from workunits.wire.messages import ModelFacts

ROWS: Final = 24
ROWS_PER_UNIT: Final = 8
WISHES: Final = Wishes(rows_per_unit=ROWS_PER_UNIT)
SETTINGS: Final = ProjectSettings(name="Test")
Change = Callable[[ProjectMetadata, Milliseconds], object]


class Play:
    def __init__(self, root: Path) -> None:
        self.disk = Disk.here()
        self.root = root
        self.counts: Counter[str] = Counter()

    # --- init -------------------------------------------------------------------------------------

    def init(self, share: int, shares: int) -> None:
        """Cut off at one share of the telling calls, and run again."""
        start, live = self._empty()
        self.disk.watch(live, records=True)
        found(live / "project", SETTINGS)
        kinds, log = self.disk.kinds(), self.disk.log()
        self._expect_project(live / "project")
        for call in telling(kinds)[share::shares]:
            self._init_dies(call)
            platter = Platter(start)
            for made in log[:call]:
                platter.play(made)
            self._init_again(platter.leave(self.root / "cut", Random(call)) / "project")
            self.counts["power cuts"] += 1

    def _init_dies(self, call: int) -> None:
        _, live = self._empty()
        self.disk.watch(live)
        self.disk.arm(call, Fault.GONE)
        try:
            found(live / "project", SETTINGS)
        except (ServerError, OSError):
            # The command says it in one line and exits with 1.
            self.counts["refused"] += 1
        self.counts["faults"] += self.disk.injected()
        self.disk.unwatch()
        self._init_again(live / "project")

    def _init_again(self, folder: Path) -> None:
        if not is_founded(folder):
            found(folder, SETTINGS)
        self._expect_project(folder)

    def _expect_project(self, folder: Path) -> None:
        self.disk.unwatch()
        self.counts["projects examined"] += 1
        wrong = [each for each in examine(folder) if not each.is_well and each.what != "disk"]
        assert not wrong, wrong

    def _empty(self) -> tuple[Snapshot, Path]:
        self.disk.unwatch()
        live = self.root / "live"
        shutil.rmtree(live, ignore_errors=True)
        live.mkdir()
        return Snapshot.of(live), live

    # --- publishing -------------------------------------------------------------------------------

    def publish(self, share: int, shares: int) -> None:
        """A batch is submitted; cut off at one share of the calls, and submitted again."""
        project = self._with_model()
        trial = self._trial(project)
        start = Snapshot.of(trial)
        self.disk.watch(trial, records=True)
        self._submit(trial)
        kinds, log = self.disk.kinds(), self.disk.log()
        for call in telling(kinds)[share::shares]:
            self._submit_dies(self._trial(project), call)
            platter = Platter(start)
            for made in log[:call]:
                platter.play(made)
            self._expect_published(platter.leave(self.root / "cut", Random(call)))
            self.counts["power cuts"] += 1

    def _with_model(self) -> Path:
        project = self.root / "signed"
        found(project, SETTINGS)
        sample = models.mlp()
        np.savez(self.root / "rows.npz", x=sample.draw(ROWS)["x"])
        with opened(project) as site:
            site.models().add(sample.write(self.root / "mlp.onnx"), "mlp", self.root / "rows.npz")
        return project

    def _submit(self, folder: Path) -> None:
        asked = Submission("mlp", self.root / "rows.npz", "tensor", KindOptions(), wishes=WISHES)
        with opened(folder) as site:
            site.publishing().submit(asked)

    def _submit_dies(self, trial: Path, call: int) -> None:
        self.disk.watch(trial)
        self.disk.arm(call, Fault.GONE)
        try:
            self._submit(trial)
        except ServerError:
            self.counts["refused"] += 1
        self.counts["faults"] += self.disk.injected()
        self._expect_published(trial)

    def _expect_published(self, folder: Path) -> None:
        """There is the whole batch or none; submitting again gives one more."""
        self.disk.unwatch()
        with opened(folder) as site, site.database.reading() as storage:
            before = storage.batches.list()
        self._submit(folder)
        with opened(folder) as site, site.database.reading() as storage:
            after = storage.batches.list()
            units = [len(list(storage.units.canonical(batch.id))) for batch in after]
        assert len(after) == len(before) + 1 <= 2
        assert units == [ROWS // ROWS_PER_UNIT] * len(after)
        self._expect_project(folder)

    # --- metadata ---------------------------------------------------------------------------------

    def metadata(self, share: int, shares: int) -> None:
        """One share of the calls of each change: it fails once, the disk is gone, the power is."""
        signed = self.root / "signed"
        signed.mkdir()
        with publisher(signed) as made:
            now = made.clock.now_ms()
        for change, later_ms in CHANGES:
            self._fails_in(signed, change, Milliseconds(now + later_ms), share, shares)
            change(_metadata(signed), Milliseconds(now + later_ms))

    def _fails_in(
        self, signed: Path, change: Change, now: Milliseconds, share: int, shares: int
    ) -> None:
        seen, trial = _seen(signed), self._trial(signed)
        start = Snapshot.of(trial)
        self.disk.watch(trial, records=True)
        change(_metadata(trial), now)
        log = self.disk.log()
        for call in range(1 + share, len(log) + 1, shares):
            for fault in (Fault.ONCE, Fault.GONE, Fault.TORN):
                self._disturbed(self._trial(signed), change, now, call, fault)
                self._expect_whole(trial, seen, change, now)
            platter = Platter(start)
            for made in log[:call]:
                platter.play(made)
            cut = platter.leave(self.root / "cut", Random(call))
            self._expect_whole(cut, seen, change, now)
            self.counts["power cuts"] += 1

    def _trial(self, signed: Path) -> Path:
        self.disk.unwatch()
        trial = self.root / "trial"
        shutil.rmtree(trial, ignore_errors=True)
        return Path(shutil.copytree(signed, trial))

    def _disturbed(
        self, trial: Path, change: Change, now: Milliseconds, call: int, fault: Fault
    ) -> None:
        self.disk.watch(trial)
        self.disk.arm(call, fault)
        try:
            change(_metadata(trial), now)
        except (ServerError, OSError):
            self.counts["refused"] += 1
        self.counts["faults"] += self.disk.injected()
        self.disk.unwatch()

    def _expect_whole(self, folder: Path, seen: int, change: Change, now: Milliseconds) -> None:
        """What a vehicle fetches now is a whole chain; so it is when the change is made again."""
        self.counts["chains verified"] += 2
        after = _seen(folder)
        assert after >= seen
        change(_metadata(folder), now)
        assert _seen(folder) >= after


def _metadata(folder: Path) -> ProjectMetadata:
    return ProjectMetadata(folder / "metadata", KeyFolder(folder / "keys"))


def _seen(folder: Path) -> int:
    """The version of the timestamp that a vehicle accepts, with all that follows from it."""
    files = _metadata(folder).current()
    trusted = TrustedMetadataSet(files["1.root.json"], EnvelopeType.METADATA)
    # What a change that never happened should have prolonged has not expired then.
    trusted.reference_time = datetime.fromtimestamp(StillClock().now_ms() / 1000, UTC)
    for name in sorted(name for name in files if name.endswith(".root.json"))[1:]:
        trusted.update_root(files[name])
    version = trusted.update_timestamp(files["timestamp.json"]).version
    for role, update in (("snapshot", trusted.update_snapshot), ("targets", _top(trusted))):
        (raw,) = (files[name] for name in files if name.endswith(f".{role}.json"))
        update(raw)
    return version


def _top(trusted: TrustedMetadataSet) -> Callable[[bytes], object]:
    return trusted.update_targets


def _add(metadata: ProjectMetadata, now: Milliseconds) -> None:
    metadata.add_model(digests.plain(b"model"), 5, FACTS, now)
    assert [model.facts.name for model in metadata.models()] == ["toy"]


def _retire(metadata: ProjectMetadata, now: Milliseconds) -> None:
    metadata.retire_model("toy", digests.plain(b"model"), now)
    assert metadata.models() == ()


def _refresh(metadata: ProjectMetadata, now: Milliseconds) -> None:
    assert metadata.refresh(now) == ()
    assert all(role.expires_ms > now for role in metadata.roles())


FACTS: Final = ModelFacts(
    name="toy", opset=17, inputs=OUTPUTS, outputs=OUTPUTS, kflop_per_row=1, batch_rows=None,
    precision="fp32", is_portable_exact=False,
)  # fmt: skip
# Each with how much later it happens: the last signs all four roles anew.
CHANGES: Final[tuple[tuple[Change, int], ...]] = (
    (_add, 0),
    (_retire, 1000),
    (_refresh, 20 * 3_600_000),
    (_refresh, 300 * 24 * 3_600_000),
)


def main(arguments: Sequence[str]) -> None:
    what, root, share, shares = arguments
    play = Play(Path(root))
    {"init": play.init, "metadata": play.metadata, "publish": play.publish}[what](
        int(share), int(shares)
    )
    print(json.dumps(play.counts))


if __name__ == "__main__":
    main(sys.argv[1:])
