"""The first schema: see r0001_first.sql beside this file."""

from importlib.resources import files
from typing import Any

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the roles, the schema and its tables."""
    script = files("poller.store.migrations.versions").joinpath("r0001_first.sql").read_text(encoding="utf-8")
    # On the driver's connection: without parameters psycopg sends several statements as they are, "%" included.
    driver: Any = op.get_bind().connection.driver_connection
    driver.execute(script)


def downgrade() -> None:
    """Refuse: history is not thrown away by a downgrade."""
    raise RuntimeError("the first revision cannot be undone; drop the database instead")
