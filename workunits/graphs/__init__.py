"""Which ONNX graphs vehicles run, and what a row of them costs; the only import of `onnx`.

`vet` decides whether a model may be published and computed: used by `model add`, and by the
vehicle's child before a session is made. Everything is told from the file alone: nothing of the
graph is run, and a hostile file costs a refusal. Whether the model computes anything sensible is
for calibration to say, not for this package.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from workunits.errors import GraphRefused
from workunits.graphs import costs, interface, reading
from workunits.graphs.axes import check_rows_apart
from workunits.graphs.inference import Inferred, infer
from workunits.graphs.interface import Interface
from workunits.graphs.operators import OPERATORS
from workunits.graphs.reading import Model
from workunits.graphs.refusal import cause, refused
from workunits.graphs.scores import check_scores
from workunits.program import DEFAULT_ROWS_PER_STEP
from workunits.wire import limits
from workunits.wire.messages import ModelFacts, TensorSpecs

__all__ = ["vet"]

# How many rows more the second look takes; small, so that few axes are that much longer by chance.
_MORE_ROWS: Final = 5


def vet(raw: bytes | Path, *, name: str) -> ModelFacts:
    """What is known of the model in `raw`, an ONNX file or its bytes, without calibration.

    `kflop_per_row` is counted by the convention of `flops` at `DEFAULT_ROWS_PER_STEP` rows, or at
    the model's own fixed number, rounded up.

    Raises:
        GraphRefused: vehicles do not run it; one line with what, where, and how to mend it.
    """
    model = reading.read(_content(raw))
    taken = interface.read(model.graph)
    reading.check_structure(model)
    seen, outputs = _look(model, taken, taken.batch_rows or DEFAULT_ROWS_PER_STEP)
    _check_rows(model, taken, seen, outputs)
    check_scores(outputs, seen.calls, seen.rows)
    costs.check_traffic(seen)
    kflop = costs.kflop_per_row(seen)
    reading.check_types(model)
    return ModelFacts(
        name=name,
        opset=model.opsets[""],
        inputs=taken.inputs,
        outputs=outputs,
        kflop_per_row=kflop,
        batch_rows=taken.batch_rows,
        precision=costs.precision(seen),
        is_portable_exact=costs.is_portable_exact(seen),
    )


def _content(raw: bytes | Path) -> bytes:
    if isinstance(raw, bytes):
        return raw
    try:
        if raw.stat().st_size > limits.MODEL_BYTES:
            raise refused(
                f"{raw.name} is larger than {limits.MODEL_BYTES:,} bytes", "use a smaller model"
            )
        return raw.read_bytes()
    except OSError as error:
        raise refused(
            f"{raw.name} cannot be read: {cause(error)}", "name a readable file"
        ) from None


def _look(model: Model, taken: Interface, rows: int) -> tuple[Inferred, TensorSpecs]:
    """The model at `rows` rows, and its outputs."""
    seen = infer(model, taken.tensors(rows), rows)
    return seen, interface.output_specs(model.graph, seen.tensors, rows)


def _check_rows(model: Model, taken: Interface, seen: Inferred, outputs: TensorSpecs) -> None:
    """Look again with more rows: only the batch axes may have changed, and nothing works along them.

    A model whose batch axis is fixed may not allow that look; then its word is taken.
    """
    try:
        more, again = _look(model, taken, seen.rows + _MORE_ROWS)
    except GraphRefused:
        if taken.batch_rows is None:
            raise
        return
    if again != outputs:
        raise refused("the shape of an output depends on the number of rows", "export it again")
    for few, many in zip(seen.calls, more.calls, strict=True):
        check_rows_apart(few, many, seen.rows, OPERATORS[few.op].along)
