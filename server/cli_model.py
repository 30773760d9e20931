"""`model`: which networks the project computes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from server import cli_shell
from server.cli_shell import folder_of, json_option, require_public_data, say

if TYPE_CHECKING:
    from server.domain.records import ModelRow
    from workunits.wire.messages import ModelFacts, TensorSpec

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group()
def model() -> None:
    """Add, list, show and retire models."""


@model.command("add")
@click.argument("file", type=_FILE)
@click.option("--name", required=True, help="What batches call it.")
@click.option("--calibration", type=_FILE, help="Rows (.npz) that the model is made for.")
@click.option("--public-data", is_flag=True, help="The model may be seen by everybody.")
@json_option
@click.pass_context
def add(
    context: click.Context,
    file: Path,
    name: str,
    calibration: Path | None,
    public_data: bool,
    as_json: bool,
) -> None:
    """Vet the ONNX model in FILE and publish it."""
    from server.cli_project import opened

    require_public_data(public_data)
    with opened(folder_of(context)) as project:
        row = project.models().add(file, name, calibration)
    if as_json:
        cli_shell.print_json(_json(row))
        return
    say(f"model {row.name} added")
    _print(row)


@model.command("list")
@json_option
@click.pass_context
def list_(context: click.Context, as_json: bool) -> None:
    """The project's models."""
    from server.cli_project import opened

    with opened(folder_of(context)) as project:
        rows = project.models().list()
    if as_json:
        cli_shell.print_json([_json(row) for row in rows])
    elif not rows:
        say("no models yet; add one with: tesla-at-home-server model add FILE.onnx --name NAME")
    else:
        cli_shell.print_table(
            ("name", "state", "#bytes", "added"),
            [(r.name, r.state, f"{r.size:,}", cli_shell.moment(r.added_ms)) for r in rows],
        )


@model.command("show")
@click.argument("name")
@json_option
@click.pass_context
def show_(context: click.Context, name: str, as_json: bool) -> None:
    """What is known about one model."""
    from server.cli_project import opened

    with opened(folder_of(context)) as project:
        row = project.models().get(name)
    if as_json:
        cli_shell.print_json(_json(row))
    else:
        _print(row)


@model.command("retire")
@click.argument("name")
@click.pass_context
def retire(context: click.Context, name: str) -> None:
    """Take no new batches of a model; vehicles stop trusting it."""
    from server.cli_project import opened

    with opened(folder_of(context)) as project:
        project.models().retire(name)
    say(f"model {name} retired")


def _json(row: ModelRow) -> dict[str, object]:
    import json

    return {
        "name": row.name,
        "state": row.state,
        "sha256": row.digest.hex(),
        "size": row.size,
        "added": cli_shell.iso(row.added_ms),
        "facts": json.loads(row.facts),
    }


def _print(row: ModelRow) -> None:
    from server.services.models import facts_of

    facts = facts_of(row)
    rules = facts.calibration
    cli_shell.print_facts(
        [
            ("name", row.name),
            ("state", row.state),
            ("sha256", row.digest.hex()),
            ("size", f"{row.size:,} bytes, opset {facts.opset}, {_precision(facts)}"),
            *(("input", _tensor(spec)) for spec in facts.inputs),
            *(("output", _tensor(spec)) for spec in facts.outputs),
            ("cost", f"{facts.kflop_per_row:,} kFLOP per row"),
            ("rows per call", str(facts.batch_rows or "any number")),
            ("compared", "bit for bit" if facts.is_portable_exact else "within a tolerance"),
            ("calibrated", f"on {rules.rows} rows" if rules else "on rows of each batch"),
        ]
    )


def _precision(facts: ModelFacts) -> str:
    """In words: the contract calls whatever has no float int8, also where integers are wider."""
    dtypes = {spec.dtype for spec in (*facts.inputs, *facts.outputs)}
    has_float = any(dtype.startswith("float") for dtype in dtypes)
    is_quantised = facts.precision == "int8" and bool(dtypes & {"int8", "uint8"})
    return facts.precision if has_float or is_quantised or facts.precision != "int8" else "integers"


def _tensor(spec: TensorSpec) -> str:
    shape = ", ".join(str(size) for size in spec.shape)
    rows = f"rows, {shape}" if shape else "rows"
    form = f"[{rows}]" if spec.scope == "row" else f"[{shape}], shared by all rows"
    return f"{spec.name} {spec.dtype} {form}"
