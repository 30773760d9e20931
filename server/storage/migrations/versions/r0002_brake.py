"""The failure brake, lapses that count once, and whose upload it is.

Never changed once released; `server.storage.tables` is what all revisions give.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# Whose uploads they are that were begun before: found by their leases, of which few are under way.
_FILL = """
    UPDATE uploads SET vehicle_id =
    (SELECT vehicle_id FROM replicas WHERE replicas.lease_id = uploads.lease_id)"""


def upgrade() -> None:
    for name, kind in (
        ("halvings", sa.Integer()),
        ("lost_in_row", sa.Integer()),
        ("paused_until_ms", sa.BigInteger()),
    ):
        op.add_column("vehicles", sa.Column(name, kind, server_default="0", nullable=False))
    op.add_column(
        "replicas",
        sa.Column("is_repeat", sa.Boolean(), server_default=sa.text("0"), nullable=False),
    )
    op.add_column("uploads", sa.Column("vehicle_id", sa.LargeBinary(), nullable=True))
    op.create_index("uploads_by_vehicle", "uploads", ["vehicle_id"])
    op.execute(_FILL)
