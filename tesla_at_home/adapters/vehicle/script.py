"""A scripted vehicle's TOML file as values, and what it says at each moment (DECISIONS C.6).

Reads the file strictly and plays it; keeps no time and starts no thread (`scripted` does). Changes
happen in the order of the file: each waits for its own time or count after the one before.
"""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal, TypeAlias, cast

from tesla_at_home.errors import BadScript
from tesla_at_home.policy.signals import (
    NUMBERS,
    PUSHED_MAX_AGE_S,
    SIGNALS,
    Heard,
    Reading,
    Signal,
)

Value: TypeAlias = bool | float | None
Due: TypeAlias = Literal["at_s", "after_s", "after_steps", "after_units"]

_DUES: Final[tuple[Due, ...]] = ("at_s", "after_s", "after_steps", "after_units")
_FLAGS: Final = ("conflict", "silent")
_TOP: Final = ("start", "change", "repeat_s", "calm_s")
# How far a second thermometer or fuel gauge is off when the sources are to disagree.
_FAR_OFF: Final = 50.0
# A round shorter than this would only keep the processor busy.
_SHORTEST_ROUND_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Change:
    """What happens when `due` is reached."""

    due: Due
    amount: float
    values: Mapping[Signal, Value]
    is_conflict: bool = False
    is_silent: bool = False


@dataclass(frozen=True, slots=True)
class Script:
    start: Mapping[Signal, Value]
    changes: tuple[Change, ...] = ()
    repeat_s: float | None = None
    calm_s: float | None = None


@dataclass(frozen=True, slots=True)
class Spoken:
    """What the vehicle says from one change to the next; `disputed` by a second source."""

    values: Mapping[Signal, Value]
    disputed: frozenset[Signal] = frozenset()
    doubled: frozenset[Signal] = frozenset()  # of which a second source has ever spoken
    is_silent: bool = False

    def heard(self, source: str, now_s: float) -> Heard:
        """As readings. A value holds until changed; one that falls silent ages like any other."""
        age_s = PUSHED_MAX_AGE_S if self.is_silent else None
        said = [Reading(s, v, source, now_s, age_s) for s, v in self.values.items()]
        for signal in sorted(self.doubled):
            value = self.values[signal]
            other = _opposite(value) if signal in self.disputed else value
            said.append(Reading(signal, other, f"{source} (second)", now_s, age_s))
        return Heard(tuple(said))


# Always parked, plugged in and at home, and ready at once.
HOME: Final = Script(
    start={
        "parked": True, "plugged_in": True, "home_wifi": True, "in_use": False, "metered": False,
        "charge_percent": 80.0, "temperature_c": 45.0,
    },
    calm_s=0.0,
)  # fmt: skip


@dataclass
class Playback:
    """Where a script stands. Elapsed seconds, steps and units count since `run` began."""

    script: Script
    _round_s: float = 0.0  # when this round began
    _next: int = 0
    _last_s: float = 0.0  # when the last change happened
    _last_steps: int = 0
    _last_units: int = 0
    _spoken: Spoken = field(init=False)

    def __post_init__(self) -> None:
        self._spoken = Spoken(dict(self.script.start))

    def begin(self) -> Spoken:
        """What the vehicle says first."""
        return self._spoken

    def advance(self, elapsed_s: float, steps: int, units: int) -> list[Spoken]:
        """What it says since the last call, change by change."""
        said: list[Spoken] = []
        while True:
            round_end_s = self._round_end_s()
            at_s = self._due_s(steps, units)
            if at_s is not None and at_s <= min(elapsed_s, round_end_s):
                # A count is reached when it is seen; a time when it was due.
                self._happen(elapsed_s if at_s < 0 else at_s, steps, units)
            elif round_end_s <= elapsed_s:
                self._start_over(round_end_s, steps, units)
            else:
                return said
            said.append(self._spoken)

    def next_s(self) -> float | None:
        """When time alone changes something next; None: never."""
        due_s = self._due_s(self._last_steps, self._last_units)
        times = [self._round_end_s(), math.inf if due_s is None or due_s < 0 else due_s]
        return None if min(times) == math.inf else min(times)

    def _due_s(self, steps: int, units: int) -> float | None:
        """When the next change is due; below 0: now, by its count; None: not yet known."""
        if self._next == len(self.script.changes):
            return None
        change = self.script.changes[self._next]
        if change.due == "at_s":
            return self._round_s + change.amount
        if change.due == "after_s":
            return self._last_s + change.amount
        done = steps - self._last_steps if change.due == "after_steps" else units - self._last_units
        return -1.0 if done >= change.amount else None

    def _round_end_s(self) -> float:
        return math.inf if self.script.repeat_s is None else self._round_s + self.script.repeat_s

    def _happen(self, at_s: float, steps: int, units: int) -> None:
        self._spoken = _changed(self._spoken, self.script.changes[self._next])
        self._next += 1
        self._mark(max(at_s, self._last_s), steps, units)

    def _start_over(self, at_s: float, steps: int, units: int) -> None:
        # What the start does not name stays unsaid by it: the vehicle no longer knows.
        unsaid: dict[Signal, Value] = dict.fromkeys(self._spoken.values)
        self._spoken = Spoken(unsaid | dict(self.script.start), doubled=self._spoken.doubled)
        self._round_s, self._next = at_s, 0
        self._mark(at_s, steps, units)

    def _mark(self, at_s: float, steps: int, units: int) -> None:
        self._last_s, self._last_steps, self._last_units = at_s, steps, units


def _changed(before: Spoken, change: Change) -> Spoken:
    values = dict(before.values) | dict(change.values)
    disputed = before.disputed - change.values.keys()
    if change.is_conflict:
        disputed |= change.values.keys() or values.keys()
    doubled = before.doubled | disputed
    return replace(
        before, values=values, disputed=disputed, doubled=doubled, is_silent=change.is_silent
    )


def _opposite(value: Value) -> Value:
    if value is None:
        return True
    return not value if isinstance(value, bool) else value + _FAR_OFF


# --- reading the file ---------------------------------------------------------------------------


def parse(text: str, name: str) -> Script:
    """The script in a TOML text.

    Raises:
        BadScript: one line with the place, and the nearest word for one that is unknown.
    """
    try:
        raw = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise BadScript(f"{name}: not TOML: {error}") from None
    _known(raw, _TOP, name)
    start = _table(raw.get("start", {}), f"{name}: [start]")
    changes = raw.get("change", [])
    if not isinstance(changes, list):
        raise BadScript(f"{name}: write each change as [[change]]")
    script = Script(
        start=_values(start, SIGNALS, f"{name}: [start]"),
        changes=tuple(
            _change(each, f"{name}: [[change]] {n}") for n, each in enumerate(changes, start=1)
        ),
        repeat_s=_seconds(raw, "repeat_s", name),
        calm_s=_seconds(raw, "calm_s", name),
    )
    if script.repeat_s is not None and script.repeat_s < _SHORTEST_ROUND_S:
        raise BadScript(f"{name}: repeat_s must be at least {_SHORTEST_ROUND_S:g}")
    return script


def _change(raw: object, where: str) -> Change:
    table = _table(raw, where)
    _known(table, (*_DUES, *_FLAGS, *SIGNALS), where)
    dues = [due for due in _DUES if due in table]
    if len(dues) != 1:
        raise BadScript(f"{where}: exactly one of {', '.join(_DUES)} says when")
    flags = {flag: table.get(flag, False) for flag in _FLAGS}
    for flag, value in flags.items():
        if not isinstance(value, bool):
            raise BadScript(f"{where}: {flag} is true or false")
    values = {key: value for key, value in table.items() if key not in (*_DUES, *_FLAGS)}
    return Change(
        due=dues[0],
        amount=_amount(table[dues[0]], dues[0], where),
        values=_values(values, SIGNALS, where),
        is_conflict=cast(bool, flags["conflict"]),
        is_silent=cast(bool, flags["silent"]),
    )


def _values(raw: Mapping[str, object], known: Iterable[str], where: str) -> Mapping[Signal, Value]:
    _known(raw, known, where)
    return {cast(Signal, key): _value(cast(Signal, key), raw[key], where) for key in raw}


def _value(signal: Signal, raw: object, where: str) -> Value:
    if raw == "unknown":
        return None
    if signal in NUMBERS:
        if isinstance(raw, (int, float)) and not isinstance(raw, bool) and math.isfinite(raw):
            return float(raw)
        raise BadScript(f'{where}: {signal} is a number or "unknown", not {raw!r}')
    if isinstance(raw, bool):
        return raw
    raise BadScript(f'{where}: {signal} is true, false or "unknown", not {raw!r}')


def _amount(raw: object, due: Due, where: str) -> float:
    is_count = due in ("after_steps", "after_units")
    kinds = (int,) if is_count else (int, float)
    if isinstance(raw, kinds) and not isinstance(raw, bool) and 0 <= raw < math.inf:
        return float(raw)
    wanted = "a whole number" if is_count else "a number of seconds"
    raise BadScript(f"{where}: {due} is {wanted} from 0, not {raw!r}")


def _seconds(
    raw: Mapping[str, object], key: Literal["repeat_s", "calm_s"], where: str
) -> float | None:
    if key not in raw:
        return None
    value = raw[key]
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < math.inf:
        return float(value)
    raise BadScript(f"{where}: {key} is a number of seconds from 0, not {value!r}")


def _table(raw: object, where: str) -> dict[str, object]:
    if isinstance(raw, dict):
        return raw
    raise BadScript(f"{where}: is a table of signals")


def _known(raw: Mapping[str, object], known: Iterable[str], where: str) -> None:
    words = list(known)
    for key in raw:
        if key not in words:
            near = difflib.get_close_matches(key, words, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(words)}"
            raise BadScript(f"{where}: unknown key {key!r}; {hint}")
