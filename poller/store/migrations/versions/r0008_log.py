"""Rules of digests by number, and what noise rules hide: see r0008_log.sql beside this file."""

from importlib.resources import files
from typing import Any

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the tables by which noise rules can change without an event, and what they hide can be told."""
    script = files("poller.store.migrations.versions").joinpath("r0008_log.sql").read_text(encoding="utf-8")
    driver: Any = op.get_bind().connection.driver_connection
    driver.execute(script)


def downgrade() -> None:
    """Refuse: what these tables hold cannot be had again from the ones before."""
    raise RuntimeError("this revision cannot be undone; restore a backup instead")
