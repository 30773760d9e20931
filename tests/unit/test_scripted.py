"""Scripted vehicles: the file read strictly, and what it says at each moment."""

from __future__ import annotations

import queue
from pathlib import Path

import pytest

from tesla_at_home.adapters.vehicle.combined import CombinedSources
from tesla_at_home.adapters.vehicle.script import HOME, Playback, Spoken, parse
from tesla_at_home.adapters.vehicle.scripted import ScriptedVehicle, read_script
from tesla_at_home.errors import BadScript
from tesla_at_home.policy.signals import PUSHED_MAX_AGE_S, SIGNALS, Belief, Heard, Readings, Signal
from tests.support.still_clock import StillClock

LEAVES = """
calm_s = 0.5
[start]
parked = true
charge_percent = 80
[[change]]
after_steps = 3
parked = false
[[change]]
after_s = 5
parked = true
[[change]]
at_s = 20
parked = "unknown"
"""


def _play(text: str) -> Playback:
    return Playback(parse(text, "car.toml"))


def _parked(said: list[Spoken]) -> list[object]:
    return [spoken.values["parked"] for spoken in said]


def _believed(*heard: Heard, signal: Signal = "parked", now_s: float = 0.0) -> Belief:
    readings = Readings()
    for each in heard:
        readings = readings.heard(each)
    return readings.believe(signal, now_s)


def test_home_is_ready_at_once() -> None:
    assert set(HOME.start) == set(SIGNALS)
    assert HOME.calm_s == 0.0
    assert Playback(HOME).next_s() is None


def test_changes_come_in_order_each_after_the_one_before() -> None:
    play = _play(LEAVES)
    assert play.begin().values == {"parked": True, "charge_percent": 80.0}
    assert play.advance(100.0, 2, 0) == []
    assert _parked(play.advance(1.0, 3, 0)) == [False]
    assert play.next_s() == 6.0
    assert play.advance(5.9, 9, 0) == []
    assert _parked(play.advance(6.0, 9, 0)) == [True]
    assert play.next_s() == 20.0
    assert _parked(play.advance(30.0, 9, 0)) == [None]
    assert play.next_s() is None


def test_counts_are_since_the_change_before() -> None:
    change = "[[change]]\nafter_units = 2\nparked = {}\n"
    play = _play("[start]\nparked = true\n" + change.format("false") + change.format("true"))
    assert _parked(play.advance(1.0, 0, 5)) == [False]
    assert play.advance(2.0, 0, 6) == []
    assert _parked(play.advance(2.0, 0, 7)) == [True]


def test_a_jump_in_time_leaves_no_change_out() -> None:
    play = _play('[[change]]\nat_s = 1\nparked = true\n[[change]]\nat_s = 2\nparked = "unknown"')
    assert _parked(play.advance(50.0, 0, 0)) == [True, None]


def test_a_script_starts_over() -> None:
    play = _play("repeat_s = 10\n[start]\nparked = true\n[[change]]\nat_s = 4\nparked = false\n")
    assert _parked(play.advance(25.0, 0, 0)) == [False, True, False, True, False]
    assert play.next_s() == 30.0


def test_what_a_round_added_is_unknown_in_the_next() -> None:
    play = _play("repeat_s = 10\n[start]\nparked = true\n[[change]]\nat_s = 4\nin_use = true\n")
    assert [s.values["in_use"] for s in play.advance(10.0, 0, 0)] == [True, None]


def test_a_conflict_makes_unknown_until_the_signal_changes() -> None:
    play = _play(
        "[start]\nparked = true\n[[change]]\nat_s = 1\nparked = true\nconflict = true\n"
        "[[change]]\nat_s = 2\nparked = true\n"
    )
    (disputed,) = play.advance(1.0, 0, 0)
    belief = _believed(disputed.heard("car", 0.0))
    assert belief.value is None
    assert belief.why_unknown == "car and car (second) disagree"
    (settled,) = play.advance(2.0, 0, 0)
    assert _believed(disputed.heard("car", 0.0), settled.heard("car", 0.0)).value is True


def test_a_conflict_that_names_no_signal_is_about_all_of_them() -> None:
    play = _play(
        "[start]\nparked = true\ntemperature_c = 40\n[[change]]\nat_s = 1\nconflict = true\n"
    )
    (said,) = play.advance(1.0, 0, 0)
    heard = said.heard("car", 0.0)
    asked: tuple[Signal, ...] = ("parked", "temperature_c")
    for signal in asked:
        assert _believed(heard, signal=signal).value is None


def test_a_silent_source_ages_and_a_speaking_one_does_not() -> None:
    play = _play(
        "[start]\nparked = true\n[[change]]\nat_s = 1\nsilent = true\n"
        "[[change]]\nat_s = 99\nplugged_in = true\n"
    )
    spoken = play.begin().heard("car", 0.0)
    assert _believed(spoken, now_s=10**6).value is True
    silent = play.advance(1.0, 0, 0)[0].heard("car", 1.0)
    assert _believed(spoken, silent, now_s=2.0).value is True
    later_s = 1.0 + PUSHED_MAX_AGE_S
    belief = _believed(spoken, silent, now_s=later_s)
    assert belief.why_unknown == "car has been silent about it"
    again = play.advance(99.0, 0, 0)[0].heard("car", 99.0)
    assert _believed(spoken, silent, again, now_s=10**6).value is True


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[start]\nparkd = true", "car.toml: [start]: unknown key 'parkd'; did you mean parked?"),
        ("[strat]\n", "car.toml: unknown key 'strat'; did you mean start?"),
        ("[[change]]\nat_s = 1\nsilnt = true", "car.toml: [[change]] 1: unknown key 'silnt'; did you mean silent?"),
        ("[start]\nzzz = 1", "there are: parked, plugged_in"),
        ("[start]\nparked = 1", "parked is true, false or"),
        ("[start]\nparked = 'yes'", "parked is true, false or"),
        ("[start]\ncharge_percent = true", "charge_percent is a number"),
        ("[start]\ntemperature_c = nan", "temperature_c is a number"),
        ("[[change]]\nparked = true", "exactly one of at_s, after_s, after_steps, after_units"),
        ("[[change]]\nat_s = 1\nafter_s = 2", "exactly one of"),
        ("[[change]]\nat_s = -1", "at_s is a number of seconds from 0"),
        ("[[change]]\nat_s = inf", "at_s is a number of seconds from 0"),
        ("[[change]]\nafter_steps = 1.5", "after_steps is a whole number"),
        ("[[change]]\nafter_steps = true", "after_steps is a whole number"),
        ("[[change]]\nat_s = 1\nconflict = 1", "conflict is true or false"),
        ("[change]\nat_s = 1", "write each change as [[change]]"),
        ("change = [1]", "[[change]] 1: is a table of signals"),
        ("start = 1", "[start]: is a table of signals"),
        ("repeat_s = 0", "repeat_s must be at least"),
        ("calm_s = 'long'", "calm_s is a number of seconds"),
        ("parked =", "not TOML"),
    ],
)  # fmt: skip
def test_a_bad_script_is_one_line_that_says_where(text: str, line: str) -> None:
    with pytest.raises(BadScript) as caught:
        parse(text, "car.toml")
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("raw", [None, b"\xff\xfe"])
def test_a_file_that_cannot_be_read(raw: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "car.toml"
    if raw is not None:
        path.write_bytes(raw)
    with pytest.raises(BadScript, match=r"car\.toml"):
        read_script(path)


def test_the_source_posts_the_start_and_then_each_change() -> None:
    posted: queue.Queue[Heard] = queue.Queue()
    source = ScriptedVehicle(parse(LEAVES, "car.toml"), StillClock(), "scripted:car.toml")
    assert source.calm_s == 0.5
    source.start(posted.put)
    try:
        assert {r.value for r in posted.get(timeout=5).readings} == {True, 80.0}
        source.count(3, 0)
        assert False in {r.value for r in posted.get(timeout=5).readings}
    finally:
        source.stop()
    assert posted.empty()


def test_the_source_wakes_for_a_time_by_itself() -> None:
    posted: queue.Queue[Heard] = queue.Queue()
    script = parse("[start]\nparked = true\n[[change]]\nat_s = 0\nparked = false\n", "car.toml")
    source = ScriptedVehicle(script, StillClock(), "car")
    source.start(posted.put)
    try:
        assert [posted.get(timeout=5).readings[0].value for _ in range(2)] == [True, False]
    finally:
        source.stop()


def test_stopping_before_starting_is_allowed() -> None:
    ScriptedVehicle(HOME, StillClock(), "car").stop()


def test_combined_sources_speak_side_by_side() -> None:
    one = ScriptedVehicle(parse("calm_s = 1\n[start]\nparked = true", "a"), StillClock(), "a")
    two = ScriptedVehicle(parse("calm_s = 2\n[start]\nparked = false", "b"), StillClock(), "b")
    both = CombinedSources((one, two))
    posted: list[Heard] = []
    both.start(posted.append)
    both.count(1, 1)
    both.stop()
    assert both.calm_s == 2
    belief = _believed(*posted, now_s=StillClock().at_s)
    assert belief.why_unknown == "a and b disagree"


def test_the_owners_calm_holds_unless_every_source_sets_its_own() -> None:
    scripted = ScriptedVehicle(HOME, StillClock(), "a")
    unhurried = ScriptedVehicle(parse("", "b"), StillClock(), "b")
    assert CombinedSources(()).calm_s is None
    assert CombinedSources((scripted,)).calm_s == 0.0
    assert CombinedSources((scripted, unhurried)).calm_s is None
