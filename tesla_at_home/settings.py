"""Every setting of the client: name, default, bounds, and the reason for the default in its help.

Holds values only; `adapters/settings_file.py` reads and writes `config.toml`. A value comes as TOML
or as text from `config set`; both end in `build`, which refuses what is unknown or out of bounds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Final, TypeAlias, cast

from tesla_at_home.errors import BadSetting

Value: TypeAlias = bool | int | float | str | tuple[str, ...] | None

_HOUR_S: Final = 3600.0
_DAY_S: Final = 86_400.0
_NONE: Final = "none"


def _number(default: float, low: float, high: float, unit: str, why: str) -> float:
    facts = {"kind": "number", "low": low, "high": high, "unit": unit, "help": why}
    return field(default=default, metadata=facts)


def _number_or_none(default: float, low: float, high: float, unit: str, why: str) -> float | None:
    facts = {"kind": "number", "low": low, "high": high, "unit": unit, "help": why}
    return field(default=default, metadata={**facts, "or_none": True})


def _whole(default: int, low: int, high: int, unit: str, why: str) -> int:
    facts = {"kind": "whole", "low": low, "high": high, "unit": unit, "help": why}
    return field(default=default, metadata=facts)


def _text(default: str, why: str) -> str:
    return field(default=default, metadata={"kind": "text", "help": why})


def _texts(why: str) -> tuple[str, ...]:
    return field(default=(), metadata={"kind": "texts", "help": why})


@dataclass(frozen=True)
class Limits:
    """How much of the computer and the link is lent."""

    duty: float = _number(
        100.0, 0.05, 100.0, "%",
        "share of the time in which steps run; below 100 the child rests after each step, for a "
        "cooler and quieter car",
    )  # fmt: skip
    cores: float = _number(
        50.0, 1.0, 100.0, "%", "share of the processor cores; half leaves the computer usable"
    )
    memory: float = _number(
        50.0, 1.0, 100.0, "%",
        "share of the memory that the computing process may take before it is ended",
    )  # fmt: skip
    disk: float = _number(
        10.0, 0.1, 100.0, "%",
        "share of the disk for models and results; models unused for longest go first",
    )  # fmt: skip
    down_mb: float = _number(
        2000.0, 1.0, 1e6, "MB a day",
        "what may be fetched a day; 2 GB is a tenth of what a household fetches",
    )  # fmt: skip
    up_mb: float = _number(
        200.0, 0.1, 1e6, "MB a day",
        "what may be sent a day; home links are narrow upwards and owners notice",
    )  # fmt: skip


@dataclass(frozen=True)
class Gate:
    """When the vehicle may compute."""

    charge_floor: float = _number(
        50.0, 0.0, 100.0, "%", "charge below which nothing is computed; the car is for driving"
    )
    charge_margin: float = _number(
        5.0, 0.0, 50.0, "%", "how far above the floor the charge must come back before it opens"
    )
    temperature: float | None = _number_or_none(
        85.0, 20.0, 120.0, "°C",
        "temperature of the computing chip at which computing stops; `none` where the computer "
        "has no readable thermometer",
    )  # fmt: skip
    temperature_resume: float = _number(
        75.0, 10.0, 119.0, "°C", "temperature at which it may go on; the gap stops flapping"
    )
    heat_hold_s: float = _number(
        300.0,
        0.0,
        _DAY_S,
        "s",
        "rest after heat, so that the whole computer cools and not only the chip",
    )
    calm_s: float = _number(
        300.0, 0.0, _DAY_S, "s",
        "how long all conditions must hold before the gate opens; an owner who only fetches a bag "
        "is not bothered",
    )  # fmt: skip
    hours: str = _text(
        "",
        "hours of the day in local time, such as `22:00-06:30` or `0:00-6:00,12:00-14:00`; empty: always",
    )
    clock_off_s: float = _number(
        300.0, 1.0, _DAY_S, "s", "how wrong the clock may be against the project's signed time"
    )


@dataclass(frozen=True)
class Network:
    """How patiently the project is asked."""

    min_wait_s: float = _number(
        10.0, 0.0, _DAY_S, "s", "least time between two requests, whatever there is to say"
    )
    backoff_first_s: float = _number(
        60.0, 0.01, _DAY_S, "s", "wait after the first failed request; doubles"
    )
    backoff_most_s: float = _number(
        4 * _HOUR_S,
        0.01,
        _DAY_S,
        "s",
        "longest wait after failed requests: a night has three tries left",
    )
    no_work_first_s: float = _number(
        600.0, 0.01, _DAY_S, "s", "wait after the first reply without work; doubles"
    )
    no_work_most_s: float = _number(
        _DAY_S, 0.01, _DAY_S, "s", "longest wait while the project has no work"
    )
    transfer_first_s: float = _number(
        120.0, 0.01, _DAY_S, "s", "wait after the first failed transfer of a file; doubles"
    )
    transfer_most_s: float = _number(
        6 * _HOUR_S, 0.01, _DAY_S, "s", "longest wait after failed transfers"
    )
    stall_s: float = _number(
        300.0, 0.1, _HOUR_S, "s", "a transfer that gives no byte for so long is cut and tried again"
    )
    home: tuple[str, ...] = _texts("networks trusted as home, kept as salted digests")


@dataclass(frozen=True)
class Work:
    """How much work is held, and how it is kept safe."""

    buffer_days: float = _number(
        0.1, 0.0, 10.0, "days", "eligible time that work on hand should always last"
    )
    buffer_more_days: float = _number(
        0.5,
        0.0,
        10.0,
        "days",
        "eligible time fetched beyond that at once, so that requests are few",
    )
    units: int = _whole(50, 1, 50, "units", "most units held; a car that is sold takes few along")
    checkpoint_s: float = _number(
        10.0, 0.0, _HOUR_S, "s",
        "longest time of computing that a power cut may cost; sooner wears flash memory",
    )  # fmt: skip
    kill_after_s: float = _number(
        600.0,
        0.0,
        _DAY_S,
        "s",
        "a stopped process is ended after so long, and its memory given back",
    )
    longest_step_s: float = _number(
        1800.0, 1.0, _DAY_S, "s",
        "a step that takes longer is ended and its unit given up, unless its model costs more; on a "
        "usual computer a step takes seconds",
    )  # fmt: skip


@dataclass(frozen=True)
class Vehicle:
    """Who tells the state of the vehicle."""

    sources: tuple[str, ...] = _texts(
        "where vehicle state comes from, as given to `join --vehicle`"
    )


@dataclass(frozen=True)
class Settings:
    """All settings, frozen; `config.toml` has a table for each section."""

    limits: Limits = field(default_factory=Limits)
    gate: Gate = field(default_factory=Gate)
    network: Network = field(default_factory=Network)
    work: Work = field(default_factory=Work)
    vehicle: Vehicle = field(default_factory=Vehicle)


@dataclass(frozen=True, slots=True)
class Setting:
    """What is said of one setting by `config list`."""

    name: str  # "limits.duty"
    kind: str  # number, whole, text, texts
    default: Value
    unit: str
    low: float | None
    high: float | None
    or_none: bool
    help: str


_SECTIONS: Final[dict[str, type]] = {
    "limits": Limits,
    "gate": Gate,
    "network": Network,
    "work": Work,
    "vehicle": Vehicle,
}


def every() -> Iterator[Setting]:
    """All settings in the order of this file."""
    for section, kind in _SECTIONS.items():
        for one in fields(kind):
            yield _setting(section, one)


def find(name: str) -> Setting:
    """The setting `name`.

    Raises:
        BadSetting: there is none; the message lists those of the section.
    """
    for setting in every():
        if setting.name == name:
            return setting
    near = [s.name for s in every() if s.name.split(".")[0] == name.split(".")[0]]
    known = ", ".join(near or _SECTIONS)
    raise BadSetting(f"no setting is called {name!r}; there are: {known}")


def value(settings: Settings, name: str) -> Value:
    """The value of the setting `name`."""
    find(name)
    section, key = name.split(".")
    return cast(Value, getattr(getattr(settings, section), key))


def parse(name: str, raw: object) -> Value:
    """A value for the setting `name`, from TOML or from text.

    Raises:
        BadSetting: unknown setting, or a value that is none for it; says what would be one.
    """
    setting = find(name)
    if setting.kind in ("number", "whole"):
        return _parse_number(setting, raw)
    if setting.kind == "texts":
        return _parse_texts(setting, raw)
    if not isinstance(raw, str):
        raise BadSetting(f"{name}: {raw!r} is not text")
    if name == "gate.hours":
        parse_hours(raw)
    return raw


def build(values: Mapping[str, object]) -> Settings:
    """The settings with `values` (dotted names) in the place of defaults; each is checked."""
    parts: dict[str, dict[str, Value]] = {section: {} for section in _SECTIONS}
    for name, raw in values.items():
        parsed = parse(name, raw)
        section, key = name.split(".")
        parts[section][key] = parsed
    built = {section: kind(**parts[section]) for section, kind in _SECTIONS.items()}
    settings = Settings(**built)
    _check_pair(settings.gate)
    return settings


def parse_hours(text: str) -> tuple[tuple[int, int], ...]:
    """`22:00-06:30,12:00-14:00` as (first minute, end minute) of the day; an end may be smaller.

    Raises:
        BadSetting: not of this form.
    """
    spans = []
    for part in filter(None, (p.strip() for p in text.split(","))):
        ends = part.split("-")
        if len(ends) != 2:
            raise BadSetting(f"gate.hours: {part!r} is not like 22:00-06:30")
        spans.append((_minute(ends[0], part), _minute(ends[1], part)))
    return tuple(spans)


def _minute(text: str, part: str) -> int:
    hour, _, minute = text.strip().partition(":")
    if not (hour.isdigit() and (minute or "0").isdigit()):
        raise BadSetting(f"gate.hours: {part!r} is not like 22:00-06:30")
    total = int(hour) * 60 + int(minute or "0")
    if total > 24 * 60 or int(minute or "0") > 59:
        raise BadSetting(f"gate.hours: {text.strip()!r} is no time of the day")
    return total % (24 * 60)


def _setting(section: str, one: Field[object]) -> Setting:
    facts = one.metadata
    return Setting(
        name=f"{section}.{one.name}",
        kind=facts["kind"],
        default=cast(Value, one.default),
        unit=facts.get("unit", ""),
        low=facts.get("low"),
        high=facts.get("high"),
        or_none=facts.get("or_none", False),
        help=facts["help"],
    )


def _parse_number(setting: Setting, raw: object) -> Value:
    if setting.or_none and (raw is None or str(raw).strip().lower() == _NONE):
        return None
    try:
        number = float("nan") if isinstance(raw, bool) else float(str(raw))
    except ValueError:
        number = float("nan")
    low, high = setting.low, setting.high
    if low is None or high is None or not low <= number <= high:
        none = ", or none" if setting.or_none else ""
        raise BadSetting(
            f"{setting.name}: {raw!r} is not a number from {low:g} to {high:g} {setting.unit}{none}"
        )
    if setting.kind == "number":
        return number
    if number != int(number):
        raise BadSetting(f"{setting.name}: {raw!r} is not a whole number")
    return int(number)


def _parse_texts(setting: Setting, raw: object) -> tuple[str, ...]:
    if isinstance(raw, str):
        return tuple(filter(None, (part.strip() for part in raw.split(","))))
    if isinstance(raw, (list, tuple)) and all(isinstance(part, str) for part in raw):
        return tuple(raw)
    raise BadSetting(f"{setting.name}: {raw!r} is not a list of texts")


def _check_pair(gate: Gate) -> None:
    stop = gate.temperature
    if stop is not None and gate.temperature_resume >= stop:
        raise BadSetting(
            f"gate.temperature_resume ({gate.temperature_resume:g}) must be below "
            f"gate.temperature ({stop:g}); set both"
        )
