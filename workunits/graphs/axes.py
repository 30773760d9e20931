"""Along which axes an operator works, and whether that brings rows together.

A row must be computed alike whatever stands beside it in the step. What can be told from shapes is
told here: an operator that reduces, sorts, normalises, selects or multiplies along an axis whose
length follows the number of rows; a Reshape that takes rows apart; a result with the rows on two
axes. Not told: positions computed inside the graph (GatherND, Scatter) and values derived from the
number of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import prod
from typing import Final

from workunits.errors import GraphRefused
from workunits.graphs.calls import Call, Tensor
from workunits.graphs.flops import einsum_terms, fourier_axis
from workunits.graphs.refusal import refused

# The axes worked along, as (input, axis).
Along = Callable[[Call], Iterable[tuple[int, int]]]

_EACH_ROW: Final = "let each row be computed from itself alone"


def nothing(call: Call) -> Iterable[tuple[int, int]]:
    """Element by element, or a move that keeps rows whole."""
    return ()


def attribute(default: int, before_13: int | None = None) -> Along:
    """One axis, from the attribute `axis`; Softmax before opset 13 flattens from its axis on."""

    def along(call: Call) -> Iterable[tuple[int, int]]:
        rank = len(call.first.shape)
        if before_13 is not None and call.opset < 13:
            return _of(0, range(_axis(call.integer("axis", before_13), rank), rank))
        return _of(0, [_axis(call.integer("axis", default), rank)])

    return along


def axis_input(position: int) -> Along:
    """CumSum, CumProd: the axis is an input."""

    def along(call: Call) -> Iterable[tuple[int, int]]:
        given, rank = call.input(position), len(call.first.shape)
        axes = given.integers() if given else None
        return _of(0, [_axis(a, rank) for a in axes] if axes else range(rank))

    return along


def reduced(call: Call) -> Iterable[tuple[int, int]]:
    """Reduce*: the attribute or input `axes`; without it, all axes or none."""
    rank = len(call.first.shape)
    given = call.input(1)
    axes = call.integers("axes") or (given.integers() if given else ())
    if axes:
        return _of(0, [_axis(axis, rank) for axis in axes])
    is_nothing = axes == () and call.integer("noop_with_empty_axes", 0)
    return _of(0, [] if is_nothing else range(rank))


def from_axis(default: int) -> Along:
    """LayerNormalization: from `axis` to the last."""

    def along(call: Call) -> Iterable[tuple[int, int]]:
        rank = len(call.first.shape)
        return _of(0, range(_axis(call.integer("axis", default), rank), rank))

    return along


def windowed(call: Call) -> Iterable[tuple[int, int]]:
    """Images: every axis but the first; the weights' axes likewise."""
    return _all_but(call, 0)


def stepped(call: Call) -> Iterable[tuple[int, int]]:
    """RNN, GRU, LSTM: time comes first and rows second, unless `layout` is 1."""
    return _all_but(call, 0 if call.integer("layout", 0) else 1)


def _all_but(call: Call, axis: int) -> Iterable[tuple[int, int]]:
    weights = call.input(1)
    own = [a for a in range(len(call.first.shape)) if a != axis]
    return [*_of(0, own), *_of(1, range(len(weights.shape)) if weights else [])]


def attended(call: Call) -> Iterable[tuple[int, int]]:
    """Attention: within a row, so along no first axis."""
    for position, tensor in enumerate(call.inputs[:3]):
        if tensor is not None:
            yield from _of(position, range(1, len(tensor.shape)))


def multiplied(second: int) -> Along:
    """MatMul: the last axis of one side, the last but one of the other."""

    def along(call: Call) -> Iterable[tuple[int, int]]:
        other = call.input(second)
        rank = len(other.shape) if other else 0
        return [(0, len(call.first.shape) - 1), (second, max(0, rank - 2))]

    return along


def general(call: Call) -> Iterable[tuple[int, int]]:
    """Gemm: as MatMul, each side transposed or not."""
    return [(0, 0 if call.integer("transA", 0) else 1), (1, 1 if call.integer("transB", 0) else 0)]


def summed(call: Call) -> Iterable[tuple[int, int]]:
    """Einsum: the indices that the result does not have."""
    terms, result = einsum_terms(call)
    for position, term in enumerate(terms):
        yield from _of(position, [a for a, index in enumerate(term) if index not in result])


def normalised(call: Call) -> Iterable[tuple[int, int]]:
    """BatchNormalization: in training the statistics are those of the rows at hand."""
    is_training = call.integer("training_mode", 0) or len([o for o in call.outputs if o]) > 1
    return _of(0, range(len(call.first.shape)) if is_training else [])


def gathered(call: Call) -> Iterable[tuple[int, int]]:
    """Gather: fixed places along its axis; places that are computed cannot be judged."""
    places = call.input(1)
    is_fixed = places is not None and places.value is not None
    return _of(0, [_axis(call.integer("axis", 0), len(call.first.shape))] if is_fixed else [])


def extracted(call: Call) -> Iterable[tuple[int, int]]:
    """ArrayFeatureExtractor: places along the last axis."""
    return [(0, len(call.first.shape) - 1)]


def cut(call: Call) -> Iterable[tuple[int, int]]:
    """Pad, Resize, Tile: each axis whose length is changed."""
    before, after = call.first.shape, call.result.shape
    pairs = enumerate(zip(before, after, strict=False))
    return _of(0, [axis for axis, (a, b) in pairs if a != b])


def sliced(call: Call) -> Iterable[tuple[int, int]]:
    """Slice: as `cut`; backwards it changes places without changing the length."""
    rank, steps, axes = len(call.first.shape), call.input(4), call.input(3)
    backwards = [place for place, step in enumerate(_values(steps)) if step < 0]
    named = _values(axes) or range(rank)
    return [*cut(call), *_of(0, [_axis(named[place], rank) for place in backwards])]


def _values(tensor: Tensor | None) -> tuple[int, ...]:
    return (tensor.integers() or ()) if tensor else ()


def transformed(call: Call) -> Iterable[tuple[int, int]]:
    """DFT: its axis."""
    return [(0, fourier_axis(call))]


def _axis(axis: int, rank: int) -> int:
    return axis % rank if rank else 0


def _of(position: int, axes: Iterable[int]) -> list[tuple[int, int]]:
    return [(position, axis) for axis in axes]


def check_rows_apart(few: Call, many: Call, rows: int, along: Along) -> None:
    """Raise `GraphRefused` if a call brings rows together.

    `few` and `many` are the same call at `rows` rows and at another number.
    """
    if few.times != many.times:
        raise _mixed(few, "is in a Loop whose number of trips depends on the number of rows")
    for position, axis in along(few):
        a, b = few.input(position), many.input(position)
        if a is not None and b is not None and axis in row_axes(a, b):
            raise _mixed(few, f"works along the rows (axis {axis} of its input {position})")
    for one, other in zip(few.outputs, many.outputs, strict=True):
        if one is None or other is None:
            continue
        if len(one.shape) != len(other.shape) or len(row_axes(one, other)) > 1:
            raise _mixed(few, "pairs the rows with each other")
    if few.op in ("Reshape", "Flatten") and not _keeps_rows(few, many, rows):
        raise _mixed(few, "takes the rows apart")


def row_axes(few: Tensor, many: Tensor) -> list[int]:
    """The axes whose length follows the number of rows."""
    pairs = enumerate(zip(few.shape, many.shape, strict=True))
    return [axis for axis, (a, b) in pairs if a != b]


def _keeps_rows(few: Call, many: Call, rows: int) -> bool:
    """Does one axis of the result hold the rows as they lie in memory?

    An axis that was already joined with another (its length is not `rows`) cannot be judged.
    """
    before, after = row_axes(few.first, many.first), row_axes(few.result, many.result)
    if len(before) != 1 or len(after) != 1 or few.first.shape[before[0]] != rows:
        return True
    if few.result.size == 0:
        return True
    apart = prod(few.first.shape[before[0] + 1 :])
    step = prod(few.result.shape[after[0] + 1 :])
    return apart % step == 0 and (step * few.result.shape[after[0]]) % (apart * rows) == 0


def _mixed(call: Call, what: str) -> GraphRefused:
    return refused(f"{call.where} {what}", _EACH_ROW)
