"""`doctor`: a table of what was looked at, with a line on how to mend what is not well."""

from __future__ import annotations

from typing import Final

import click

from tesla_at_home.cli_shell import (
    DONE,
    FAILED,
    counted,
    directory_of,
    json_option,
    note,
    plain,
    print_json,
    print_table,
    spelled,
)

_MARKS: Final = {"ok": "ok", "warning": "warning", "fault": "FAULT"}


@click.command()
@json_option
@click.pass_context
def doctor(context: click.Context, as_json: bool) -> int:
    """Look at everything that computing needs, and say how to mend what is not well."""
    from tesla_at_home.cli_doctor_checks import examine

    findings = list(examine(directory_of(context)))
    faults = sum(each.state == "fault" for each in findings)
    if as_json:
        print_json([_object(plain(each)) for each in findings])
    else:
        rows = (
            (each.what, _MARKS[each.state], each.detail, spelled(each.mend)) for each in findings
        )
        print_table(("looked at", "", "what was found", "how to mend it"), rows)
    if faults:
        note(f"error: {counted(faults, 'fault')}")
    return FAILED if faults else DONE


def _object(value: object) -> dict[str, object]:
    assert isinstance(value, dict)
    return value
