"""Forgetting a practice or a patient: see r0019_forget.sql beside this file."""

from importlib.resources import files
from typing import Any

from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Keep whom not to take up again, and let the audit of a forgotten practice go."""
    script = files("poller.store.migrations.versions").joinpath("r0019_forget.sql").read_text(encoding="utf-8")
    driver: Any = op.get_bind().connection.driver_connection
    driver.execute(script)


def downgrade() -> None:
    """Refuse: whoever was forgotten would come back."""
    raise RuntimeError("this revision cannot be undone; restore a backup instead")
