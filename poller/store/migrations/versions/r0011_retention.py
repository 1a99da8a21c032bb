"""Retention: see r0011_retention.sql beside this file."""

from importlib.resources import files
from typing import Any

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the one way in which history can be dropped."""
    script = files("poller.store.migrations.versions").joinpath("r0011_retention.sql").read_text(encoding="utf-8")
    driver: Any = op.get_bind().connection.driver_connection
    driver.execute(script)


def downgrade() -> None:
    """Refuse: what these tables hold cannot be had again from the ones before."""
    raise RuntimeError("this revision cannot be undone; restore a backup instead")
