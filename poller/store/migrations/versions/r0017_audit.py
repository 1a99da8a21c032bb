"""The audit: see r0017_audit.sql beside this file."""

from importlib.resources import files
from typing import Any

from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Keep one audit of everything, and take in what the reading API has noted."""
    script = files("poller.store.migrations.versions").joinpath("r0017_audit.sql").read_text(encoding="utf-8")
    driver: Any = op.get_bind().connection.driver_connection
    driver.execute(script)


def downgrade() -> None:
    """Refuse: an audit is not to be undone."""
    raise RuntimeError("this revision cannot be undone; restore a backup instead")
