"""Visits, and what a practice's planner has learned: see r0003_planning.sql beside this file."""

from importlib.resources import files
from typing import Any

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the tables from which a planner goes on after a restart, here or in another process."""
    script = files("poller.store.migrations.versions").joinpath("r0003_planning.sql").read_text(encoding="utf-8")
    driver: Any = op.get_bind().connection.driver_connection
    driver.execute(script)


def downgrade() -> None:
    """Refuse: what was learned cannot be had again."""
    raise RuntimeError("this revision cannot be undone; restore a backup instead")
