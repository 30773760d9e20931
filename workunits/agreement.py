"""Whether two results are the same work, and which of several is the one to keep (PROTOCOL 7).

Decides how each output of a model is compared (`calibrate`), compares two results (`compare`),
chooses the canonical one of several (`choose`) and finds the rows that hold no answer
(`failed_rows`). Who is asked again, credited or banned is decided on the server.

Equal means equal as values: -0.0 is 0.0, because `Max` and `ReduceMax` may give either sign on
different instruction sets, and NaN is NaN whatever its bits. Differences are taken in float64, so
that neither float16 nor float32 can overflow. Arrays may be hostile: what does not fit the rules in
name, dtype or shape raises `TensorsRefused`, every value is only data.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import inf
from typing import Final, cast

import numpy as np
import numpy.typing as npt

from workunits.arrays import NUMPY_DTYPES, Array
from workunits.errors import GraphRefused, TensorsRefused
from workunits.program import FLOAT_DTYPES
from workunits.wire import limits
from workunits.wire.messages import OutputRule, OutputRules, TensorSpec

Outputs = Mapping[str, Array]
Flags = npt.NDArray[np.bool_]

# Eight times the worst honest difference over SSE4, AVX, AVX2, AVX-512 and ARM (2e-6 of the standard
# deviation); a float16 model passed off as float32 differs by 3.9e-4 and more.
TAU_FP32: Final = 1.6e-5
# An output that is almost constant has a standard deviation below its own rounding.
SIGMA_FLOOR: Final = 1e-6
# One row has no spread; a batch that has no more must do with it.
LEAST_ROWS: Final = 2


@dataclass(frozen=True, slots=True)
class Comparison:
    """How far two results are apart.

    `worst` is the largest |a - b| / sigma of all outputs; infinite where values that must be equal
    are not. `output` and `row` say where the first disagreement is, None where there is none.
    """

    agrees: bool
    worst: float
    output: str | None = None
    row: int | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """The canonical result and what it makes of the others, as indices of what was given.

    `worst[i]` is the distance of result i to the canonical one, as in `Comparison`.
    """

    canonical: int
    valid: tuple[int, ...]
    invalid: tuple[int, ...]
    worst: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class _Difference:
    """One output's part of a comparison; `row` is None where the results agree."""

    worst: float
    row: int | None


_DTYPES: Final = frozenset(NUMPY_DTYPES.values())
_SAME: Final = _Difference(0.0, None)


# --- rules from calibration rows ----------------------------------------------------------------


def calibrate(
    outputs: Outputs,
    specs: Sequence[TensorSpec],
    *,
    is_portable_exact: bool = False,
    tau: float = TAU_FP32,
    numbers: Sequence[int] | None = None,
) -> OutputRules:
    """The rule for each output, from what the model gave on the calibration rows.

    Args:
        numbers: what a refusal calls the rows, where they were drawn out of more; else from 0.
        outputs: for each spec an array [rows, *shape] of at least one row.
        is_portable_exact: nothing in the graph can be reordered, so floats are bitwise equal too.
        tau: the tolerance, as a part of the standard deviation.

    Raises:
        GraphRefused: an output is not finite on these rows.
        TensorsRefused: the arrays are not those of the specs.
    """
    for spec in specs:
        _check_calibration(outputs, spec, numbers)
    scores = [s for s in specs if s.dtype in FLOAT_DTYPES and len(s.shape) == 1]
    rules = []
    for spec in specs:
        if spec.dtype in FLOAT_DTYPES and not is_portable_exact:
            rules.append(_tolerance_rule(spec.name, outputs[spec.name], tau))
        elif is_portable_exact or not (of := _scores_of(spec, scores, outputs)):
            rules.append(OutputRule(name=spec.name, rule="bitwise"))
        else:
            near = _tolerance_rule(of, outputs[of], tau)
            rules.append(OutputRule(name=spec.name, rule="label", tau=tau, sigma=near.sigma, of=of))
    return tuple(rules)


def leave_out_failed(
    outputs: Outputs, specs: Sequence[TensorSpec], numbers: Sequence[int]
) -> Outputs:
    """The rows of `outputs` that calibrate: those without a value that is not finite.

    Raises:
        GraphRefused: fewer than two are left, although there were more.
        TensorsRefused: as `failed_rows`.
    """
    failed, name = failed_rows(outputs, specs)
    if not failed.any():
        return outputs
    if int((~failed).sum()) < LEAST_ROWS:
        raise GraphRefused(
            f"output {name!r} is not a number on row {numbers[int(np.argmax(failed))]} of the input, "
            f"nor on nearly all others that were tried ({int(failed.sum())} of {len(failed)}): "
            "mend the rows or the model"
        )
    return {spec.name: outputs[spec.name][~failed] for spec in specs}


def _check_calibration(outputs: Outputs, spec: TensorSpec, numbers: Sequence[int] | None) -> None:
    array = outputs.get(spec.name)
    if array is None or array.dtype.name != spec.dtype or array.shape[1:] != spec.shape:
        raise TensorsRefused(f"output {spec.name!r} of the calibration is not {spec.dtype} "
                             f"[rows{''.join(f', {n}' for n in spec.shape)}]")  # fmt: skip
    if array.ndim == 0 or len(array) == 0:
        raise TensorsRefused(f"output {spec.name!r}: calibration needs at least one row")
    if spec.dtype in FLOAT_DTYPES and not np.isfinite(array).all():
        row = int(np.argmax(_by_row(~np.isfinite(array))))
        raise GraphRefused(
            f"output {spec.name!r} is not a number on calibration row "
            f"{row if numbers is None else numbers[row]}: "
            "calibrate on rows the model is made for, or mend the model"
        )


def _tolerance_rule(name: str, array: Array, tau: float) -> OutputRule:
    return OutputRule(name=name, rule="tolerance", tau=tau, sigma=_scale(array))


def _scale(array: Array) -> float:
    """The standard deviation over all elements, floored by their magnitude; 0 if all are 0."""
    if array.size == 0:
        return 0.0
    with np.errstate(all="ignore"):
        values = array.astype(np.float64)
        largest = float(np.abs(values).max())
        if largest == 0.0:
            return 0.0
        # Of values scaled to 1, since squares of a float64 overflow.
        sigma = float(np.std(values / largest)) * largest
    return min(max(sigma, SIGMA_FLOOR * largest), limits.FLOAT)


def _scores_of(label: TensorSpec, scores: Sequence[TensorSpec], outputs: Outputs) -> str | None:
    """The float output [n, c] of which an integer output [n] or [n, k] is the arg-max or top-k."""
    if label.dtype == "bool" or label.dtype in FLOAT_DTYPES or len(label.shape) > 1:
        return None
    labels = _as_columns(outputs[label.name])
    for spec in scores:
        values = outputs[spec.name].astype(np.float64)
        if _are_top(labels, values, margin=0.0).all():
            return spec.name
    return None


# --- two results --------------------------------------------------------------------------------


def compare(a: Outputs, b: Outputs, rules: OutputRules) -> Comparison:
    """Whether results `a` and `b` are the same work; symmetric, and any result agrees with itself.

    Raises:
        TensorsRefused: an output is missing, too many, of two dtypes or two shapes.
    """
    _check_names(a, rules)
    _check_names(b, rules)
    worst, output, row = 0.0, None, None
    for rule in rules:
        _check_pair(a[rule.name], b[rule.name], rule.name)
        found = _RULES[rule.rule](a, b, rule)
        worst = max(worst, found.worst)
        if output is None and found.row is not None:
            output, row = rule.name, found.row
    return Comparison(output is None, worst, output, row)


def _bitwise(a: Outputs, b: Outputs, rule: OutputRule) -> _Difference:
    return _exactly(~_same(a[rule.name], b[rule.name]))


def _tolerance(a: Outputs, b: Outputs, rule: OutputRule) -> _Difference:
    """|a - b| <= tau * sigma for each element; without a scale (sigma 0) this is equality."""
    x, y = a[rule.name], b[rule.name]
    if x.dtype.kind != "f":
        raise TensorsRefused(f"output {rule.name!r} is {x.dtype}; only floats have a tolerance")
    with np.errstate(all="ignore"):
        apart = np.abs(np.subtract(x, y, dtype=np.float64))
        worst = float(apart.max(initial=0.0))
        if not worst < inf:  # also where it is NaN
            apart = np.where(_same(x, y), 0.0, np.nan_to_num(apart, nan=inf, posinf=inf))
            worst = float(apart.max(initial=0.0))
    # A product past the largest float must not make an infinite difference agree.
    most = min(rule.tau * rule.sigma, sys.float_info.max)
    row = None if worst <= most else _first_row(apart > most)
    if worst == 0.0:
        return _SAME
    return _Difference(worst / rule.sigma if rule.sigma else inf, row)


def _label(a: Outputs, b: Outputs, rule: OutputRule) -> _Difference:
    """Equal labels agree; others must all stand near the top of the scores of both results.

    Scores agree to tau sigma each, so a place in the order moves by as much and an honest label is
    at most 2 tau sigma away from it. In a row whose scores are not finite no order is defined: the
    scores must agree there and the row is failed, so its label does not count.
    """
    one, two = _as_columns(a[rule.name]), _as_columns(b[rule.name])
    rows = np.flatnonzero((one != two).any(axis=1))
    if rows.size == 0:
        return _SAME
    near = np.ones(rows.size, np.bool_)
    ordered = np.ones(rows.size, np.bool_)
    margin = min(2 * rule.tau * rule.sigma, sys.float_info.max)
    for result in (a, b):
        values = _scores(result, rule, len(one))[rows].astype(np.float64)
        ordered &= np.isfinite(values).all(axis=1)
        near &= _are_top(one[rows], values, margin) & _are_top(two[rows], values, margin)
    wrong = np.zeros(len(one), np.bool_)
    wrong[rows] = ordered & ~near
    return _exactly(wrong)


_RULES: Final[dict[str, Callable[[Outputs, Outputs, OutputRule], _Difference]]] = {
    "bitwise": _bitwise,
    "tolerance": _tolerance,
    "label": _label,
}


def _scores(result: Outputs, rule: OutputRule, rows: int) -> Array:
    scores = result.get(rule.of or "")
    if scores is None or scores.dtype.name not in FLOAT_DTYPES or scores.ndim != 2:
        raise TensorsRefused(f"output {rule.name!r} is a label without float scores {rule.of!r}")
    if len(scores) != rows:
        raise TensorsRefused(f"outputs {rule.name!r} and {rule.of!r} have not the same rows")
    return scores


def _are_top(
    labels: npt.NDArray[np.integer], scores: npt.NDArray[np.float64], margin: float
) -> Flags:
    """Per row: each label names another class, and class j's score is that of place j, nearly.

    Args:
        labels: integers [n, k], of any value.
        scores: [n, c].
    """
    places, classes = labels.shape[1], scores.shape[1]
    if places > classes or places == 0:
        return np.zeros(len(labels), np.bool_)
    # Compared before the cast: a uint64 above the largest int64 would turn negative.
    in_range = ((labels >= 0) & (labels < classes)).all(axis=1)
    picked = np.where(in_range[:, None], labels, 0).astype(np.int64)
    with np.errstate(all="ignore"):
        at_place = -np.sort(-scores, axis=1)[:, :places]
        gap = np.abs(np.take_along_axis(scores, picked, axis=1) - at_place)
        near = (gap <= margin).all(axis=1)
    differ = (np.diff(np.sort(picked, axis=1), axis=1) != 0).all(axis=1)
    return np.asarray(in_range & near & differ)


def _as_columns(labels: Array) -> npt.NDArray[np.integer]:
    """Labels [n] as [n, 1]; [n, k] as they are."""
    if labels.ndim not in (1, 2) or not np.issubdtype(labels.dtype, np.integer):
        raise TensorsRefused(f"labels are integers [n] or [n, k], not {labels.dtype}")
    columns = labels[:, None] if labels.ndim == 1 else labels
    return cast("npt.NDArray[np.integer]", columns)


def _same(x: Array, y: Array) -> Flags:
    same = np.asarray(x == y)
    if x.dtype.kind == "f":
        same |= np.isnan(x) & np.isnan(y)
    return same


def _exactly(wrong: Flags) -> _Difference:
    return _Difference(inf, _first_row(wrong)) if wrong.any() else _SAME


def _first_row(wrong: Flags) -> int:
    return int(np.argmax(_by_row(wrong)))


def _by_row(flags: Flags) -> Flags:
    """[n, ...] as [n]: whether any element of the row is set."""
    return np.asarray(flags.any(axis=tuple(range(1, flags.ndim))))


def _check_names(result: Outputs, rules: OutputRules) -> None:
    if len(result) != len(rules) or any(rule.name not in result for rule in rules):
        found, wanted = sorted(result), sorted(rule.name for rule in rules)
        raise TensorsRefused(f"a result has outputs {found}, the rules speak of {wanted}")


def _check_pair(x: Array, y: Array, name: str) -> None:
    if x.dtype != y.dtype or x.shape != y.shape:
        raise TensorsRefused(
            f"output {name!r} is {x.dtype} {list(x.shape)} in one result "
            f"and {y.dtype} {list(y.shape)} in the other"
        )
    if x.dtype not in _DTYPES or x.ndim == 0:
        raise TensorsRefused(f"output {name!r} is {x.dtype} {list(x.shape)}, not rows of a tensor")


# --- several results ----------------------------------------------------------------------------


def choose(
    results: Sequence[Outputs], rules: OutputRules, quorum: int, tie: Sequence[bytes]
) -> Choice | None:
    """The canonical result, or None while nobody can tell; the order of `results` plays no part.

    The largest set of at least `quorum` results that all agree with each other (complete linkage:
    tolerance does not chain) decides. Where two sets are equally large, None: one more result says
    which is right. Canonical is the member whose worst distance to the others is smallest, never
    simply the first; ties go to the smallest of `tie`, which differ and which no vehicle can
    foresee. Results outside the set are valid too if they agree with the canonical one.

    All pairs and sets are looked at: meant for the few replicas a unit may have.

    Raises:
        TensorsRefused: two results differ in names, dtypes or shapes.
    """
    pairs = _compare_all(results, rules)
    cliques = _largest_cliques(len(results), quorum, pairs)
    if len(cliques) != 1:
        return None
    members = cliques[0]
    canonical = min(members, key=lambda i: (max(pairs[i, j].worst for j in members), tie[i]))
    seen = [pairs[canonical, i] for i in range(len(results))]
    return Choice(
        canonical,
        tuple(i for i, found in enumerate(seen) if found.agrees),
        tuple(i for i, found in enumerate(seen) if not found.agrees),
        tuple(found.worst for found in seen),
    )


def _compare_all(
    results: Sequence[Outputs], rules: OutputRules
) -> dict[tuple[int, int], Comparison]:
    pairs = {(i, i): Comparison(True, 0.0) for i in range(len(results))}
    for i, j in combinations(range(len(results)), 2):
        pairs[i, j] = pairs[j, i] = compare(results[i], results[j], rules)
    return pairs


def _largest_cliques(
    count: int, quorum: int, pairs: Mapping[tuple[int, int], Comparison]
) -> list[tuple[int, ...]]:
    def cliques(size: int) -> Iterator[tuple[int, ...]]:
        for members in combinations(range(count), size):
            if all(pairs[pair].agrees for pair in combinations(members, 2)):
                yield members

    for size in range(count, max(quorum, 1) - 1, -1):
        if found := list(cliques(size)):
            return found
    return []


# --- rows without an answer ---------------------------------------------------------------------


def failed_rows(outputs: Outputs, specs: Sequence[TensorSpec]) -> tuple[Flags, str | None]:
    """Which rows hold a value that is not finite, and the first output that has one.

    Raises:
        TensorsRefused: an output is missing or the outputs have not the same rows.
    """
    rows = {len(outputs[s.name]) if s.name in outputs else -1 for s in specs}
    if len(rows) != 1 or -1 in rows:
        raise TensorsRefused(f"outputs {sorted(outputs)} are not the same rows of each output")
    failed, first = np.zeros(rows.pop(), np.bool_), None
    for spec in specs:
        if spec.dtype not in FLOAT_DTYPES:
            continue
        here = ~np.isfinite(outputs[spec.name])
        if here.any():
            failed |= _by_row(here)
            first = first or spec.name
    return failed, first
