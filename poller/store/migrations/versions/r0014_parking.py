"""What operators ask to be parked: see r0014_parking.sql beside this file."""

from importlib.resources import files
from typing import Any

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Keep what operators ask to be parked."""
    script = files("poller.store.migrations.versions").joinpath("r0014_parking.sql").read_text(encoding="utf-8")
    driver: Any = op.get_bind().connection.driver_connection
    driver.execute(script)


def downgrade() -> None:
    """Refuse: what operators have asked would be forgotten."""
    raise RuntimeError("this revision cannot be undone; restore a backup instead")
