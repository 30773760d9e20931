"""Running a program: fixed steps, what is fed and checked, and what a session really got."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import onnxruntime
import pytest

from tests.support import models
from tests.support.models import Sample
from workunits import execution
from workunits.arrays import Array, Arrays
from workunits.errors import (
    ExecutionError,
    ProviderUnavailable,
    RuntimeOutOfRange,
    TensorsRefused,
)
from workunits.execution import CPU, CUDA, Loaded
from workunits.wire.messages import Program, TensorSpec


def load(sample: Sample, folder: Path, rows_per_step: int = 4) -> Loaded:
    path = sample.write(folder / "model.onnx")
    return Loaded.open(path, sample.program(rows_per_step), provider=CPU)


# --- steps ------------------------------------------------------------------------------------------


def test_rows_are_cut_into_steps_and_the_last_is_cut(tmp_path: Path) -> None:
    sample = models.mlp()
    loaded = load(sample, tmp_path)
    parts = list(loaded.steps(sample.draw(10), 10))
    assert [(s.number, s.first, s.rows) for s, _ in parts] == [(0, 0, 4), (1, 4, 4), (2, 8, 2)]
    assert [part["scores"].shape for _, part in parts] == [(4, 4), (4, 4), (2, 4)]
    assert [part["label"].shape for _, part in parts] == [(4,), (4,), (2,)]


def test_the_last_step_is_padded_with_its_last_row(tmp_path: Path) -> None:
    sample = models.mlp()
    loaded = load(sample, tmp_path)
    inputs = sample.draw(6)
    padded = {"x": np.concatenate([inputs["x"], inputs["x"][-1:], inputs["x"][-1:]])}
    assert_same(execution.run(loaded, inputs, 6), first(execution.run(loaded, padded, 8), 6))


@pytest.mark.parametrize("make", [models.mlp, models.conv, models.integers, models.shared])
def test_answers_are_those_of_a_plain_session(make: Callable[[], Sample], tmp_path: Path) -> None:
    sample = make()
    inputs = sample.draw(7)
    got = execution.run(load(sample, tmp_path), inputs, 7)
    plain = onnxruntime.InferenceSession(sample.raw, providers=[CPU])
    for spec, wanted in zip(sample.outputs, plain.run(None, inputs), strict=True):
        assert got[spec.name].dtype.name == spec.dtype
        assert_close(got[spec.name], wanted)


def test_steps_may_begin_anywhere(tmp_path: Path) -> None:
    sample = models.mlp()
    loaded = load(sample, tmp_path)
    inputs = sample.draw(10)
    assert [s.number for s, _ in loaded.steps(inputs, 10, first_step=2)] == [2]
    assert list(loaded.steps(inputs, 10, first_step=3)) == []


def test_no_rows_are_no_steps(tmp_path: Path) -> None:
    sample = models.mlp()
    assert execution.run(load(sample, tmp_path), sample.draw(0), 0)["scores"].shape == (0, 4)


def test_a_model_with_a_fixed_batch_axis_runs_in_steps_of_it(tmp_path: Path) -> None:
    sample = models.fixed_batch(rows=5)
    loaded = load(sample, tmp_path)
    assert [s.rows for s, _ in loaded.steps(sample.draw(12), 12)] == [5, 5, 2]


def test_a_step_of_another_size_than_the_fixed_axis_is_refused(tmp_path: Path) -> None:
    sample = models.fixed_batch(rows=5)
    program = msgspec.structs.replace(sample.program(), rows_per_step=4)
    with pytest.raises(
        TensorsRefused, match=r"input 'x' has shape \[5, 8\] in the model, not \[4, 8\]"
    ):
        Loaded.open(sample.write(tmp_path / "m.onnx"), program)


def test_what_rows_share_is_passed_whole_to_each_step(tmp_path: Path) -> None:
    sample = models.shared()
    inputs = sample.draw(9)
    got = execution.run(load(sample, tmp_path), inputs, 9)
    assert_close(got["y"], np.matmul(inputs["x"].astype(float), inputs["bank"].astype(float)))


def test_not_a_number_stays_what_it_is(tmp_path: Path) -> None:
    sample = models.identity()
    strange = np.array([[np.nan, np.inf, -np.inf], [-0.0, 1e-45, 3.4e38]], np.float32)
    got = execution.run(load(sample, tmp_path), {"x": strange}, 2)["y"]
    assert got.tobytes() == strange.tobytes()
    made = execution.run(
        load(models.logarithm(), tmp_path), {"x": np.full((2, 3), -1, np.float32)}, 2
    )["y"]
    assert np.isnan(made).all()


@pytest.mark.parametrize("dtype", ["bool", "int8", "int64", "uint8", "float16", "float64"])
def test_each_dtype_passes_bit_for_bit(dtype: str, tmp_path: Path) -> None:
    sample = models.identity(dtype)  # type: ignore[arg-type]
    inputs = sample.draw(5)
    assert execution.run(load(sample, tmp_path), inputs, 5)["y"].tobytes() == inputs["x"].tobytes()


def test_kept_outputs_do_not_change_with_later_steps(tmp_path: Path) -> None:
    sample = models.identity()
    inputs = sample.draw(8)
    kept = [part["y"] for _, part in load(sample, tmp_path).steps(inputs, 8)]
    assert np.concatenate(kept).tobytes() == inputs["x"].tobytes()


def test_inputs_are_left_as_they_were(tmp_path: Path) -> None:
    sample = models.shared()
    inputs = sample.draw(6)
    for array in inputs.values():
        array.flags.writeable = False
    execution.run(load(sample, tmp_path), inputs, 6)


# --- what does not fit ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda x: {}, "'x' is missing"),
        (lambda x: {"x": x, "z": x}, "'z' is not one of"),
        (lambda x: {"x": x.astype(np.float64)}, "float64, not float32"),
        (lambda x: {"x": x[:5]}, r"\[5, 8\], not \[6, 8\]"),
        (lambda x: {"x": x[:, :7]}, r"\[6, 7\], not \[6, 8\]"),
        (lambda x: {"x": x.astype("S4")}, "does not travel"),
    ],
)
def test_wrong_inputs_are_refused_before_the_first_step(
    change: Callable[[Array], Arrays], says: str, tmp_path: Path
) -> None:
    sample = models.mlp()
    loaded = load(sample, tmp_path)
    with pytest.raises(TensorsRefused, match=says):
        loaded.steps(change(np.zeros((6, 8), np.float32)), 6)


def renamed(spec: TensorSpec) -> TensorSpec:
    return msgspec.structs.replace(spec, name="other")


def retyped(spec: TensorSpec) -> TensorSpec:
    return msgspec.structs.replace(spec, dtype="float64")


def reshaped(spec: TensorSpec) -> TensorSpec:
    return msgspec.structs.replace(spec, shape=(9,))


def scalar(spec: TensorSpec) -> TensorSpec:
    return msgspec.structs.replace(spec, shape=())


@pytest.mark.parametrize("end", ["inputs", "outputs"])
@pytest.mark.parametrize("change", [renamed, retyped, reshaped, scalar])
def test_a_program_for_another_model_is_refused(
    end: str, change: Callable[[TensorSpec], TensorSpec], tmp_path: Path
) -> None:
    sample = models.mlp()
    program = sample.program()
    specs = getattr(program, end)
    wrong = msgspec.structs.replace(program, **{end: (change(specs[0]), *specs[1:])})
    with pytest.raises(TensorsRefused, match=end[:-1]):
        Loaded.open(sample.write(tmp_path / "m.onnx"), wrong)


def test_a_program_must_name_every_output(tmp_path: Path) -> None:
    sample = models.mlp()
    program = msgspec.structs.replace(sample.program(), outputs=sample.outputs[:1])
    with pytest.raises(TensorsRefused, match=r"outputs are \['label', 'scores'\], the program's"):
        Loaded.open(sample.write(tmp_path / "m.onnx"), program)


def test_a_step_that_fails_says_which_and_why_in_one_line(tmp_path: Path) -> None:
    loaded = load(models.gather(table=4), tmp_path)
    steps = loaded.steps({"i": np.array([0, 1, 2, 3, 0, 9, 0])}, 7)
    assert next(steps)[0].number == 0
    with pytest.raises(ExecutionError) as caught:
        next(steps)
    assert str(caught.value).startswith("step 1, rows from 4: indices element out of data bounds")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("raw", [b"", b"junk", models.mlp().raw[:200]])
def test_a_file_that_is_no_model_is_one_line_without_its_folder(raw: bytes, tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(raw)
    with pytest.raises(ExecutionError, match=r"broken\.onnx cannot be loaded: ") as caught:
        Loaded.open(path, models.mlp().program())
    assert str(tmp_path) not in str(caught.value)
    assert "ONNXRuntimeError" not in str(caught.value)


def test_a_missing_file_is_one_line_too(tmp_path: Path) -> None:
    with pytest.raises(ExecutionError, match=r"gone\.onnx cannot be loaded: .* doesn't exist"):
        Loaded.open(tmp_path / "gone.onnx", models.mlp().program())


def test_the_name_of_a_file_does_not_decide_its_format(tmp_path: Path) -> None:
    sample = models.mlp()
    loaded = Loaded.open(sample.write(tmp_path / "model.ort"), sample.program())
    assert execution.run(loaded, sample.draw(3), 3)["label"].shape == (3,)


# --- the runtime ------------------------------------------------------------------------------------


def test_the_runtime_must_be_one_the_program_allows(tmp_path: Path) -> None:
    sample = models.mlp()
    program = msgspec.structs.replace(sample.program(), runtime_below=execution.runtime_version())
    with pytest.raises(RuntimeOutOfRange, match="less than"):
        Loaded.open(sample.write(tmp_path / "m.onnx"), program)


@pytest.mark.parametrize("level", ["off", "basic", "extended", "all"])
def test_each_optimisation_level_is_known(level: str, tmp_path: Path) -> None:
    sample = models.mlp()
    program = msgspec.convert(
        {**msgspec.to_builtins(sample.program()), "optimisation": level}, Program
    )
    loaded = Loaded.open(sample.write(tmp_path / "m.onnx"), program)
    assert execution.run(loaded, sample.draw(2), 2)["scores"].shape == (2, 4)


def test_the_best_provider_is_taken_and_said(tmp_path: Path) -> None:
    sample = models.mlp()
    loaded = Loaded.open(sample.write(tmp_path / "m.onnx"), sample.program())
    assert loaded.provider in execution.available_providers()
    assert execution.available_providers()[-1] == CPU


@pytest.mark.parametrize(
    "provider", ["AzureExecutionProvider", "TensorrtExecutionProvider", "cpu", ""]
)
def test_a_provider_we_do_not_use_is_refused(provider: str, tmp_path: Path) -> None:
    sample = models.mlp()
    with pytest.raises(ProviderUnavailable, match=f"{provider} cannot be used here; there are"):
        Loaded.open(sample.write(tmp_path / "m.onnx"), sample.program(), provider=provider)


class Runtime:
    """ONNX Runtime as it behaves on a computer with CUDA built in; sessions still run on the CPU.

    `gives` is the provider a session ends up with, `places` where it puts its nodes.
    """

    def __init__(self, gives: str | None, places: str | None) -> None:
        self.gives = gives
        self.places = places
        self.opened: list[list[tuple[str, dict[str, str]]]] = []

    def session(
        self, path: str, options: onnxruntime.SessionOptions, *, providers: list[tuple[str, dict[str, str]]],
        enable_fallback: int,
    ) -> object:  # fmt: skip
        self.opened.append(providers)
        first = providers[0][0]
        if first == CUDA and self.gives is None:
            raise RuntimeError("libcudnn.so.9: cannot open shared object file")
        real = onnxruntime.InferenceSession(path, options, providers=[CPU])
        got = CPU if first == CPU else self.gives
        session = SimpleNamespace(
            run=real.run,
            get_inputs=real.get_inputs,
            get_outputs=real.get_outputs,
            get_providers=lambda: [got],
        )
        if self.places is not None:
            parts = [SimpleNamespace(ep_name=self.places)]
            session.get_provider_graph_assignment_info = lambda: parts
        return session


def runtime_with_cuda(
    monkeypatch: pytest.MonkeyPatch, *, gives: str | None = CUDA, places: str | None = CUDA
) -> Runtime:
    runtime = Runtime(gives, places)
    double = SimpleNamespace(**vars(onnxruntime))
    double.InferenceSession = runtime.session
    double.get_available_providers = lambda: ["TensorrtExecutionProvider", CUDA, CPU]
    monkeypatch.setattr(execution, "onnxruntime", double)
    return runtime


@pytest.mark.parametrize("places", [CUDA, None])
def test_cuda_is_taken_where_the_session_got_it(
    places: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = models.mlp()
    runtime = runtime_with_cuda(monkeypatch, places=places)
    loaded = Loaded.open(sample.write(tmp_path / "m.onnx"), sample.program())
    assert loaded.provider == CUDA
    assert runtime.opened[0][0][1]["use_tf32"] == "0"
    assert runtime.opened[0][0][1]["cudnn_conv_algo_search"] == "DEFAULT"


@pytest.mark.parametrize(
    ("gives", "places"),
    [(None, CUDA), (CPU, CPU), (CUDA, CPU)],
    ids=["does not load", "falls back quietly", "is given no node"],
)
class TestCudaThatIsNotThere:
    def test_the_cpu_is_the_next_best_and_said_so(
        self, gives: str | None, places: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sample = models.mlp()
        runtime_with_cuda(monkeypatch, gives=gives, places=places)
        assert Loaded.open(sample.write(tmp_path / "m.onnx"), sample.program()).provider == CPU

    def test_asked_for_it_is_refused(
        self, gives: str | None, places: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sample = models.mlp()
        runtime_with_cuda(monkeypatch, gives=gives, places=places)
        with pytest.raises(ProviderUnavailable, match="CUDAExecutionProvider cannot be used here"):
            Loaded.open(sample.write(tmp_path / "m.onnx"), sample.program(), provider=CUDA)


def test_runs_say_nothing_on_stderr(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    loaded = load(models.gather(), tmp_path)
    with pytest.raises(ExecutionError):
        execution.run(loaded, {"i": np.array([9])}, 1)
    assert capfd.readouterr() == ("", "")


# --- helpers ----------------------------------------------------------------------------------------


def first(arrays: Arrays, rows: int) -> Arrays:
    return {name: array[:rows] for name, array in arrays.items()}


def assert_close(got: Array, wanted: Array) -> None:
    np.testing.assert_allclose(got.astype(float), wanted.astype(float), rtol=1e-5, atol=1e-6)


def assert_same(a: Arrays, b: Arrays) -> None:
    assert {n: (v.shape, v.tobytes()) for n, v in a.items()} == {
        n: (v.shape, v.tobytes()) for n, v in b.items()
    }
