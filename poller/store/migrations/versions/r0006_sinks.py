"""Where sinks begin, what became of each event, and what is parked: see r0006_sinks.sql beside this file."""

from importlib.resources import files
from typing import Any

from alembic import op

revision = "0006"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Give every cursor its books, and parked events a place."""
    script = files("poller.store.migrations.versions").joinpath("r0006_sinks.sql").read_text(encoding="utf-8")
    driver: Any = op.get_bind().connection.driver_connection
    driver.execute(script)


def downgrade() -> None:
    """Refuse: what these tables hold cannot be had again from the ones before."""
    raise RuntimeError("this revision cannot be undone; restore a backup instead")
