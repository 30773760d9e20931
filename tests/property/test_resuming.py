"""Interrupted at any step and continued in a fresh session, a unit gives the same bytes."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import models
from tests.support.models import Sample
from workunits import arrays, execution
from workunits.arrays import Array, Arrays
from workunits.execution import CPU, Loaded

SAMPLES: Final[dict[str, Sample]] = {
    "mlp": models.mlp(features=67),
    "conv": models.conv(),
    "mean": models.mean(),
    "shared": models.shared(),
    "integers": models.integers(),
    "fixed_batch": models.fixed_batch(),
    "not a number": models.logarithm(),
}
NAMES = st.sampled_from(sorted(SAMPLES))


@st.composite
def cases(draw: st.DrawFn) -> tuple[Sample, int, int, Arrays]:
    sample = SAMPLES[draw(NAMES)]
    rows = draw(st.integers(1, 23))
    rows_per_step = sample.batch_rows or draw(st.integers(1, 9))
    return sample, rows, rows_per_step, sample.draw(rows, seed=draw(st.integers(0, 9)))


@cache
def folder() -> TemporaryDirectory[str]:
    return TemporaryDirectory()


def fresh(sample: Sample, rows_per_step: int) -> Loaded:
    path = sample.write(Path(folder().name) / "model.onnx")
    return Loaded.open(path, sample.program(rows_per_step), provider=CPU)


def as_bytes(parts: list[Arrays]) -> dict[str, bytes]:
    return {name: b"".join(part[name].tobytes() for part in parts) for name in parts[0]}


@settings(max_examples=150, deadline=None)
@given(cases(), st.data())
def test_continued_is_the_same_as_never_interrupted(
    case: tuple[Sample, int, int, Arrays], data: st.DataObject
) -> None:
    sample, rows, rows_per_step, inputs = case
    whole = list(fresh(sample, rows_per_step).steps(inputs, rows))
    stop = data.draw(st.integers(0, len(whole)), label="interrupted after")

    before = fresh(sample, rows_per_step).steps(inputs, rows)
    parts = [next(before)[1] for _ in range(stop)]
    elsewhere = {name: moved(array, data) for name, array in inputs.items()}
    parts += [part for _, part in fresh(sample, rows_per_step).steps(elsewhere, rows, stop)]

    assert as_bytes(parts) == as_bytes([part for _, part in whole])
    assert {n: len(a) for n, a in join(parts).items()} == dict.fromkeys(join(parts), rows)


@settings(max_examples=60, deadline=None)
@given(cases(), st.data())
def test_the_same_session_gives_the_same_bytes_in_any_order(
    case: tuple[Sample, int, int, Arrays], data: st.DataObject
) -> None:
    sample, rows, rows_per_step, inputs = case
    loaded = fresh(sample, rows_per_step)
    whole = list(loaded.steps(inputs, rows))
    for number in data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=4)):
        again = next(loaded.steps(inputs, rows, number))
        assert again[0] == whole[number][0]
        assert as_bytes([again[1]]) == as_bytes([whole[number][1]])


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_run_is_all_steps_joined_and_travels(name: str) -> None:
    sample = SAMPLES[name]
    loaded = fresh(sample, 4)
    inputs = sample.draw(11)
    together = execution.run(loaded, inputs, 11)
    assert as_bytes([together]) == as_bytes([part for _, part in loaded.steps(inputs, 11)])
    raw = arrays.to_payload(together)
    back = arrays.from_payload(raw, sample.outputs, 11, most=len(raw))
    assert as_bytes([{n: back[n] for n in together}]) == as_bytes([together])


def join(parts: list[Arrays]) -> Arrays:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def moved(array: Array, data: st.DataObject) -> Array:
    """The same numbers at another alignment in memory, as after a restart."""
    offset = data.draw(st.integers(0, 15), label="offset") * array.dtype.itemsize
    room = np.empty(array.nbytes + offset, np.uint8)
    copy = room[offset:].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy
