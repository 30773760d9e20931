"""The project's server on a disk that fails: a play under `tests.support.disk_faults`.

One scene is played undisturbed, with the server's whole state kept after each act. Then single acts
are begun again from the state before them and the disk fails in the middle: whoever got no answer says
the same again, to the server that lives on or to a new one on what is left. Afterwards the state must
be the undisturbed one, byte for byte, and every vehicle's last request repeated must get the answer it
got. Run by `test_server_disk.py` and the soak; prints one JSON line.
"""

from __future__ import annotations

import errno
import json
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from time import monotonic
from typing import Final

from server.errors import Outage
from tests.support.disk_faults import Call, Disk, Fault, Kind, telling
from tests.support.disk_faults import play as play_of
from tests.support.disk_server import Act, DiskServer, Memory, Stage, repeated, scene, state_of
from tests.support.power_cut import Platter, Snapshot
from tests.support.server_invariants import check_invariants

# Acts that the server goes on with after a failure it survived: what it remembers is put to use.
AFTERWARDS: Final = 3


@dataclass(frozen=True)
class Moment:
    """An act of the undisturbed play: what was before it, and what must be after it."""

    name: str
    act: Act
    folder: Path
    before: Memory
    after: Memory
    state: dict[str, object]
    calls: int  # of the disk, up to its end
    kinds: str  # of its own calls

    def speakers(self) -> set[str]:
        """Whose last request another one takes the place of."""
        return {
            name for name in self.before.said if self.before.said[name] != self.after.said.get(name)
        }


@dataclass(frozen=True)
class Played:
    """A play with its calls, and where it began."""

    start: Snapshot
    moments: Sequence[Moment]
    log: Sequence[Call]


class Play:
    """Trials on one undisturbed play; counts what was done."""

    def __init__(self, root: Path) -> None:
        self.disk = Disk.here()
        self.root = root
        self.counts: Counter[str] = Counter()
        self.whole = self._played(root / "whole")

    def fails(self, number: int, call: int, fault: Fault, error: int | None = None) -> bool:
        """Act `number` meets the fault at its `call`-th call and the server lives on; False: no
        such call."""
        with self._on_copy(number) as stage:
            was_met = self._disturbed(stage, number, call, fault, error)
            self.disk.mend()
            if was_met:
                self._go_on(stage, number)
        return was_met

    def dies(self, number: int, call: int, fault: Fault) -> bool:
        """As `fails`, but the server is dead then and another one opens what is left."""
        with self._on_copy(number) as stage:
            was_met = self._disturbed(stage, number, call, fault)
        if was_met:
            self.disk.unwatch()
            self._reopened(stage.server.folder, number)
        return was_met

    def cut(self, whole: Played, platter: Platter, calls: int, draw: Random) -> None:
        """The power fails after that many calls of a play; `platter` has them."""
        number = next(at for at, moment in enumerate(whole.moments) if calls <= moment.calls)
        folder = platter.leave(self.root / "cut", draw)
        self.counts["power cuts"] += 1
        self._reopened(folder, number)

    def cuts(self, whole: Played, wanted: Sequence[int], draw: Random) -> None:
        """The power fails after each of the calls in `wanted`, in turn."""
        platter, chosen = Platter(whole.start), set(wanted)
        for calls, call in enumerate(whole.log, start=1):
            platter.play(call)
            if calls in chosen:
                self.cut(whole, platter, calls, draw)

    def stumbling(self, failures: Sequence[int], acts: int | None = None) -> Played:
        """The scene, or its first acts, with these calls failing once each, everybody asking again."""
        return self._played(self.root / "stumbling", failures, acts)

    def _played(
        self, folder: Path, failures: Sequence[int] = (), acts: int | None = None
    ) -> Played:
        _fresh(folder)
        self.disk.unwatch()
        stage = Stage(DiskServer(folder / "live"))
        start = Snapshot.of(folder / "live")
        self.disk.watch(folder / "live", records=True)
        for at in failures:
            self.disk.arm(at, Fault.ONCE)
        moments = [
            self._moment(folder / f"before{at}", stage, name, act, is_copied=not failures)
            for at, (name, act) in enumerate(scene()[:acts])
        ]
        log = self.disk.log()
        self._count_injected()
        stage.server.database.close()
        return Played(start, moments, log)

    def _moment(self, copy: Path, stage: Stage, name: str, act: Act, *, is_copied: bool) -> Moment:
        live = stage.server.folder
        if is_copied:
            shutil.copytree(live, copy, ignore=shutil.ignore_patterns("*-shm"))
        before, already = stage.memory(), self.disk.count()
        _persistent(stage, before, act)
        kinds = self.disk.kinds()
        return Moment(
            name, act, copy, before, stage.memory(), state_of(live), len(kinds), kinds[already:]
        )

    @contextmanager
    def _on_copy(self, number: int) -> Iterator[Stage]:
        """A server just opened on the state before an act."""
        self.disk.unwatch()
        moment = self.whole.moments[number]
        folder = self.root / "trial"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(moment.folder, folder)
        stage = Stage(DiskServer(folder))
        moment.before.back(stage)
        try:
            yield stage
        finally:
            stage.server.database.close()
            self.disk.unwatch()

    def _disturbed(
        self, stage: Stage, number: int, call: int, fault: Fault, error: int | None = None
    ) -> bool:
        self.disk.watch(stage.server.folder)
        self.disk.arm(call, fault, error)
        try:
            self.whole.moments[number].act(stage)
        except Outage:
            self.counts["outages"] += 1
        return self._count_injected() > 0

    def _go_on(self, stage: Stage, number: int) -> None:
        """The act once more, and those after it, with the server that met the failure."""
        for at in range(number, min(number + 1 + AFTERWARDS, len(self.whole.moments))):
            moment = self.whole.moments[at]
            moment.before.back(stage)
            moment.act(stage)
            self._compare(stage, moment)

    def _reopened(self, folder: Path, number: int) -> None:
        """A new server on `folder`: what was said before act `number` holds, and the act succeeds."""
        moment = self.whole.moments[number]
        stage = Stage(DiskServer(folder))
        try:
            check_invariants(stage.server.path)
            moment.before.back(stage)
            self._repeat(stage, moment.speakers())
            moment.act(stage)
            # What a cut brought back is dropped within a day.
            stage.server.tidying.tidy(stage.server.clock.now_ms())
            self._compare(stage, moment)
        finally:
            stage.server.database.close()

    def _compare(self, stage: Stage, moment: Moment) -> None:
        self.counts["states compared"] += 1
        state = state_of(stage.server.folder)
        for part, wanted in moment.state.items():
            assert state[part] == wanted, (
                f"{moment.name}: {part}: {state[part]!r:.900} not {wanted!r:.900}"
            )
        assert stage.said == moment.after.said, f"{moment.name}: another answer"
        self._repeat(stage)

    def _repeat(self, stage: Stage, without: Collection[str] = ()) -> None:
        for name in stage.said.keys() - without:
            _, said = stage.said[name]
            self.counts["answers repeated"] += 1
            assert repeated(stage, name) == said, f"{name} hears another answer"

    def _count_injected(self) -> int:
        injected = self.disk.injected()
        self.counts["faults"] += injected
        return injected


def _persistent(stage: Stage, before: Memory, act: Act) -> None:
    """Whoever gets no answer asks again; many failures in a row are not what the disk does here."""
    for _ in range(5):
        try:
            return act(stage)
        except Outage:
            before.back(stage)
    return act(stage)


def _fresh(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "live").mkdir(parents=True)


# --- what a test asks for -----------------------------------------------------------------------


def each(play: Play, fault: str, share: int, shares: int) -> None:
    """Every telling call of every act, one share of them: it fails, or the server dies there."""
    meets = play.fails if fault in ("ONCE", "SHORT") else play.dies
    for number, moment in enumerate(play.whole.moments):
        for call in telling(moment.kinds):
            if (number + call) % shares == share:
                meets(number, call, Fault[fault])


def cuts(play: Play, share: int, shares: int, seed: int) -> None:
    """The power fails after every telling call of the scene, one share of them."""
    kinds = "".join(moment.kinds for moment in play.whole.moments)
    wanted = [call for call in telling(kinds) if call % shares == share]
    play.cuts(play.whole, wanted, Random(seed))


def pairs(play: Play, plays: int, seed: int) -> None:
    """A few calls fail once each, all is asked again, and then the power fails."""
    draw = Random(seed)
    for _ in range(plays):
        calls = len(play.whole.log)
        stumbling = play.stumbling(draw.sample(range(1, calls), 3))
        wanted = draw.sample(range(1, len(stumbling.log)), 6)
        play.cuts(stumbling, wanted, draw)


class Nothing(Random):
    """Of what is in doubt a power cut leaves nothing."""

    def random(self) -> float:
        return 1.0


def flushes(play: Play, share: int, shares: int) -> None:
    """The flush of a folder fails once, all is asked again and answered; then the power fails at the act's end.

    Whoever takes what it finds for durable, because it was made before, loses it here.
    """
    kinds = "".join(moment.kinds for moment in play.whole.moments)
    wanted = [at for at, kind in enumerate(kinds, start=1) if kind == Kind.SYNC_FOLDER.value]
    for call in wanted[share::shares]:
        acts = 1 + sum(moment.calls < call for moment in play.whole.moments)
        stumbling = play.stumbling([call], acts)
        play.cuts(stumbling, [len(stumbling.log)], Nothing())


def refusals(play: Play, share: int, shares: int) -> None:
    """In one share of the acts the disk is full, or may only be read, and then is well again."""
    for number in range(share, len(play.whole.moments), shares):
        play.fails(number, 1, Fault.FULL)
        play.fails(number, 1, Fault.GONE, errno.EROFS)


def soak(play: Play, seconds: float, seed: int) -> None:
    """Faults of every sort at random places, until the time is up."""
    draw = Random(seed)
    ends_s = monotonic() + seconds
    while monotonic() < ends_s:
        number = draw.randrange(len(play.whole.moments))
        kinds = play.whole.moments[number].kinds
        for _ in range(10 if kinds else 0):
            call = draw.randint(1, len(kinds))
            play.fails(number, call, draw.choice((Fault.ONCE, Fault.SHORT, Fault.FULL)))
            play.dies(number, call, draw.choice((Fault.GONE, Fault.TORN)))
        wanted = draw.sample(range(1, len(play.whole.log)), 20)
        play.cuts(play.whole, wanted, draw)
        pairs(play, 1, draw.getrandbits(32))


MODES: Final[dict[str, Callable[..., None]]] = {
    "each": lambda play, fault, share, of: each(play, fault, int(share), int(of)),
    "cuts": lambda play, share, of, seed: cuts(play, int(share), int(of), int(seed)),
    "pairs": lambda play, plays, seed: pairs(play, int(plays), int(seed)),
    "flushes": lambda play, share, of: flushes(play, int(share), int(of)),
    "refusals": lambda play, share, of: refusals(play, int(share), int(of)),
    "soak": lambda play, seconds, seed: soak(play, float(seconds), int(seed)),
}


def run(seconds: float, seed: int) -> dict[str, int]:
    """As many faults as the time allows, in a process of its own; what was done."""
    with tempfile.TemporaryDirectory() as folder:
        found = play_of(__name__, folder, f"soak,{seconds},{seed}", timeout_s=seconds + 600)
    return {name: count for name, count in found.items() if isinstance(count, int)}


def main(arguments: Sequence[str]) -> None:
    root, *parts = arguments
    play = Play(Path(root))
    for part in parts:
        mode, *rest = part.split(",")
        MODES[mode](play, *rest)
    print(json.dumps(play.counts))


if __name__ == "__main__":
    main(sys.argv[1:])
