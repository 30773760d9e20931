"""`batch submit` and `batch estimate`: what a submitter may ask for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final, TypedDict, Unpack

import click

from server import cli_shell
from server.cli_shell import folder_of, json_option, say
from server.errors import NotAvailableYet

if TYPE_CHECKING:
    from server.cli_project import Opened
    from server.domain.cutting import Cut
    from server.services.publishing import Submission
    from workunits.kinds.base import KindOptions

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_LATER_ASSURANCES: Final = ("audited", "exact")
# Meta key: the submitter was told who sees the data, and agreed.
_AGREED: Final = "public_data_agreed_ms"


class Asked(TypedDict):
    """The options that describe a submission."""

    model: str
    input_file: Path
    kind: str
    scores: str | None
    classes: Path | None
    top: int | None
    shared: Path | None
    step: int | None
    rows_per_unit: int | None
    quorum: int
    assurance: str
    deadline: str


def _submission_options(command: cli_shell.F) -> cli_shell.F:
    for option in reversed(
        (
            click.option("--model", required=True, help="Name of a model."),
            click.option("--input", "input_file", required=True, type=_FILE, help="The data set: "
                         ".npz, .npy, .safetensors, .parquet or .jsonl."),
            click.option("--kind", type=click.Choice(["tensor", "classify"]), default="tensor",
                         show_default=True),
            click.option("--scores", help="classify: the output that holds the scores."),
            click.option("--classes", type=_FILE, help="classify: class names, one a line."),
            click.option("--top", type=click.IntRange(min=1), help="classify: how many classes."),
            click.option("--shared", type=_FILE, help="What all rows share (.npz)."),
            click.option("--step", type=click.IntRange(min=1), help="Rows in one call."),
            click.option("--rows-per-unit", type=click.IntRange(min=1)),
            click.option("--quorum", type=click.IntRange(min=1), default=2, show_default=True),
            click.option("--assurance", default="replicated", show_default=True,
                         type=click.Choice(["replicated", *_LATER_ASSURANCES])),
            click.option("--deadline", default="14d", show_default=True, help="14d, 6h, 30m."),
        )
    ):  # fmt: skip
        command = option(command)
    return command


@click.command("submit")
@_submission_options
@click.option("--public-data", is_flag=True, help="The data may be seen by everybody.")
@click.option("--wait", is_flag=True, help="Follow the batch until it ends.")
@json_option
@click.pass_context
def submit(
    context: click.Context,
    /,
    public_data: bool,
    wait: bool,
    as_json: bool,
    **options: Unpack[Asked],
) -> None:
    """Cut a data set into units, sign them and hand them out."""
    from server.cli_project import opened
    from server.cli_rows import batch_json
    from server.cli_watch import exit_code, watch_batch

    asked = _submission(**options)
    with opened(folder_of(context)) as project:
        _agree_to_public_data(project, public_data)
        row = project.publishing().submit(asked, lambda cut: _note_step(cut, asked))
        if asked.quorum == 1:
            cli_shell.note("note: with --quorum 1 nothing is cross-checked")
        if not as_json:
            say(f"batch {row.id.hex()}: {row.rows:,} rows, cut into units: {row.units:,}")
        if wait:
            row = watch_batch(project.database, row.id, is_quiet=as_json)
    if as_json:
        cli_shell.print_json(batch_json(row))
    if wait:
        raise click.exceptions.Exit(exit_code(row))


@click.command("estimate")
@_submission_options
@json_option
@click.pass_context
def estimate(context: click.Context, /, as_json: bool, **options: Unpack[Asked]) -> None:
    """What a submission would come to; nothing is stored."""
    from server.cli_project import opened
    from server.http import wording

    asked = _submission(**options)
    with opened(folder_of(context)) as project:
        found = project.publishing().estimate(asked)
    _note_step(found.cut, asked)
    if found.is_run:
        cli_shell.note(
            "note: the model was not run; `submit` runs it on some rows, to calibrate it"
        )
    if as_json:
        cli_shell.print_json(
            {
                "rows": found.cut.rows,
                "units": found.cut.units,
                "rows_per_unit": found.cut.rows_per_unit,
                "rows_per_step": found.cut.rows_per_step,
                "replicas": found.replicas,
                "kflop": found.kflop,
            }
        )
        return
    cli_shell.print_facts(
        [
            ("rows", f"{found.cut.rows:,}"),
            ("units", f"{found.cut.units:,} of {found.cut.rows_per_unit:,} rows"),
            ("steps", f"of {found.cut.rows_per_step:,} rows"),
            ("computed", f"{_times(found.quorum)} a unit, {found.replicas:,} in all, if all agree"),
            ("credit", f"about {wording.credit(found.kflop * found.quorum)}"),
        ]
    )


def _submission(**asked: Unpack[Asked]) -> Submission:
    from server.domain.cutting import Wishes
    from server.services.publishing import Submission

    if asked["assurance"] in _LATER_ASSURANCES:
        raise NotAvailableYet(f"--assurance {asked['assurance']} is not available yet")
    return Submission(
        model=asked["model"],
        input=asked["input_file"],
        kind=asked["kind"],
        options=_options(asked),
        shared=asked["shared"],
        wishes=Wishes(asked["step"], asked["rows_per_unit"]),
        quorum=asked["quorum"],
        deadline_s=cli_shell.seconds(asked["deadline"], "--deadline"),
    )


def _note_step(cut: Cut, asked: Submission) -> None:
    from server.domain.cutting import step_note

    if said := step_note(cut, asked.wishes):
        cli_shell.note(f"note: {said}")


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"


def _options(asked: Asked) -> KindOptions:
    from workunits.kinds.base import KindOptions
    from workunits.kinds.classify import read_class_names

    scores, classes, top = asked["scores"], asked["classes"], asked["top"]
    if asked["kind"] != "classify" and (scores or classes or top):
        raise click.UsageError("--scores, --classes and --top belong to --kind classify")
    names = None if classes is None else read_class_names(classes)
    return KindOptions(class_names=names, scores=scores, top=top)


def _agree_to_public_data(project: Opened, is_public: bool) -> None:
    """The first batch of a project asks; the answer is kept."""
    with project.database.reading() as storage:
        if storage.meta.get(_AGREED) is not None:
            return
    cli_shell.require_public_data(is_public)
    with project.database.transaction() as storage:
        storage.meta.put(_AGREED, str(project.clock.now_ms()).encode())
