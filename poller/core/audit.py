"""What the audit keeps of whoever reads patients' data, or has the poller do something."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from poller.core.envelope import wire_sequence

WHOLE = "*"
"""Stands for the whole installation among practices."""

Scope = Mapping[str, object]
"""Of what: resources, a patient, a sink, by the names that commands have for them. Goes to the store and to nobody else."""


class Action(StrEnum):
    """What is audited, in the words of the command that does it."""

    API_READ = "api read"
    AS_OF = "as-of"
    AUDIT = "audit"
    AUDIT_EXPIRE = "audit expire"
    """What is past retention was removed from the audit, by the poller itself."""
    CONFIG_ACCEPT = "config accept"
    """An engine has taken a configuration up, at its start or by a reload."""
    DELETES_LIST = "deletes list"
    DELETES_RELEASE = "deletes release"
    DELETES_DISCARD = "deletes discard"
    EPOCH_START = "epoch start"
    FORGET = "forget"
    """A practice (then as of the whole installation, and without its code) or a patient."""
    HISTORY = "history"
    KEYS_ROTATE = "keys rotate"
    KEYS_REWRAP = "keys rewrap"
    KEYS_ENCRYPT = "keys encrypt"
    PAUSE = "pause"
    READ_NOW = "read-now"
    RECONCILE = "reconcile"
    REPLAY_START = "replay start"
    REPLAY_RESUME = "replay resume"
    REPLAY_CANCEL = "replay cancel"
    RESUME = "resume"
    SINKS_SHOW = "sinks show"
    SINKS_PARK = "sinks park"
    SINKS_RELEASE = "sinks release"
    SINKS_DISCARD = "sinks discard"
    TAIL = "tail"
    TOKENS_NEW = "tokens new"
    TOKENS_REVOKE = "tokens revoke"
    VERIFY = "verify"
    """With ids listed."""
    WHY = "why"


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that is about to be shown or done."""

    practice: str
    """:data:`WHOLE` for what concerns them all."""
    actor: str
    """``user@host``, or ``token:NAME`` of the reading API, ``token:?`` for one that is not known."""
    action: Action
    scope: Scope = field(default_factory=dict, repr=False)
    reason: str = field(default="", repr=False)


def discarded_as(resource: str, place: tuple[int, int] | None) -> str:
    """What the scope of ``sinks discard`` calls an event that is given up; ``place``: in the log, None for one of a snapshot."""
    return f"{resource} {wire_sequence(*place) if place is not None else 'snapshot'}"


def scope_of(**named: object) -> dict[str, object]:
    """A scope, without what was left open."""
    return {name: value for name, value in named.items() if value is not None and value != ()}
