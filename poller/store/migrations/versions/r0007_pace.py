"""The pace of a budget after 429s, and the clock that it goes by: see r0007_pace.sql beside this file."""

from importlib.resources import files
from typing import Any

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns by which a budget is lowered and raised."""
    script = files("poller.store.migrations.versions").joinpath("r0007_pace.sql").read_text(encoding="utf-8")
    driver: Any = op.get_bind().connection.driver_connection
    driver.execute(script)


def downgrade() -> None:
    """Refuse: what these tables hold cannot be had again from the ones before."""
    raise RuntimeError("this revision cannot be undone; restore a backup instead")
