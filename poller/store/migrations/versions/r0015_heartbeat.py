"""Signs of life: see r0015_heartbeat.sql beside this file."""

from importlib.resources import files
from typing import Any

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Note who looks after a practice, and how much of its budget is used."""
    script = files("poller.store.migrations.versions").joinpath("r0015_heartbeat.sql").read_text(encoding="utf-8")
    driver: Any = op.get_bind().connection.driver_connection
    driver.execute(script)


def downgrade() -> None:
    """Refuse: later bodies may rely on it."""
    raise RuntimeError("this revision cannot be undone; restore a backup instead")
