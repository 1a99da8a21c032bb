"""What a simulated practice may hold and do beyond the demo's: further content, merges, and bulk export."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkManners:
    """What a practice's ``$export`` is like."""

    group_share: float = 1.0
    """About so many of the patients are members of the practice's one Group."""
    bulk_since: Literal["honoured", "ignored", "refused"] = "honoured"
    """What becomes of ``_since``: it narrows; dropped, and everything exported; or 400."""
    bulk_seconds: float = 5.0
    """How long an export takes. Its files show the practice as it was at the kick-off, its transaction time."""
    bulk_retry_after: Literal["seconds", "date", "nonsense", "none"] = "seconds"
    """Form of the ``Retry-After`` beside a 202."""
    bulk_retry_seconds: int = 120
    """What it asks for."""
    bulk_poll_gap: float = 0.0
    """Seconds: a poll sooner than that after the one before is answered 429."""
    bulk_expires: float = 3600.0
    """Seconds for which a finished export is kept."""
    bulk_deleted: bool = False
    """Whether an export with ``_since`` lists what vanished."""
    bulk_errors: tuple[str, ...] = ()
    """Types of which half the rows are missing; an error file says so."""
    bulk_notes: bool = False
    """An error file that warns, of nothing that is missing."""
    bulk_file_rows: int = 1000
    """Resources in a file, at most."""
    bulk_gone_mid_file: bool = False
    """A file's first download breaks off in its middle; the next is whole. No part of a file can be asked for."""
    bulk_links_elsewhere: bool = False
    """The status URL and the files' URLs name :attr:`~poller.simulator.spec.PracticeSpec.link_host`, as ecw's other links do."""
    bulk_stuck: bool = False
    """Exports that begin now never end, and no other of their group can begin until they are cancelled."""
    bulk_fails: bool = False
    """Exports that begin now end with an error instead of a manifest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manners(BulkManners):
    """And what else it may hold and do."""

    rich: bool | None = None
    """Whether there are all categories of Observation and Condition, notes in several forms and reports with a printed one; None for
    where a type is named that the demo has not."""
    binary_raw: bool = False
    """``Binary/{id}`` is answered with the attachment's own bytes, whatever was asked for; else as a Binary in JSON."""
    group_read: bool | None = None
    """Whether ``Group/{id}`` can be read; None for what the mode does: ecw declares the search only, open can."""
    wants_narrowed: bool = False
    """An ecw practice refuses CarePlan without ``category`` and CareTeam without ``status``."""
    gone_patient: Literal["empty", "404", "400"] = "empty"
    """What a search for a patient who is not there is answered."""
    merges: Literal["none", "inactivated", "vanished"] = "none"
    """Whether patients are merged now and then, and what becomes of the one who was too many."""
    patient_deletes: bool = False
    """Whether a patient goes now and then, with all records."""
