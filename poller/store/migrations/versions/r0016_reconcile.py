"""A full pass on request: see r0016_reconcile.sql beside this file."""

from importlib.resources import files
from typing import Any

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Let operators ask for a full pass."""
    script = files("poller.store.migrations.versions").joinpath("r0016_reconcile.sql").read_text(encoding="utf-8")
    driver: Any = op.get_bind().connection.driver_connection
    driver.execute(script)


def downgrade() -> None:
    """Refuse: later bodies may rely on it."""
    raise RuntimeError("this revision cannot be undone; restore a backup instead")
