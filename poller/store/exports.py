"""Bulk export jobs, kept so that a restart goes on with what the server has not finished, and what they say is deleted."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Engine

from poller.core import export, jsontext
from poller.core.export import FileDone, Job, State, Use
from poller.core.manifest import Manifest, instant, parse_manifest
from poller.core.model import Kind, Target
from poller.store import columns
from poller.store.engine import sql
from poller.store.repository import Key, Lease, hold_lease

_UNDER_WAY = [state.value for state in State if not state.is_over]
_OVER = [state.value for state in State if state.is_over]
_LISTED = "listed as deleted by an export"
_CONTENT_AT = "contentAt"
"""Beside the manifest's own members, and kept when those are not: :attr:`poller.core.export.Job.content_at`."""


class ExportStore:
    """The export jobs of practices. Safe to use from several threads."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def save(self, lease: Lease, job: Job) -> None:
        """Keep a job as it stands now. Raises LeaseLost, in which case nothing was written."""
        with self._engine.begin() as connection:
            hold_lease(connection, lease)
            connection.execute(sql("save_export"), {"practice": lease.practice} | _columns(job))

    def unfinished(self, practice: str) -> Job | None:
        """The job under way, the oldest if there are several."""
        return next(iter(self._load(practice, _UNDER_WAY)), None)

    def unreleased(self, practice: str) -> list[Job]:
        """Jobs that are over for us and that the server may still hold, oldest first."""
        return self._load(practice, _OVER, held=True)

    def next_since(self, practice: str, group: str, types: Sequence[str], overlap: dt.timedelta) -> dt.datetime | None:
        """Where the next export of these types may begin; None: with everything. See :func:`poller.core.export.next_since`."""
        return export.next_since(self._load(practice, [State.DONE.value], group), types, overlap)

    def last_whole(self, practice: str, group: str) -> Mapping[str, dt.datetime]:
        """From when the content of the last export of each type that was read whole may be, by our clock."""
        return {
            name: job.content_at or job.started_at
            for job in self._load(practice, [State.DONE.value], group)
            if job.is_whole
            for name in job.types
        }

    def note_deleted(self, lease: Lease, found: Sequence[Key], began: dt.datetime, now: dt.datetime) -> int:
        """Note as missing what an export whose content is of ``began`` lists as deleted; returns how much of it is news.

        Nothing is deleted by this: each id is read first. Raises LeaseLost.
        """
        targets = [Target(lease.practice, resource_type, Kind.BULK).key for resource_type, _ in found]
        binds = {"practice": lease.practice, "targets": targets, "began": began, "now": now, "reason": _LISTED}
        with self._engine.begin() as connection:
            hold_lease(connection, lease)
            return connection.execute(sql("note_deleted"), binds | columns.keys(found)).rowcount

    def _load(self, practice: str, states: Sequence[str], group: str | None = None, *, held: bool = False) -> list[Job]:
        binds = {"practice": practice, "states": list(states), "group_id": group, "held": held}
        with self._engine.connect() as connection:
            return [_job(row) for row in connection.execute(sql("load_exports"), binds)]


def _columns(job: Job) -> dict[str, Any]:
    listed = job.manifest.as_json() if job.manifest is not None else {}
    content_at = {_CONTENT_AT: job.content_at.isoformat()} if job.content_at is not None else {}
    return {
        "job": job.id,
        "group_id": job.group,
        "types": list(job.types),
        "since": job.since,
        "purpose": job.use.value,
        "state": job.state.value,
        "poll_url": job.poll_url,
        "started_at": job.started_at,
        "polled_at": job.polled_at,
        "next_poll_at": job.next_poll_at,
        "polls": job.polls,
        "transaction_time": job.transaction_time,
        "manifest": jsontext.dumps(listed | content_at).decode() if listed or content_at else None,
        "files_done": [str(file) for file in job.files_done],
        "rows": job.rows,
        "failure": job.failure,
        "ended_at": job.ended_at,
    }


def _job(row: Any) -> Job:
    kept = row.manifest or {}
    manifest = parse_manifest(kept)
    return Job(
        id=row.job,
        group=row.group_id,
        types=tuple(row.types),
        since=row.since,
        use=Use(row.purpose),
        state=State(row.state),
        started_at=row.started_at,
        poll_url=row.poll_url,
        polled_at=row.polled_at,
        next_poll_at=row.next_poll_at,
        polls=row.polls,
        manifest=manifest if isinstance(manifest, Manifest) else None,
        transaction_time=row.transaction_time,
        content_at=instant(kept.get(_CONTENT_AT)),
        files_done=tuple(FileDone.parse(text) for text in row.files_done),
        rows=row.rows,
        failure=row.failure,
        ended_at=row.ended_at,
    )
