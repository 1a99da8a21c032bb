"""What each change costs: see r0012_lean.sql beside this file."""

from importlib.resources import files
from typing import Any

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Store less for each change, and with less work."""
    script = files("poller.store.migrations.versions").joinpath("r0012_lean.sql").read_text(encoding="utf-8")
    driver: Any = op.get_bind().connection.driver_connection
    driver.execute(script)


def downgrade() -> None:
    """Refuse: later bodies may rely on it."""
    raise RuntimeError("this revision cannot be undone; restore a backup instead")
