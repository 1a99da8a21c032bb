"""Noting in the audit what a command is about to show or do."""

from __future__ import annotations

from poller.control import whoami
from poller.core.audit import Action, Entry, scope_of
from poller.installation import Installation


def note(
    installation: Installation, action: Action, practice: str, reason: str, actor: str | None = None, /, **scope: object
) -> None:
    """Append to the audit; ``scope`` as the command's own words have it, None for what was left open.

    ``actor`` is who was named for it: then who runs the command is kept as well. Raises StoreError; nothing may be shown or done then.
    """
    runs = whoami()
    asks = actor if actor is not None else runs
    run_by = runs if asks != runs else None
    installation.audit.note(Entry(practice, asks, action, scope_of(**scope, runBy=run_by), reason))
