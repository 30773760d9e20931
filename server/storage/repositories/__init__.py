"""The repositories of `server.ports`, in SQL. They read and write rows and decide nothing.

All of them work on the connection of one transaction. Statements are built once per module, so that
SQLAlchemy compiles each once and SQLite prepares each once.
"""

from __future__ import annotations

from functools import cached_property

from sqlalchemy import Connection

from server.storage.repositories.batches import SqlBatches, SqlModels
from server.storage.repositories.credit import SqlCredit
from server.storage.repositories.joining import SqlHousekeeping, SqlJoining, SqlMeta
from server.storage.repositories.owners import SqlOwners
from server.storage.repositories.payloads import SqlPayloads, SqlUploads
from server.storage.repositories.replicas import SqlReplicas
from server.storage.repositories.units import SqlUnits
from server.storage.repositories.vehicles import SqlVehicles


class SqlRepositories:
    """`server.ports.Repositories` on one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @cached_property
    def meta(self) -> SqlMeta:
        return SqlMeta(self._connection)

    @cached_property
    def owners(self) -> SqlOwners:
        return SqlOwners(self._connection)

    @cached_property
    def vehicles(self) -> SqlVehicles:
        return SqlVehicles(self._connection)

    @cached_property
    def joining(self) -> SqlJoining:
        return SqlJoining(self._connection)

    @cached_property
    def models(self) -> SqlModels:
        return SqlModels(self._connection)

    @cached_property
    def batches(self) -> SqlBatches:
        return SqlBatches(self._connection)

    @cached_property
    def units(self) -> SqlUnits:
        return SqlUnits(self._connection)

    @cached_property
    def replicas(self) -> SqlReplicas:
        return SqlReplicas(self._connection)

    @cached_property
    def payloads(self) -> SqlPayloads:
        return SqlPayloads(self._connection)

    @cached_property
    def uploads(self) -> SqlUploads:
        return SqlUploads(self._connection)

    @cached_property
    def credit(self) -> SqlCredit:
        return SqlCredit(self._connection)

    @cached_property
    def housekeeping(self) -> SqlHousekeeping:
        return SqlHousekeeping(self._connection)
