"""How much of the disk units take in the end, by what is signed of them. Reads no disk.

Models and inputs count once, however many units share them; an output is there twice, as steps and as
a whole. What models that no unit needs take is the shelf's to evict.
"""

from __future__ import annotations

from collections.abc import Sequence

from tesla_at_home.agent.books import Facts


def disk_bytes(facts: Sequence[Facts]) -> int:
    """Bytes of models, inputs and outputs of units with these facts."""
    models = {one.model: one.model_bytes for one in facts}
    return sum(models.values()) + units_bytes(facts)


def units_bytes(facts: Sequence[Facts]) -> int:
    """As `disk_bytes`, without the models."""
    inputs = {part.digest: part.size for one in facts for part in one.inputs}
    return sum(inputs.values()) + sum(2 * one.output_bytes for one in facts)
