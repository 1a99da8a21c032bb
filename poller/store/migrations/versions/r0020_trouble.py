"""What keeps sinks: see r0020_trouble.sql beside this file."""

from importlib.resources import files
from typing import Any

from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Keep what a relay knows of why a sink does not go on."""
    script = files("poller.store.migrations.versions").joinpath("r0020_trouble.sql").read_text(encoding="utf-8")
    driver: Any = op.get_bind().connection.driver_connection
    driver.execute(script)


def downgrade() -> None:
    """Refuse: revisions are not undone."""
    raise RuntimeError("this revision cannot be undone; restore a backup instead")
