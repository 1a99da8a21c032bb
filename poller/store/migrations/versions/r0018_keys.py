"""Keys of practices: see r0018_keys.sql beside this file."""

from importlib.resources import files
from typing import Any

from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Keep the keys that bodies are sealed with, wrapped."""
    script = files("poller.store.migrations.versions").joinpath("r0018_keys.sql").read_text(encoding="utf-8")
    driver: Any = op.get_bind().connection.driver_connection
    driver.execute(script)


def downgrade() -> None:
    """Refuse: keys are not to be lost."""
    raise RuntimeError("this revision cannot be undone; restore a backup instead")
