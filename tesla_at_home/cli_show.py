"""`status`, `why`, `history`, `leaderboard`: what the owner reads. Reads the database, changes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import click

from tesla_at_home.cli_shell import (
    counted,
    credit,
    directory_of,
    json_option,
    length,
    moment,
    plain,
    print_facts,
    print_json,
    print_table,
    say,
)
from tesla_at_home.errors import Unreachable

if TYPE_CHECKING:
    from tesla_at_home.agent.view import UnitView, View
    from tesla_at_home.policy.gates import Condition, GateView

_LINES: Final = 50
# News for a week; the history keeps it.
_REPAIR_SHOWN_MS: Final = 7 * 86_400_000
# What opens a condition that is not met, by its name.
_REMEDIES: Final = {
    "consent": "agree to the project's terms: leave and join again",
    "paused": "`tesla-at-home resume`",
    "parked": "park the car",
    "plugged_in": "plug the car in",
    "home_wifi": "be on your home network; `tesla-at-home network trust-current` makes this one it",
    "metered": "a connection that is not paid by the byte",
    "in_use": "leave the car alone for a while",
    "charge": "charge the car, or `tesla-at-home config set gate.charge_floor ...`",
    "temperature": "time to cool; without a thermometer `tesla-at-home config set temperature none`",
    "hours": "wait for your hours, or `tesla-at-home config set gate.hours ...`",
    "clock": "if this computer's clock is wrong, `sudo timedatectl set-ntp true`",
    "budget": "wait for tomorrow, or raise the limit with `tesla-at-home config set limits...`",
}
# What must be true, in words that a yes or no answers.
_CLAIMS: Final = {
    "consent": "consent given",
    "paused": "not paused",
    "home_wifi": "home network",
    "metered": "not metered",
    "in_use": "not in use",
    "charge": "charged enough",
    "temperature": "cool enough",
    "hours": "within hours",
    "clock": "clock right",
    "budget": "budget left",
}
_STATES: Final = {"yes": "yes", "no": "no", "unknown": "unknown", "not_applicable": "not needed"}
_UNIT_STATES: Final = {
    "leased": "being checked",
    "fetching": "being fetched",
    "ready": "waiting",
    "computing": "computing",
    "stopped": "stopped",
    "computed": "to be sent",
    "uploading": "being sent",
    "to_report": "to be reported",
    "quarantined": "refused",
}


@dataclass(frozen=True, slots=True)
class Seen:
    """The agent as it is kept on disk, and the moment of looking."""

    view: View
    has_consent: bool
    now_ms: int


@dataclass(frozen=True, slots=True)
class Standing:
    """One line of the leaderboard."""

    rank: int
    name: str
    credit_kflop: int


@dataclass(frozen=True, slots=True)
class Board:
    """One page of the leaderboard."""

    period: str
    page: int
    has_more: bool
    standings: tuple[Standing, ...]


@click.command()
@json_option
@click.pass_context
def status(context: click.Context, as_json: bool) -> None:
    """What this vehicle is doing.

    Credit counts accepted work: 1 is 432 thousand million calculations; µ stands for millionths, m
    for thousandths, k for thousands, M for millions.
    """
    seen = _look(context)
    if as_json:
        print_json(_object(seen.view))
        return
    print_facts(_facts(seen))
    if seen.view.units:
        say()
        columns = ("unit", "model", "state", "#steps", "#rows", "due")
        print_table(columns, (_unit_row(unit, seen.now_ms) for unit in seen.view.units))
    _say_refused(seen.view)


@click.command()
@json_option
@click.pass_context
def why(context: click.Context, as_json: bool) -> None:
    """Why this vehicle computes now, or does not."""
    seen = _look(context)
    view, remedies = seen.view, _remedies(seen)
    if as_json:
        print_json(
            {
                "sentence": _sentence(seen),
                "gate": plain(view.gate),
                "opens": remedies,
                "refused": plain(view.quarantined),
                "is_running": view.is_running,
                "fault": view.fault,
                "notice": view.notice,
                "repaired": plain(view.repaired),
            }
        )
        return
    say(_sentence(seen))
    if view.gate is not None and view.gate.conditions:
        say("" if view.is_running else "\nThe gate as it was when it last ran:")
        columns = ("condition", "", "", "since", "until")
        print_table(columns, (_condition_row(c, seen) for c in view.gate.conditions))
    if remedies:
        say("\nWhat would open it:")
        for remedy in remedies:
            say(f"  {remedy}")
    for name, line in (
        ("The project says", view.notice),
        ("Last fault", view.fault),
        ("Repaired", _repair(seen)),
    ):
        if line:
            say(f"\n{name}: {line}")
    _say_refused(view)


@click.command()
@click.option("--lines", default=_LINES, show_default=True, type=click.IntRange(1, 100_000))
@json_option
@click.pass_context
def history(context: click.Context, lines: int, as_json: bool) -> None:
    """What happened here, the newest last."""
    from tesla_at_home.adapters.clock import SystemClock
    from tesla_at_home.adapters.store import Store

    with Store.open(directory_of(context), is_writer=False) as store:
        entries = store.history(lines)
    if as_json:
        print_json([_object(entry) for entry in entries])
        return
    now_ms = SystemClock().now_ms()
    print_table(
        ("when", "what", "unit"),
        (
            (moment(each.at_ms, now_ms), each.text, each.lease.hex()[:8] if each.lease else "")
            for each in entries
        ),
    )


@click.command()
@click.option("--period", type=click.Choice(["30d", "all"]), default="30d", show_default=True)
@click.option("--page", type=click.IntRange(1), default=1, show_default=True)
@json_option
@click.pass_context
def leaderboard(context: click.Context, period: str, page: int, as_json: bool) -> None:
    """Who has given most.

    Credit counts accepted work: 1 is 432 thousand million calculations; µ stands for millionths, m
    for thousandths, k for thousands, M for millions.
    """
    from tesla_at_home.adapters import enrolment, joining

    member = joining.expect_membership(directory_of(context))
    path = f"/v1/leaderboard?period={period}&page={page}"
    board = _read_board(enrolment.connect(member.url).page(path))
    if as_json:
        print_json(_object(board))
        return
    if not board.standings:
        say("Nobody is on this page. Owners are listed who joined with --public and have credit.")
        return
    print_table(
        ("#", "owner", "#credit"),
        ((str(each.rank), each.name, credit(each.credit_kflop)) for each in board.standings),
    )
    if board.has_more:
        say(f"More: `tesla-at-home leaderboard --period {period} --page {page + 1}`")


def _read_board(raw: bytes) -> Board:
    import msgspec

    try:
        return msgspec.json.decode(raw, type=Board)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Unreachable("the project's leaderboard is not readable") from None


def _look(context: click.Context) -> Seen:
    from tesla_at_home import app
    from tesla_at_home.adapters import joining
    from tesla_at_home.adapters.clock import SystemClock

    directory = directory_of(context)
    has_consent = joining.has_consent(directory)
    return Seen(app.view(directory), has_consent, SystemClock().now_ms())


def _facts(seen: Seen) -> list[tuple[str, str]]:
    view, totals = seen.view, seen.view.totals
    running = "running" if view.is_running else "not running"
    if view.is_paused(seen.now_ms):
        running += f"; {_pause(seen)}"
    given = (
        f"{counted(totals.units_reported, 'unit')} reported, {totals.units_valid} valid, "
        f"{totals.units_invalid} invalid; credit {credit(totals.kflop)}"
    )
    return [
        ("project", view.url),
        ("owner", view.owner_name),
        ("vehicle", view.vehicle_name),
        ("agent", running + ("; takes no new work" if view.is_finishing else "")),
        ("now", _sentence(seen)),
        ("held", counted(len(view.units), "unit")),
        ("given", given),
        ("contact", _contact(seen)),
        ("notice", view.notice or ""),
        ("fault", view.fault or ""),
        ("repaired", _repair(seen) or ""),
    ]


def _contact(seen: Seen) -> str:
    view, last = seen.view, "none yet"
    if view.last_contact_ms is not None:
        last = f"{length((seen.now_ms - view.last_contact_ms) / 1000)} ago"
    if view.next_contact_ms is None or not view.is_running:
        return last
    wait_s = (view.next_contact_ms - seen.now_ms) / 1000
    return f"{last}, next {f'in {length(wait_s)}' if wait_s > 0 else 'when the network is free'}"


def _sentence(seen: Seen) -> str:
    """One true sentence about now."""
    view = seen.view
    if not seen.has_consent:
        return (
            "Nothing is computed: you have ended your consent. The project does not know yet: "
            "run `tesla-at-home leave` again."
        )
    if not view.is_running:
        paused = f", and it is {_pause(seen)}" if view.is_paused(seen.now_ms) else ""
        return f"Nothing is computed: `tesla-at-home run` is not running{paused}."
    if view.is_paused(seen.now_ms):
        return f"Nothing is computed: {_pause(seen)}."
    if view.gate is None:
        return "Nothing is computed yet: `tesla-at-home run` has just begun."
    if not view.gate.is_open:
        return f"Nothing is computed: {view.gate.sentence}{_until(view.gate, seen.now_ms)}."
    return _open_sentence(view)


def _pause(seen: Seen) -> str:
    """The owner's pause as the books have it: the agent's gate may not have heard of it yet."""
    from tesla_at_home.policy.gates import FOR_EVER

    until_ms = seen.view.paused_until_ms
    if until_ms is None or until_ms >= FOR_EVER:
        return "paused by you until `tesla-at-home resume`"
    return f"paused by you until {moment(until_ms, seen.now_ms)}"


def _open_sentence(view: View) -> str:
    busy = [unit for unit in view.units if unit.state == "computing"]
    if busy:
        unit = busy[0]
        done = f"step {unit.steps_done} of {unit.steps}"
        return f"Computing unit {unit.index} of {unit.model_name}, {done}."
    if view.units:
        return "The gate is open; the units held are being fetched, sent or waiting."
    if view.is_finishing:
        return "The gate is open, but no new work is taken (`tesla-at-home finish`)."
    if view.notice:
        return f"The gate is open, but there is no work. The project says: {view.notice}"
    return "The gate is open; there is no work here yet."


def _until(gate: GateView, now_ms: int) -> str:
    if gate.until_ms is None:
        return f" (since {moment(gate.since_ms, now_ms)})"
    return f" (until {moment(gate.until_ms, now_ms)})"


def _remedies(seen: Seen) -> list[str]:
    view = seen.view
    if not seen.has_consent:
        return ["`tesla-at-home leave` tells the project; after it you may join again"]
    if not view.is_running:
        resume = [_REMEDIES["paused"]] if view.is_paused(seen.now_ms) else []
        return ["`tesla-at-home run`", *resume]
    if view.gate is None or (view.gate.is_open and not view.is_paused(seen.now_ms)):
        return []
    failing = [each.name for each in view.gate.conditions if not each.is_met]
    if view.is_paused(seen.now_ms) and "paused" not in failing:
        failing.insert(0, "paused")
    return [_REMEDIES.get(name, name) for name in failing] or ["time: nothing else is missing"]


def _repair(seen: Seen) -> str | None:
    entry = seen.view.repaired
    if entry is None or seen.now_ms - entry.at_ms > _REPAIR_SHOWN_MS:
        return None
    return f"{moment(entry.at_ms, seen.now_ms)}, {entry.text}"


def _say_refused(view: View) -> None:
    for each in view.quarantined:
        unit = each.lease.hex()[:8]
        say(f"\nUnit {unit} was refused three times and is kept ({each.code}): {each.detail}")


def _condition_row(condition: Condition, seen: Seen) -> tuple[str, ...]:
    now_ms = seen.now_ms
    if condition.name == "paused" and condition.is_met and seen.view.is_paused(now_ms):
        return _CLAIMS["paused"], _STATES["no"], _pause(seen), "", ""
    until = "" if condition.until_ms is None else moment(condition.until_ms, now_ms)
    name = _CLAIMS.get(condition.name, condition.name.replace("_", " "))
    since = moment(condition.since_ms, now_ms)
    return name, _STATES[condition.state], condition.sentence, since, until


def _unit_row(unit: UnitView, now_ms: int) -> tuple[str, ...]:
    steps = f"{unit.steps_done}/{unit.steps}"
    state = _UNIT_STATES.get(unit.state, unit.state)
    due = moment(unit.deadline_ms, now_ms)
    return unit.lease.hex()[:8], unit.model_name, state, steps, str(unit.rows), due


def _object(value: object) -> dict[str, object]:
    found = plain(value)
    assert isinstance(found, dict)
    return found
