"""The program that a batch signs: what every vehicle must do alike with a model (PROTOCOL 6.2)."""

from __future__ import annotations

from typing import Final

from workunits.values import Digest
from workunits.wire.messages import ModelFacts, Program

# The oldest ONNX Runtime that the vehicle's package installs with, and the next major version, which
# may change kernels in ways that the tolerance was never measured against.
RUNTIME_FROM: Final = "1.20"
RUNTIME_BELOW: Final = "2.0"


def program_for(facts: ModelFacts, model: Digest, rows_per_step: int) -> Program:
    """The program of a batch over the model with this digest."""
    return Program(
        model=model,
        inputs=facts.inputs,
        outputs=facts.outputs,
        rows_per_step=rows_per_step,
        optimisation="all",
        precision=facts.precision,
        runtime_from=RUNTIME_FROM,
        runtime_below=RUNTIME_BELOW,
        kflop_per_row=facts.kflop_per_row,
    )
