"""Accepted configurations, what operators ask of engines, and their pauses: see r0010_control.sql beside this file."""

from importlib.resources import files
from typing import Any

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the tables by which operators steer running engines."""
    script = files("poller.store.migrations.versions").joinpath("r0010_control.sql").read_text(encoding="utf-8")
    driver: Any = op.get_bind().connection.driver_connection
    driver.execute(script)


def downgrade() -> None:
    """Refuse: what operators have said would be lost."""
    raise RuntimeError("this revision cannot be undone; restore a backup instead")
