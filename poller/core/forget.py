"""What is said of a practice or a patient who was forgotten: what went, and what this poller cannot reach."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Forgotten:
    """Who, by whose word, and why."""

    practice: str
    patient: str | None
    """None: all of the practice."""
    actor: str
    reason: str
    at: dt.datetime


@dataclass(frozen=True, slots=True)
class Gone:
    """What went."""

    rows: Mapping[str, int]
    """By table."""
    queues: Mapping[str, int | None] = field(default_factory=dict)
    """Messages that were in each queue which was deleted; None where that is not known."""
    swept: Mapping[str, int] = field(default_factory=dict)
    """Messages that were taken out of queues which others use as well."""

    @property
    def is_key_destroyed(self) -> bool:
        """Whether the practice had a key of its own, and has none any more."""
        return self.rows.get("practice_key", 0) > 0


@dataclass(frozen=True, slots=True)
class Beyond:
    """What may still hold something, by name where there is one."""

    queues: Sequence[str] = ()
    """Queues that others use as well, in a broker that gives single messages to consumers only."""
    files: Sequence[str] = ()
    """What the configuration named for the practice."""
    is_vacuumed: bool = False
    """Whether the tables were written anew; else what was deleted stays in their pages until it is overwritten."""


def out_of_reach(who: Forgotten, gone: Gone, beyond: Beyond) -> list[str]:
    """What a person must see to, one sentence each."""
    said = [
        f"queue {name}: messages that no consumer has taken yet; have them consumed, or purge the queue"
        for name in beyond.queues
    ]
    said.append("consumers: whatever they have made of the events; tell each of them")
    key = " (its bodies there cannot be read without the practice's key, which is wrapped in the same backup: destroy the master key)"
    said.append(
        "backups, replicas and archived WAL of the database: until their own retention ends"
        + (key if gone.is_key_destroyed else "")
    )
    said.append("logs, metrics and traces: they hold the practice's code, and no patient's data")
    said += [f"file {name}: the operator's" for name in beyond.files]
    if not beyond.is_vacuumed:
        said.append(
            "pages of the tables: what was deleted stays there until it is overwritten; `--vacuum` writes them anew"
        )
    if who.patient is not None:
        said.append("the audit: who has read or done what of the patient, kept until its retention ends")
        said.append("the source: it has the patient still; what it shows of them is not taken up again")
    return said


def certificate(who: Forgotten, gone: Gone, beyond: Beyond, audit: tuple[str, int] | None) -> dict[str, Any]:
    """The certificate; ``audit`` is the SHA-256 of the file with the audit's entries, in hex, and how many there are."""
    return {
        "practice": who.practice,
        "patient": who.patient,
        "forgottenAt": who.at.isoformat(),
        "actor": who.actor,
        "reason": who.reason,
        "rows": {name: count for name, count in sorted(gone.rows.items()) if count},
        "keyDestroyed": gone.is_key_destroyed,
        "queues": dict(sorted(gone.queues.items())),
        "messagesTakenOut": {name: count for name, count in sorted(gone.swept.items()) if count},
        "audit": {"sha256": audit[0], "entries": audit[1]} if audit is not None else None,
        "outOfReach": out_of_reach(who, gone, beyond),
    }
