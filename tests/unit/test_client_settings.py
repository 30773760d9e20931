"""Settings: every one has bounds and a reason, and nothing out of bounds is taken."""

from __future__ import annotations

import pytest

from tesla_at_home import settings
from tesla_at_home.errors import BadSetting


def test_every_setting_says_why_and_takes_its_own_default() -> None:
    names = [setting.name for setting in settings.every()]
    assert len(names) == len(set(names))
    for setting in settings.every():
        assert len(setting.help) > 10
        assert settings.parse(setting.name, setting.default) == setting.default
    assert settings.build({}) == settings.Settings()


def test_a_value_as_text_or_as_toml() -> None:
    built = settings.build({"limits.duty": "12.5", "work.units": 3, "gate.temperature": "none"})
    assert (built.limits.duty, built.work.units, built.gate.temperature) == (12.5, 3, None)
    assert settings.value(built, "limits.duty") == 12.5
    assert settings.parse("vehicle.sources", " a, b ,") == ("a", "b")
    assert settings.parse("vehicle.sources", ["a", "b"]) == ("a", "b")
    assert settings.parse("gate.hours", "22:00-06:30") == "22:00-06:30"


@pytest.mark.parametrize(
    ("name", "raw", "part"),
    [
        ("limits.dutty", 1, "there are: limits.duty"),
        ("nonsense", 1, "limits, gate, network"),
        ("limits.duty", 0.01, "from 0.05 to 100"),
        ("limits.duty", 101, "from 0.05 to 100"),
        ("limits.duty", "much", "is not a number"),
        ("limits.duty", True, "is not a number"),
        ("limits.duty", float("nan"), "is not a number"),
        ("limits.duty", "none", "is not a number"),
        ("gate.temperature", 1, "or none"),
        ("work.units", 1.5, "not a whole number"),
        ("vehicle.sources", 5, "not a list of texts"),
        ("vehicle.sources", [5], "not a list of texts"),
        ("gate.hours", 5, "is not text"),
        ("gate.hours", "22:00", "not like 22:00-06:30"),
        ("gate.hours", "a-b", "not like 22:00-06:30"),
        ("gate.hours", "25:00-26:00", "no time of the day"),
        ("gate.hours", "1:60-2:00", "no time of the day"),
    ],
)
def test_what_is_refused_says_what_would_do(name: str, raw: object, part: str) -> None:
    with pytest.raises(BadSetting, match=r"^[^\n]+$") as caught:
        settings.build({name: raw})
    assert part in str(caught.value)


def test_the_temperature_pair_must_fit() -> None:
    with pytest.raises(BadSetting, match="set both"):
        settings.build({"gate.temperature": 70})
    settings.build({"gate.temperature": 70, "gate.temperature_resume": 60})


def test_hours() -> None:
    assert settings.parse_hours("") == ()
    assert settings.parse_hours("22:00-6:30, 12-14:15") == ((1320, 390), (720, 855))
    assert settings.parse_hours("0:00-24:00") == ((0, 0),)
