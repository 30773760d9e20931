"""The style sheet's colours can be read in both themes (WCAG 2.2: text 4.5 to 1)."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

SHEET = files("server.http").joinpath("static", "style.css").read_text()
LIGHT, DARK = re.findall(r":root \{(.*?)\}", SHEET, re.DOTALL)[:2]


def tokens(block: str) -> dict[str, str]:
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block))


def luminance(colour: str) -> float:
    """WCAG's relative luminance."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize(
    "theme", [tokens(LIGHT), tokens(LIGHT) | tokens(DARK)], ids=["light", "dark"]
)
@pytest.mark.parametrize("text", ["ink", "ink-2", "ink-3", "accent", "accent-hover"])
@pytest.mark.parametrize("ground", ["bg", "surface", "sunken"])
def test_text_can_be_read(theme: dict[str, str], text: str, ground: str) -> None:
    assert contrast(theme[text], theme[ground]) >= 4.5


@pytest.mark.parametrize(
    "theme", [tokens(LIGHT), tokens(LIGHT) | tokens(DARK)], ids=["light", "dark"]
)
def test_controls_and_the_masthead_can_be_seen(theme: dict[str, str]) -> None:
    assert contrast(theme["line-2"], theme["surface"]) >= 3
    assert contrast(theme["on-accent"], theme["accent"]) >= 4.5
    for sky in ("sky-1", "sky-2"):
        assert contrast("#d3daef", theme[sky]) >= 4.5


def test_both_themes_set_the_same_colours() -> None:
    assert set(tokens(LIGHT)) - set(tokens(DARK)) == {"sky-1", "sky-2"}
