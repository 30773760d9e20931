"""What counts as the same work, rule by rule."""

from __future__ import annotations

from itertools import permutations
from math import inf, nan

import numpy as np
import pytest

from workunits.agreement import (
    TAU_FP32,
    Outputs,
    calibrate,
    choose,
    compare,
    failed_rows,
)
from workunits.errors import GraphRefused, TensorsRefused
from workunits.wire import limits
from workunits.wire.messages import Dtype, OutputRule, TensorSpec

BITWISE = (OutputRule(name="y", rule="bitwise"),)
# Differences up to 0.1 agree.
TOLERANT = (OutputRule(name="y", rule="tolerance", tau=0.1, sigma=1.0),)
# Scores agree up to 0.1, so labels may differ where scores are within 0.2.
LABELLED = (
    OutputRule(name="y", rule="tolerance", tau=0.1, sigma=1.0),
    OutputRule(name="label", rule="label", tau=0.1, sigma=1.0, of="y"),
)


def of(values: object, dtype: Dtype = "float32") -> Outputs:
    return {"y": np.array(values, dtype)}


def labelled(scores: object, labels: object) -> Outputs:
    return {"y": np.array(scores, "float32"), "label": np.array(labels, "int64")}


def spec(name: str, dtype: Dtype = "float32", *shape: int) -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=shape)


class TestBitwise:
    @pytest.mark.parametrize("dtype", ["bool", "int8", "uint64", "float16", "float32", "float64"])
    def test_equal_values_agree_in_every_dtype(self, dtype: Dtype) -> None:
        assert compare(of([0, 1, 1], dtype), of([0, 1, 1], dtype), BITWISE).agrees

    def test_first_differing_row_is_named(self) -> None:
        found = compare(of([[1, 2], [3, 4], [5, 6]]), of([[1, 2], [3, 9], [9, 6]]), BITWISE)
        assert (found.agrees, found.worst, found.output, found.row) == (False, inf, "y", 1)

    def test_neighbouring_large_integers_differ(self) -> None:
        assert not compare(of([2**63], "uint64"), of([2**63 + 1], "uint64"), BITWISE).agrees

    def test_zeros_of_both_signs_are_one_value(self) -> None:
        assert compare(of([0.0]), of([-0.0]), BITWISE).agrees

    def test_nan_is_nan_whatever_its_bits(self) -> None:
        odd = {"y": np.array([0x7FC00001], "uint32").view("float32")}
        assert compare(of([nan]), odd, BITWISE).agrees

    @pytest.mark.parametrize(("a", "b"), [(nan, 1.0), (inf, -inf), (inf, nan), (inf, 3e38)])
    def test_other_kinds_of_not_a_number_differ(self, a: float, b: float) -> None:
        assert not compare(of([a]), of([b]), BITWISE).agrees


class TestTolerance:
    def test_worst_is_in_standard_deviations(self) -> None:
        rules = (OutputRule(name="y", rule="tolerance", tau=0.1, sigma=2.0),)
        found = compare(of([0.0, 1.0]), of([0.125, 1.0]), rules)
        assert found.agrees
        assert found.worst == 0.0625

    def test_exactly_tau_agrees_and_more_does_not(self) -> None:
        rules = (OutputRule(name="y", rule="tolerance", tau=0.5, sigma=0.5),)
        assert compare(of([0.0]), of([0.25]), rules).agrees
        found = compare(of([0.0, 0.0]), of([0.25, 0.2500001]), rules)
        assert (found.agrees, found.row) == (False, 1)

    @pytest.mark.parametrize("value", [nan, inf, -inf])
    def test_same_kind_at_same_place_agrees(self, value: float) -> None:
        assert compare(of([value, 1.0]), of([value, 1.05]), TOLERANT).agrees

    @pytest.mark.parametrize(("a", "b"), [(nan, 1.0), (1.0, nan), (inf, -inf), (inf, 1.0)])
    def test_other_kinds_disagree_infinitely(self, a: float, b: float) -> None:
        found = compare(of([1.0, a]), of([1.0, b]), TOLERANT)
        assert (found.agrees, found.worst, found.row) == (False, inf, 1)

    @pytest.mark.parametrize(
        ("dtype", "largest"), [("float16", 65504), ("float32", 3.4e38), ("float64", 1.7e308)]
    )
    def test_extremes_do_not_overflow_into_agreement(self, dtype: Dtype, largest: float) -> None:
        assert not compare(of([largest], dtype), of([-largest], dtype), TOLERANT).agrees

    def test_no_scale_can_make_infinity_agree_with_a_number(self) -> None:
        rules = (OutputRule(name="y", rule="tolerance", tau=1e300, sigma=1e300),)
        assert not compare(of([inf]), of([1.0]), rules).agrees

    def test_without_a_scale_only_equal_values_agree(self) -> None:
        rules = (OutputRule(name="y", rule="tolerance", tau=1.0, sigma=0.0),)
        assert compare(of([0.0]), of([-0.0]), rules) == compare(of([1.0]), of([1.0]), rules)
        assert compare(of([0.0]), of([1e-45]), rules).worst == inf

    def test_rows_without_elements_agree(self) -> None:
        assert compare({"y": np.empty((3, 0))}, {"y": np.empty((3, 0))}, TOLERANT).agrees


class TestLabels:
    def test_near_tie_makes_either_label_right(self) -> None:
        assert compare(labelled([[1.0, 1.06]], [1]), labelled([[1.06, 1.0]], [0]), LABELLED).agrees
        assert compare(labelled([[1.0, 1.05]], [0]), labelled([[1.0, 1.0]], [1]), LABELLED).agrees

    def test_clear_winner_leaves_one_right_label(self) -> None:
        found = compare(
            labelled([[1, 2], [1, 2]], [1, 1]), labelled([[1, 2], [1, 2]], [1, 0]), LABELLED
        )
        assert (found.agrees, found.output, found.row) == (False, "label", 1)

    def test_label_must_stand_near_the_top_of_both_results(self) -> None:
        # Near in one (gap 0.19), not near in the other (gap 0.22): scores themselves agree.
        one, two = labelled([[1.0, 1.19]], [0]), labelled([[1.0, 1.22]], [1])
        assert compare({"y": one["y"]}, {"y": two["y"]}, LABELLED[:1]).agrees
        assert not compare(one, two, LABELLED).agrees
        assert not compare(two, one, LABELLED).agrees

    @pytest.mark.parametrize("label", [-1, 2, 2**62, -(2**63)])
    def test_label_that_names_no_class_disagrees(self, label: int) -> None:
        assert not compare(labelled([[1, 1]], [0]), labelled([[1, 1]], [label]), LABELLED).agrees

    def test_unsigned_label_past_every_class_disagrees(self) -> None:
        a = {"y": np.array([[1, 1]], "float32"), "label": np.array([0], "uint64")}
        b = {"y": np.array([[1, 1]], "float32"), "label": np.array([2**64 - 1], "uint64")}
        assert not compare(a, b, LABELLED).agrees

    def test_top_k_may_swap_neighbours_within_the_margin(self) -> None:
        a = labelled([[3.0, 2.0, 1.95, 0.0]], [[0, 1]])
        assert compare(a, labelled([[3.0, 1.95, 2.0, 0.0]], [[0, 2]]), LABELLED).agrees
        assert not compare(a, labelled([[3.0, 2.0, 1.95, 0.0]], [[1, 0]]), LABELLED).agrees
        assert not compare(a, labelled([[3.0, 2.0, 1.95, 0.0]], [[0, 3]]), LABELLED).agrees

    def test_top_k_names_a_class_once(self) -> None:
        a, b = labelled([[1.0, 1.0, 0.0]], [[0, 1]]), labelled([[1.0, 1.0, 0.0]], [[0, 0]])
        assert not compare(a, b, LABELLED).agrees

    def test_label_of_a_failed_row_does_not_count(self) -> None:
        assert compare(labelled([[nan, 1]], [0]), labelled([[nan, 1]], [1]), LABELLED).agrees

    def test_result_agrees_with_itself_even_if_its_labels_are_nonsense(self) -> None:
        a = labelled([[1.0, 9.0]], [7])
        assert compare(a, a, LABELLED).agrees

    def test_margin_is_the_whole_of_two_tolerances(self) -> None:
        # Both scores move by tau sigma in opposite directions: honest, and the labels swap.
        a, b = labelled([[0.0, 0.25]], [1]), labelled([[0.125, 0.125]], [0])
        rules = tuple(
            OutputRule(name=r.name, rule=r.rule, tau=0.125, sigma=1.0, of=r.of) for r in LABELLED
        )
        assert compare(a, b, rules).agrees


class TestHostileArrays:
    @pytest.mark.parametrize(
        ("a", "b"),
        [
            ({}, {"y": np.zeros(1, "float32")}),
            ({"z": np.zeros(1, "float32")}, {"y": np.zeros(1, "float32")}),
            ({"y": np.zeros(1, "float32")}, {"y": np.zeros(1, "float64")}),
            ({"y": np.zeros(1, "float32")}, {"y": np.zeros(2, "float32")}),
            ({"y": np.zeros((1, 1), "float32")}, {"y": np.zeros(1, "float32")}),
            ({"y": np.float32(0).reshape(())}, {"y": np.float32(0).reshape(())}),
            ({"y": np.array([None])}, {"y": np.array([None])}),
            ({"y": np.array(["a"])}, {"y": np.array(["a"])}),
            ({"y": np.zeros(1, "complex64")}, {"y": np.zeros(1, "complex64")}),
            ({"y": np.zeros(1, ">f4")}, {"y": np.zeros(1, ">f4")}),
        ],
    )
    @pytest.mark.parametrize("rules", [BITWISE, TOLERANT])
    def test_what_does_not_fit_the_rules_is_refused(
        self, a: Outputs, b: Outputs, rules: tuple[OutputRule, ...]
    ) -> None:
        with pytest.raises(TensorsRefused):
            compare(a, b, rules)

    @pytest.mark.parametrize(
        ("scores", "labels"),
        [
            (np.zeros((2, 2), "float32"), np.zeros(1, "int64")),
            (np.zeros(1, "float32"), np.zeros(1, "int64")),
            (np.zeros((1, 2), "int32"), np.zeros(1, "int64")),
            (np.zeros((1, 2), "float32"), np.zeros(1, "float32")),
            (np.zeros((1, 2), "float32"), np.zeros((1, 1, 1), "int64")),
        ],
    )
    def test_labels_without_fitting_scores_are_refused(
        self,
        scores: np.ndarray,
        labels: np.ndarray,
    ) -> None:
        other = labels + 1
        with pytest.raises(TensorsRefused):
            compare({"y": scores, "label": labels}, {"y": scores, "label": other}, LABELLED)

    def test_tolerance_is_for_floats(self) -> None:
        with pytest.raises(TensorsRefused, match="int64"):
            compare(of([1], "int64"), of([1], "int64"), TOLERANT)


class TestCalibration:
    def test_sigma_is_the_standard_deviation(self) -> None:
        values = np.random.default_rng(1).normal(5, 3, (256, 4)).astype("float32")
        (rule,) = calibrate({"y": values}, [spec("y", "float32", 4)])
        assert (rule.rule, rule.tau) == ("tolerance", TAU_FP32)
        assert rule.sigma == pytest.approx(float(np.std(values.astype("float64"))), rel=1e-12)

    def test_constant_output_is_floored_by_its_magnitude(self) -> None:
        (rule,) = calibrate(of([-4.0, -4.0]), [spec("y")])
        assert rule.sigma == pytest.approx(4e-6)

    def test_output_of_zeros_has_no_scale_and_compares_exactly(self) -> None:
        rules = calibrate(of([0.0, 0.0]), [spec("y")])
        assert rules[0].sigma == 0.0
        assert not compare(of([0.0]), of([1e-30]), rules).agrees

    def test_extremes_of_float64_give_a_scale_that_travels(self) -> None:
        (rule,) = calibrate(of([1.7e308, -1.7e308], "float64"), [spec("y", "float64")])
        assert 0 < rule.sigma <= limits.FLOAT

    @pytest.mark.parametrize("value", [nan, inf])
    def test_output_that_is_not_finite_refuses_the_model(self, value: float) -> None:
        with pytest.raises(GraphRefused, match="'y' is not a number on calibration row 1"):
            calibrate(of([[1.0], [value]]), [spec("y", "float32", 1)])

    @pytest.mark.parametrize("shape", [(), (1,)])
    def test_arg_max_is_found(self, shape: tuple[int, ...]) -> None:
        outputs = labelled([[1, 2, 0], [5, 1, 1]], np.reshape([1, 0], (2, *shape)))
        rules = calibrate(outputs, [spec("label", "int64", *shape), spec("y", "float32", 3)])
        assert (rules[0].rule, rules[0].of, rules[0].sigma) == ("label", "y", rules[1].sigma)

    def test_top_k_is_found(self) -> None:
        outputs = labelled([[1, 2, 0], [5, 1, 2]], [[1, 0], [0, 2]])
        rules = calibrate(outputs, [spec("y", "float32", 3), spec("label", "int64", 2)])
        assert rules[1].of == "y"

    @pytest.mark.parametrize(
        "labels", [[1, 1], [[1, 2], [0, 2]], [[1, 1], [0, 0]], [3, 0], [[1, 0, 2, 3]] * 2]
    )
    def test_other_integers_compare_exactly(self, labels: object) -> None:
        outputs = labelled([[1, 2, 0], [5, 1, 2]], labels)
        shape = outputs["label"].shape[1:]
        rules = calibrate(outputs, [spec("y", "float32", 3), spec("label", "int64", *shape)])
        assert rules[1].rule == "bitwise"

    def test_booleans_compare_exactly(self) -> None:
        outputs = {"y": np.array([[1, 2]], "float32"), "flag": np.array([True])}
        rules = calibrate(outputs, [spec("y", "float32", 2), spec("flag", "bool")])
        assert rules[1] == OutputRule(name="flag", rule="bitwise")

    def test_output_without_elements_has_no_scale(self) -> None:
        (rule,) = calibrate({"y": np.zeros((2, 0), "float32")}, [spec("y", "float32", 0)])
        assert rule.sigma == 0.0

    def test_portable_exact_graph_is_bitwise_throughout(self) -> None:
        outputs = labelled([[1, 2, 0]], [1])
        rules = calibrate(
            outputs,
            [spec("y", "float32", 3), spec("label", "int64")],
            is_portable_exact=True,
        )
        assert [rule.rule for rule in rules] == ["bitwise", "bitwise"]

    @pytest.mark.parametrize(
        "outputs",
        [{}, of([1], "float64"), of([[1.0]]), {"y": np.zeros(0, "float32")}],
    )
    def test_outputs_that_are_not_those_of_the_specs_are_refused(self, outputs: Outputs) -> None:
        with pytest.raises(TensorsRefused):
            calibrate(outputs, [spec("y")])


class TestChoice:
    TIES = (b"d", b"a", b"c", b"b", b"e")

    def results(self, *values: float) -> list[Outputs]:
        return [of([value]) for value in values]

    def test_pair_that_agrees_is_a_quorum(self) -> None:
        choice = choose(self.results(1.0, 5.0, 1.0625), TOLERANT, 2, self.TIES)
        assert choice is not None
        assert (choice.canonical, choice.valid, choice.invalid) == (2, (0, 2), (1,))
        assert choice.worst == (0.0625, 3.9375, 0.0)

    def test_middle_of_three_is_canonical_and_not_the_first(self) -> None:
        choice = choose(self.results(1.0, 1.06, 1.03), TOLERANT, 2, self.TIES)
        assert choice is not None
        assert choice.canonical == 2
        assert choice.valid == (0, 1, 2)

    def test_ties_go_to_the_smallest_tie_bytes(self) -> None:
        choice = choose(self.results(1.0, 1.0, 1.0), TOLERANT, 2, self.TIES)
        assert choice is not None
        assert choice.canonical == 1

    def test_too_few_that_agree_are_inconclusive(self) -> None:
        assert choose(self.results(1.0, 5.0), TOLERANT, 2, self.TIES) is None
        assert choose(self.results(1.0, 1.0), TOLERANT, 3, self.TIES) is None
        assert choose([], TOLERANT, 1, ()) is None

    def test_tolerance_does_not_chain(self) -> None:
        # The middle one agrees with both, they do not agree with each other.
        assert choose(self.results(1.0, 1.08, 1.16), TOLERANT, 2, self.TIES) is None

    def test_two_camps_of_one_size_wait_for_another_result(self) -> None:
        results = self.results(1.0, 1.0, 5.0, 5.0)
        assert choose(results, TOLERANT, 2, self.TIES) is None
        choice = choose([*results, *self.results(5.0)], TOLERANT, 2, self.TIES)
        assert choice is not None
        assert choice.valid == (2, 3, 4)

    def test_result_outside_the_clique_is_valid_if_it_agrees_with_the_canonical(self) -> None:
        points = [[0.0625, 0.0], [0.0, 0.0], [0.0625, 0.0625], [-0.0625, -0.0625]]
        choice = choose([of([point]) for point in points], TOLERANT, 2, self.TIES)
        assert choice is not None
        assert (choice.canonical, choice.valid, choice.invalid) == (1, (0, 1, 2, 3), ())

    def test_quorum_of_one_takes_the_only_result(self) -> None:
        choice = choose(self.results(1.0), TOLERANT, 1, self.TIES)
        assert choice is not None
        assert (choice.canonical, choice.valid, choice.worst) == (0, (0,), (0.0,))

    def test_order_of_results_plays_no_part(self) -> None:
        values = (1.0, 1.03, 5.0, 1.06, 1.02)
        chosen = set()
        for order in permutations(range(5)):
            choice = choose(
                self.results(*(values[i] for i in order)),
                TOLERANT,
                2,
                [self.TIES[i] for i in order],
            )
            assert choice is not None
            chosen.add((order[choice.canonical], frozenset(order[i] for i in choice.valid)))
        assert chosen == {(1, frozenset({0, 1, 3, 4}))}


class TestFailedRows:
    def test_rows_and_first_output_are_named(self) -> None:
        outputs = {
            "n": np.array([1, 2, 3]),
            "a": np.array([1.0, nan, 1.0]),
            "b": np.array([[inf, 1.0], [1.0, 1.0], [1.0, 1.0]]),
        }
        specs = [spec("n", "int64"), spec("a", "float64"), spec("b", "float64", 2)]
        failed, name = failed_rows(outputs, specs)
        assert failed.tolist() == [True, True, False]
        assert name == "a"

    def test_no_failed_rows(self) -> None:
        failed, name = failed_rows(of([1.0, 2.0]), [spec("y")])
        assert (failed.tolist(), name) == ([False, False], None)

    @pytest.mark.parametrize("outputs", [{}, {"y": np.zeros(2), "z": np.zeros(3)}])
    def test_outputs_of_other_rows_are_refused(self, outputs: Outputs) -> None:
        with pytest.raises(TensorsRefused):
            failed_rows(outputs, [spec("y", "float64"), spec("z", "float64")])
