"""How the repositories speak to the database: lists of keys in, guarded writes, rows as values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, Final, TypeAlias

from sqlalchemy import (
    BindParameter,
    ColumnClause,
    ColumnElement,
    Connection,
    Dialect,
    Insert,
    Row,
    Select,
    String,
    Table,
    Update,
    bindparam,
    literal_column,
    select,
)
from sqlalchemy.sql.compiler import SQLCompiler

from server.errors import StateChanged

# SQLAlchemy cannot know the types of columns that are chosen by a record's fields; the record does.
AnyRow: TypeAlias = Row[*tuple[Any, ...]]
AnySelect: TypeAlias = Select[*tuple[Any, ...]]

# Keys in one SELECT; SQLite takes 32,766 variables, and short statements are prepared once.
_KEYS: Final = 512


def keys() -> BindParameter[Sequence[object]]:
    """The place of a list of keys in a statement, for `among`."""
    return bindparam("keys", expanding=True)


def word(state: str) -> ColumnClause[str]:
    """A fixed word within a statement's text: a partial index fits only what it can see there."""
    return literal_column(f"'{state}'", String)


def words(*states: str) -> list[ColumnClause[str]]:
    """As `word`, for `in_`; a list of parameters could not be written many times at once."""
    return [word(state) for state in states]


def among(
    connection: Connection, statement: AnySelect, wanted: Sequence[object], **also: object
) -> Iterator[AnyRow]:
    """Rows of a statement with `keys()`, for as many keys as there are; `also` are its parameters.

    Lists are filled up to a power of two with their last key, so that a handful of prepared
    statements serves every length.
    """
    for start in range(0, len(wanted), _KEYS):
        block = list(wanted[start : start + _KEYS])
        block += block[-1:] * ((1 << (len(block) - 1).bit_length()) - len(block))
        text = _text_among(statement, connection.dialect, len(block), tuple(also))
        given = text.fixed | also | {f"keys_{n}": key for n, key in enumerate(block, start=1)}
        yield from connection.exec_driver_sql(text.sql, tuple(given[name] for name in text.names))


def write_each(
    connection: Connection,
    statement: Insert | Update,
    rows: Sequence[Mapping[str, object]],
    what: str,
) -> None:
    """Run an UPDATE once per row; each must find exactly one row in the state that it names.

    Raises:
        StateChanged: one did not.
    """
    if not rows:
        return
    found = _run_each(connection, statement, rows)
    if found != len(rows):
        raise StateChanged(f"{what}: {len(rows) - found} of {len(rows)} were in another state")


def insert_each(
    connection: Connection, statement: Insert | Update, rows: Sequence[Mapping[str, object]]
) -> None:
    """Run an INSERT once per row; all rows have the same columns."""
    if rows:
        _run_each(connection, statement, rows)


@dataclass(frozen=True, slots=True)
class _Text:
    """A statement as the driver takes it: its parameters in order, and those that never change.

    SQLAlchemy's own way through `execute` looks at each parameter of each row, which costs more
    than SQLite needs for the row. The values here are what the driver takes as they are.
    """

    sql: str
    names: Sequence[str]
    fixed: dict[str, object]


def _run_each(
    connection: Connection, statement: Insert | Update, rows: Sequence[Mapping[str, object]]
) -> int:
    text = _text_each(statement, connection.dialect, tuple(rows[0]))
    ordered = [
        tuple(row[name] if name in row else text.fixed[name] for name in text.names) for row in rows
    ]
    return connection.exec_driver_sql(text.sql, ordered).rowcount


@cache
def _text_each(statement: Insert | Update, dialect: Dialect, columns: tuple[str, ...]) -> _Text:
    only = list(columns) if isinstance(statement, Insert) else None
    compiled = statement.compile(dialect=dialect, column_keys=only)
    assert isinstance(compiled, SQLCompiler)
    return _Text(compiled.string, compiled.positiontup or (), dict(compiled.params))


@cache
def _text_among(statement: AnySelect, dialect: Dialect, count: int, also: tuple[str, ...]) -> _Text:
    compiled = statement.compile(dialect=dialect)
    assert isinstance(compiled, SQLCompiler)
    stand_ins: dict[str, Any] = {"keys": [b""] * count} | dict.fromkeys(also)
    state = compiled.construct_expanded_state(stand_ins)
    return _Text(state.statement, state.positiontup or (), dict(state.parameters))


def chosen(record: type, *tables: Table, also: Sequence[ColumnElement[Any]] = ()) -> AnySelect:
    """SELECT of `also` and the record's fields, each from the first table that has such a column."""
    return select(*also, *(_column(field.name, tables) for field in fields(record)))


def _column(name: str, tables: Sequence[Table]) -> ColumnElement[Any]:
    found: ColumnElement[Any] = next(table.c[name] for table in tables if name in table.c)
    return found
