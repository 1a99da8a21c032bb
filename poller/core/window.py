"""Where a ``_lastUpdated`` window starts."""

from __future__ import annotations

import datetime as dt

BEGINNING = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
"""The start of a window that is to hold everything."""


def next_cursor(
    previous: dt.datetime | None, server_date: dt.datetime | None, began: dt.datetime, overlap: dt.timedelta
) -> dt.datetime | None:
    """Where the next window starts after a complete pass: never after what the pass may have missed, never before ``previous``.

    It is the server's ``Date`` of the pass's first response minus the overlap, never the largest stamp seen: rows become visible
    after their stamp, and stamps may lie ahead. ``began`` (our own clock at the first request) bounds it, so that a server whose
    clock leaps ahead for one answer does not carry the cursor past changes yet to come. Without a ``Date`` the cursor stays: the
    window grows, nothing is lost.
    """
    if server_date is None:
        return previous
    proven = min(server_date, began) - overlap
    return proven if previous is None else max(previous, proven)


def initial_cursor(server_date: dt.datetime | None, began: dt.datetime, overlap: dt.timedelta) -> dt.datetime:
    """Where the first window starts, for a feed whose first sweep begins at or after ``began``; everything older is the sweep's."""
    return min(server_date or began, began) - overlap


def instant(moment: dt.datetime) -> str:
    """The moment as a search value: UTC, whole seconds, cut down and so never later; e.g. ``2026-11-22T15:04:05Z``."""
    return moment.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
