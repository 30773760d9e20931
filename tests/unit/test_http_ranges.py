"""Which bytes a Range header asks for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.http.ranges import Slice, Unsatisfiable, asked_for


@pytest.mark.parametrize(
    ("header", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-", 0, 10),
        ("bytes=3-5", 3, 6),
        ("bytes=3-99", 3, 10),
        ("bytes=9-9", 9, 10),
        ("bytes=-4", 6, 10),
        ("bytes=-99", 0, 10),
    ],
)
def test_a_range_is_cut_to_what_is_there(header: str, start: int, end: int) -> None:
    assert asked_for(header, 10) == Slice(start, end, 10)


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=10-20", "bytes=-0", "bytes=99-"])
def test_a_range_past_the_end_cannot_be_satisfied(header: str) -> None:
    with pytest.raises(Unsatisfiable) as refused:
        asked_for(header, 10)
    assert refused.value.size == 10


@pytest.mark.parametrize(
    "header",
    [None, "", "bytes=", "bytes=-", "bytes=5-3", "bytes=0-1,3-4", "lines=0-1", "bytes=a-b", "٣"],
)
def test_what_is_no_single_range_gives_the_whole(header: str | None) -> None:
    assert asked_for(header, 10) is None


def test_an_empty_thing_has_no_ranges() -> None:
    with pytest.raises(Unsatisfiable):
        asked_for("bytes=0-", 0)


@given(st.text(max_size=40) | st.from_regex(r"bytes=\d*-\d*", fullmatch=True), st.integers(0, 999))
def test_whatever_is_asked_the_slice_lies_inside(header: str, size: int) -> None:
    try:
        part = asked_for(header, size)
    except Unsatisfiable:
        return
    assert part is None or 0 <= part.start < part.end <= size
