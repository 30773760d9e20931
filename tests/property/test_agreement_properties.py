"""Laws of agreement that must hold whatever vehicles send."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from workunits.agreement import Outputs, calibrate, choose, compare, failed_rows
from workunits.wire.messages import Dtype, OutputRule, OutputRules, TensorSpec

FLOATS: tuple[Dtype, ...] = ("float16", "float32", "float64")
INTEGERS: tuple[Dtype, ...] = ("bool", "int8", "int64", "uint8", "uint64")
ROWS, CLASSES, TOP = 3, 4, 2

SIGMAS = st.sampled_from([0.0, 1e-300, 0.5, 1.0, 1e300])


@st.composite
def rules(draw: st.DrawFn) -> OutputRules:
    tau, sigma = draw(st.sampled_from([0.0, 1.6e-5, 0.25, 1e300])), draw(SIGMAS)
    return (
        OutputRule(name="scores", rule="tolerance", tau=tau, sigma=sigma),
        OutputRule(name="labels", rule="label", tau=tau, sigma=sigma, of="scores"),
        OutputRule(name="other", rule="bitwise"),
    )


def results(dtype: Dtype, other: Dtype) -> st.SearchStrategy[Outputs]:
    """Results of one form and any values, near ones and equal ones among them."""
    near = st.sampled_from([0.0, -0.0, 0.25, 0.5, 1.0, 1.0000001, float("nan"), float("inf")])
    width = {"float16": 16, "float32": 32, "float64": 64}[dtype]
    values = near.map(lambda v: np.dtype(dtype).type(v)) | st.floats(width=width)  # type: ignore[arg-type]
    return st.fixed_dictionaries(
        {
            "scores": hnp.arrays(dtype, (ROWS, CLASSES), elements=values),
            "labels": hnp.arrays("int64", (ROWS, TOP), elements=st.integers(-1, CLASSES)),
            "other": hnp.arrays(other, (ROWS, 2)),
        }
    )


@st.composite
def several(draw: st.DrawFn, least: int, most: int) -> list[Outputs]:
    form = results(draw(st.sampled_from(FLOATS)), draw(st.sampled_from(INTEGERS)))
    pool = draw(st.lists(form, min_size=1, max_size=3))
    picks = draw(st.lists(st.sampled_from(range(len(pool))), min_size=least, max_size=most))
    return [pool[pick] for pick in picks]


@given(several(2, 2), rules())
def test_comparison_is_symmetric(pair: list[Outputs], by: OutputRules) -> None:
    assert compare(pair[0], pair[1], by) == compare(pair[1], pair[0], by)


@given(several(1, 1), rules())
def test_every_result_agrees_with_itself(one: list[Outputs], by: OutputRules) -> None:
    found = compare(one[0], {name: array.copy() for name, array in one[0].items()}, by)
    assert (found.agrees, found.worst, found.row) == (True, 0.0, None)


@given(several(2, 2), rules())
def test_disagreement_is_where_it_is_said_to_be(pair: list[Outputs], by: OutputRules) -> None:
    found = compare(pair[0], pair[1], by)
    assert (found.row is None) == (found.output is None) == found.agrees
    if found.row is not None:
        cut = [{n: a[found.row : found.row + 1] for n, a in result.items()} for result in pair]
        assert not compare(cut[0], cut[1], by).agrees
        before = [{n: a[: found.row] for n, a in result.items()} for result in pair]
        assert compare(before[0], before[1], by).output != found.output


@given(several(1, 6), rules(), st.integers(1, 4), st.data())
def test_choice_does_not_depend_on_the_order(
    given_results: list[Outputs], by: OutputRules, quorum: int, data: st.DataObject
) -> None:
    ties = [bytes([i]) for i in range(len(given_results))]
    order = data.draw(st.permutations(range(len(given_results))))
    one = choose(given_results, by, quorum, ties)
    two = choose([given_results[i] for i in order], by, quorum, [ties[i] for i in order])
    assert (one is None) == (two is None)
    if one is not None and two is not None:
        assert order[two.canonical] == one.canonical
        assert {order[i] for i in two.valid} == set(one.valid)
        assert [two.worst[order.index(i)] for i in range(len(order))] == list(one.worst)


@given(several(1, 6), rules(), st.integers(1, 4))
def test_choice_keeps_its_promises(
    given_results: list[Outputs], by: OutputRules, quorum: int
) -> None:
    ties = [bytes([i]) for i in range(len(given_results))]
    choice = choose(given_results, by, quorum, ties)
    cliques = [
        set(members)
        for size in range(quorum, len(given_results) + 1)
        for members in combinations(range(len(given_results)), size)
        if all(
            compare(given_results[i], given_results[j], by).agrees
            for i, j in combinations(members, 2)
        )
    ]
    if choice is None:
        largest = [c for c in cliques if len(c) == max(map(len, cliques))]
        assert len(largest) != 1
        return
    assert sorted(choice.valid + choice.invalid) == list(range(len(given_results)))
    assert any(choice.canonical in clique and clique <= set(choice.valid) for clique in cliques)
    for i, result in enumerate(given_results):
        found = compare(given_results[choice.canonical], result, by)
        assert (i in choice.valid) == found.agrees
        assert choice.worst[i] == found.worst


@given(
    hnp.arrays("float32", (8, 5), elements=st.floats(-4, 4, width=32)),
    hnp.arrays("float64", (8, 5), elements=st.floats(-1, 1)),
    st.integers(1, 5),
)
def test_honest_results_agree_whatever_the_rounding(
    values: np.ndarray, noise: np.ndarray, top: int
) -> None:
    """Scores within tau sigma, labels by each vehicle's own top-k: never a disagreement."""
    specs = [
        TensorSpec(name="scores", dtype="float64", shape=(5,)),
        TensorSpec(name="labels", dtype="int64", shape=(top,)),
    ]
    exact = values.astype("float64")
    honest = [_labelled(exact, top)]
    found = calibrate(honest[0], specs)
    assert [rule.rule for rule in found] == ["tolerance", "label"]
    # A little less than tau, since scores and tolerance are rounded themselves.
    honest.append(_labelled(exact + noise * (0.99 * found[0].tau * found[0].sigma), top))
    assert compare(honest[0], honest[1], found).agrees


@given(several(1, 1))
def test_failed_rows_are_those_with_a_value_that_is_not_finite(one: list[Outputs]) -> None:
    specs = [
        TensorSpec(name=name, dtype=array.dtype.name, shape=array.shape[1:])  # type: ignore[arg-type]
        for name, array in one[0].items()
    ]
    failed, name = failed_rows(one[0], specs)
    wanted = [not all(np.isfinite(row)) for row in one[0]["scores"].tolist()]
    assert failed.tolist() == wanted
    assert name == ("scores" if any(wanted) else None)


def _labelled(scores: np.ndarray, top: int) -> Outputs:
    order = np.argsort(-scores, axis=1, kind="stable")[:, :top]
    return {"scores": scores, "labels": order.astype("int64")}
