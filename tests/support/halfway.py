"""A project in the middle of its work, to be damaged: leases are out, uploads are complete, results wait.

It is made once and copied; what the rest of the scene says about it, and what `doctor` says.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from server.cli_doctor import Finding, examine
from server.errors import ServerError
from tests.support.disk_server import ASKED, DiskServer, Memory, Stage, scene
from tests.support.model_vehicle import ModelVehicle

_HALFWAY: Final = "settle wide"


@dataclass(frozen=True)
class Halfway:
    """The project in `folder`, closed in order, and what everybody remembers."""

    folder: Path
    memory: Memory

    @classmethod
    def in_folder(cls, folder: Path) -> Halfway:
        stage = Stage(DiskServer(folder))
        for name, act in scene():
            if name == _HALFWAY:
                break
            act(stage)
        stage.server.database.close()
        return cls(folder, stage.memory())

    def copy(self, folder: Path) -> Path:
        return Path(shutil.copytree(self.folder, folder))

    def open(self, folder: Path) -> Stage:
        """A server on a copy, and everybody as they were."""
        stage = Stage(DiskServer(folder))
        self.memory.back(stage)
        return stage

    def told(self, folder: Path) -> list[str]:
        """What the server says in the rest of the scene; only errors that it raises on purpose."""
        try:
            stage = self.open(folder)
        except ServerError as error:
            return [str(error)]
        try:
            return _finish(stage)
        finally:
            stage.server.database.close()


def _finish(stage: Stage) -> list[str]:
    """Everybody does the rest of the scene, whatever fails."""
    told: list[str] = []
    at = [name for name, _ in scene()].index(_HALFWAY)
    for _, act in scene()[at:]:
        try:
            act(stage)
        except ServerError as error:
            told.append(str(error))
    return told


def sql(database: Path, statement: str, *values: object) -> list[tuple[object, ...]]:
    """Carry out a statement behind the server's back; its rows."""
    connection = sqlite3.connect(database)
    try:
        with connection:
            return connection.execute(statement, values).fetchall()
    finally:
        connection.close()


def doctor(folder: Path, what: str) -> Finding:
    """What `doctor` finds about one thing."""
    (found,) = (finding for finding in examine(folder) if finding.what == what)
    return found


def enrol(stage: Stage, name: str) -> None:
    """One more owner with a vehicle."""
    number = 10 + len(stage.vehicles)
    vehicle = stage.vehicles[name] = ModelVehicle(number, number)
    stage.server.enrolments().enrol(vehicle.enrolment(name=f"owner {name}"), ASKED, "10.0.0.0/24")


def work_through(stage: Stage, names: Sequence[str]) -> None:
    """Two owners do whatever they get, for a while."""
    for _ in range(4):
        for name in names:
            vehicle = stage.vehicles[name]
            for units in (3, 0):
                vehicle.hear(stage.server.answer([vehicle.request(units)])[0])
                vehicle.compute()
        stage.server.settle()
