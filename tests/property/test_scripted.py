"""Whatever a script says, however time is cut: the same is said in the same order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tesla_at_home.adapters.vehicle.script import Change, Playback, Script, Spoken, parse
from tesla_at_home.errors import BadScript

TRUTHS = st.sampled_from([True, False, None])
VALUES = st.dictionaries(st.sampled_from(["parked", "in_use", "home_wifi"]), TRUTHS, max_size=2)
TIMED = st.builds(
    Change,
    due=st.sampled_from(["at_s", "after_s"]),
    amount=st.integers(0, 20).map(float),
    values=VALUES,
    is_conflict=st.booleans(),
    is_silent=st.booleans(),
)
SCRIPTS = st.builds(
    Script,
    start=VALUES,
    changes=st.lists(TIMED, max_size=6).map(tuple),
    repeat_s=st.none() | st.integers(5, 40).map(float),
)


def _all(play: Playback, times: list[float]) -> list[Spoken]:
    return [spoken for at_s in times for spoken in play.advance(at_s, 0, 0)]


@given(SCRIPTS, st.lists(st.integers(0, 100).map(float), max_size=20))
def test_how_often_it_is_asked_changes_nothing(script: Script, cuts: list[float]) -> None:
    at_once = Playback(script).advance(100.0, 0, 0)
    assert _all(Playback(script), [*sorted(cuts), 100.0]) == at_once


@given(SCRIPTS)
def test_it_wakes_exactly_when_something_happens(script: Script) -> None:
    play = Playback(script)
    said: list[Spoken] = []
    while (next_s := play.next_s()) is not None and next_s <= 100.0:
        found = play.advance(next_s, 0, 0)
        assert found
        said += found
    assert said == Playback(script).advance(100.0, 0, 0)


@given(st.text(max_size=200))
def test_any_text_is_a_script_or_one_line(text: str) -> None:
    said = "car.toml"
    try:
        parse(text, "car.toml")
    except BadScript as error:
        said = str(error)
    assert said.startswith("car.toml")
