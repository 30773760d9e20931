"""What must hold of the server's database at any moment between two transactions."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

# Each query finds what must not be; its name says what that would be.
BROKEN: Final = {
    "an owner with two voices in one unit": """
        SELECT unit_id, owner_id FROM replicas WHERE owner_id IS NOT NULL
        GROUP BY unit_id, owner_id HAVING count(*) > 1""",
    "a lease id used twice": """
        SELECT lease_id FROM replicas WHERE lease_id IS NOT NULL
        GROUP BY lease_id HAVING count(*) > 1""",
    "a leased replica without owner, vehicle, lease or deadline": """
        SELECT id FROM replicas WHERE state = 'leased' AND (owner_id IS NULL OR vehicle_id IS NULL
        OR lease_id IS NULL OR deadline_ms IS NULL)""",
    "a ready replica that somebody has": """
        SELECT id FROM replicas WHERE state = 'ready'
        AND (owner_id IS NOT NULL OR lease_id IS NOT NULL)""",
    "a returned or lost replica that still counts as its owner's voice": """
        SELECT id FROM replicas WHERE state IN ('returned', 'lost') AND owner_id IS NOT NULL""",
    "a result without output or owner": """
        SELECT id FROM replicas WHERE state IN ('reported', 'valid', 'invalid', 'inconclusive', 'set_aside')
        AND (output IS NULL OR owner_id IS NULL)""",
    "a valid result that is not in the ledger exactly once, with its credit": """
        SELECT r.id FROM replicas r LEFT JOIN ledger l
        ON l.replica_id = r.id AND l.owner_id = r.owner_id AND l.kflop = r.kflop
        WHERE r.state = 'valid' GROUP BY r.id HAVING count(l.id) <> 1""",
    "credit for something else than a valid result": """
        SELECT l.id FROM ledger l LEFT JOIN replicas r ON r.id = l.replica_id
        WHERE r.state IS NOT 'valid'""",
    "an owner whose credit is not the sum of their ledger": """
        SELECT id FROM owners WHERE credit_kflop
        <> (SELECT coalesce(sum(kflop), 0) FROM ledger WHERE owner_id = owners.id)""",
    "an owner whose month is not the sum of their days": """
        SELECT id FROM owners WHERE month_kflop
        <> (SELECT coalesce(sum(kflop), 0) FROM owner_days WHERE owner_id = owners.id)""",
    "a vehicle whose credit is not the sum of its ledger": """
        SELECT id FROM vehicles WHERE credit_kflop
        <> (SELECT coalesce(sum(kflop), 0) FROM ledger WHERE vehicle_id = vehicles.id)""",
    "a vehicle whose counts of verdicts are wrong": """
        SELECT id FROM vehicles v
        WHERE valid <> (SELECT count(*) FROM replicas WHERE vehicle_id = v.id AND state = 'valid')
        OR invalid
        <> (SELECT count(*) FROM replicas WHERE vehicle_id = v.id AND state = 'invalid')""",
    "credit through a vehicle that is not its owner's": """
        SELECT l.id FROM ledger l LEFT JOIN vehicles v
        ON v.id = l.vehicle_id AND v.owner_id = l.owner_id
        WHERE l.vehicle_id IS NOT NULL AND v.id IS NULL""",
    "an owner whose vehicles have more credit than they": """
        SELECT id FROM owners WHERE credit_kflop
        < (SELECT coalesce(sum(credit_kflop), 0) FROM vehicles WHERE owner_id = owners.id)""",
    "an owner whose month is more than their credit": """
        SELECT id FROM owners WHERE month_kflop > credit_kflop""",
    "an owner whose credit of the days that are kept is not in their ledger": """
        SELECT d.owner_id FROM owner_days d WHERE d.kflop
        <> (SELECT coalesce(sum(kflop), 0) FROM ledger l WHERE l.owner_id = d.owner_id
            AND l.at_ms / 86400000 = d.day)""",
    "a replica that names a vehicle which is not here": """
        SELECT id FROM replicas WHERE vehicle_id IS NOT NULL
        AND vehicle_id NOT IN (SELECT id FROM vehicles)""",
    "a voice through another owner's vehicle": """
        SELECT r.id FROM replicas r JOIN vehicles v ON v.id = r.vehicle_id
        WHERE r.owner_id IS NOT NULL AND r.owner_id <> v.owner_id""",
    "an erased owner with something that may still become credit": """
        SELECT r.id FROM replicas r JOIN owners o ON o.id = r.owner_id
        WHERE o.state = 'erased' AND r.state IN ('leased', 'reported', 'inconclusive', 'set_aside')""",
    "something untold that nobody will ask for": """
        SELECT id FROM replicas WHERE untold AND vehicle_id IS NULL""",
    "a done unit without a valid canonical result": """
        SELECT u.id FROM units u LEFT JOIN replicas r ON r.id = u.canonical_id
        WHERE u.state = 'done' AND (r.state IS NOT 'valid' OR r.output IS NOT u.output)""",
    "a canonical result of a unit that is not done": """
        SELECT id FROM units WHERE state <> 'done' AND canonical_id IS NOT NULL""",
    "an open unit that nothing will ever move": """
        SELECT u.id FROM units u JOIN batches b ON b.id = u.batch_id
        WHERE u.state = 'open' AND b.state = 'running' AND NOT u.needs_check AND NOT EXISTS
        (SELECT 1 FROM replicas r WHERE r.unit_id = u.id AND r.state IN ('ready', 'leased'))""",
    "a settled unit with a replica that may still be given out": """
        SELECT u.id FROM units u JOIN replicas r ON r.unit_id = u.id
        WHERE u.state <> 'open' AND r.state = 'ready'""",
    "a failed or cancelled unit with something left to wait for": """
        SELECT u.id FROM units u JOIN replicas r ON r.unit_id = u.id
        WHERE u.state IN ('failed', 'cancelled')
        AND r.state IN ('leased', 'reported', 'inconclusive')""",
    "a unit with enough results that nobody will check": """
        SELECT u.id FROM units u JOIN batches b ON b.id = u.batch_id
        JOIN replicas r ON r.unit_id = u.id AND r.state IN ('reported', 'inconclusive')
        WHERE u.state = 'open' AND NOT u.needs_check
        GROUP BY u.id HAVING count(*) >= b.quorum AND sum(r.state = 'reported') > 0""",
    "a late result that nobody will compare": """
        SELECT u.id FROM units u JOIN replicas r ON r.unit_id = u.id
        WHERE u.state = 'done' AND NOT u.needs_check AND r.state IN ('reported', 'inconclusive')""",
    "a unit whose count of replicas is wrong": """
        SELECT id FROM units WHERE replicas
        <> (SELECT count(*) FROM replicas
            WHERE unit_id = units.id AND state <> 'returned' AND NOT is_repeat)""",
    "two lapses of one owner in one unit that both count": """
        SELECT r.unit_id, v.owner_id FROM replicas r JOIN vehicles v ON v.id = r.vehicle_id
        WHERE r.state = 'lost' AND r.code = 'lease_ended' AND NOT r.is_repeat
        GROUP BY r.unit_id, v.owner_id HAVING count(*) > 1""",
    "a result with a voice in an open unit whose vehicle is in quarantine": """
        SELECT r.id FROM replicas r JOIN vehicles v ON v.id = r.vehicle_id
        JOIN units u ON u.id = r.unit_id
        WHERE v.state = 'quarantined' AND u.state = 'open'
        AND r.state IN ('reported', 'inconclusive')""",
    "a result that is set aside though its vehicle is not in quarantine": """
        SELECT r.id FROM replicas r JOIN vehicles v ON v.id = r.vehicle_id
        WHERE r.state = 'set_aside' AND v.state = 'active'""",
    "a result that is set aside for ever": """
        SELECT r.id FROM replicas r JOIN units u ON u.id = r.unit_id
        WHERE r.state = 'set_aside' AND u.state <> 'open'""",
    "a unit whose count of errors is wrong": """
        SELECT id FROM units WHERE errors
        <> (SELECT count(*) FROM replicas
            WHERE unit_id = units.id AND state = 'failed' AND NOT is_repeat)""",
    "a batch whose counts of units are wrong": """
        SELECT id FROM batches
        WHERE units_done
        <> (SELECT count(*) FROM units WHERE batch_id = batches.id AND state = 'done')
        OR units_failed
        <> (SELECT count(*) FROM units WHERE batch_id = batches.id AND state = 'failed')""",
    "a running batch in which every unit is settled": """
        SELECT id FROM batches WHERE state = 'running' AND units_done + units_failed = units""",
}


def check_invariants(path: Path) -> None:
    """Raise AssertionError naming everything that is broken in the database at `path`."""
    connection = sqlite3.connect(path)
    try:
        found = {name: connection.execute(query).fetchall() for name, query in BROKEN.items()}
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    finally:
        connection.close()
    broken = {name: rows for name, rows in found.items() if rows}
    assert not broken, broken
