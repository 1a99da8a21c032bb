"""Several pollers on one store, and practices that begin again and again: see r0021_several.sql beside this file."""

from importlib.resources import files
from typing import Any

from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Have no poller drop what another one needs; keep why a practice begins again."""
    script = files("poller.store.migrations.versions").joinpath("r0021_several.sql").read_text(encoding="utf-8")
    driver: Any = op.get_bind().connection.driver_connection
    driver.execute(script)


def downgrade() -> None:
    """Refuse: revisions are not undone."""
    raise RuntimeError("this revision cannot be undone; restore a backup instead")
