"""Reads of one resource by its id."""

from __future__ import annotations

import datetime as dt
from email.utils import format_datetime, parsedate_to_datetime
from typing import TYPE_CHECKING

from poller.simulator.binary import read_binary
from poller.simulator.capability import DECLARED, SEARCH_ONLY
from poller.simulator.exchange import Answer, outcome
from poller.simulator.refusals import Refused, too_old

if TYPE_CHECKING:
    from poller.simulator.chart import Row
    from poller.simulator.exchange import Request
    from poller.simulator.practice import Practice


def read(practice: Practice, resource_type: str, name: str, request: Request) -> Answer:
    """The answer to ``GET Type/id``. Raises Refused."""
    spec = practice.spec
    ecw = spec.mode == "ecw"
    if ecw and resource_type == "Practitioner" and "." in name:
        return outcome(500, "exception", "String index out of range: -1")
    if resource_type not in DECLARED or "/" in name or (resource_type in SEARCH_ONLY and not spec.reads_groups):
        raise Refused(404, "Unknown resource type or operation", "not-supported")
    if resource_type in spec.too_old_for:
        raise too_old(spec)
    if resource_type == "Binary":
        return read_binary(practice, name, request.headers.get("accept", ""))
    row = practice.chart.row(resource_type, name)
    if row is not None:
        modified = ("last-modified", format_datetime(row.stamp.astimezone(dt.UTC), usegmt=True))
        headers = () if ecw else (("etag", _tag(row)), modified)
        if spec.conditional and _is_known(row, request, ecw=ecw):
            return Answer(304, b"", headers=headers)
        return Answer(200, row.body, headers=headers)
    if not ecw and practice.chart.was_seen(resource_type, name, request.now):
        return outcome(410, "deleted", "Resource was deleted")
    return outcome(404, "not-found", "Resource is not known")


def _tag(row: Row) -> str:
    return f'W/"{row.number}"'


def _is_known(row: Row, request: Request, *, ecw: bool) -> bool:
    """Whether the caller has it already, by its own words (RFC 9110 §13.1; ``If-None-Match`` wins). ecw has no tags."""
    tags = request.headers.get("if-none-match")
    if tags is not None and not ecw:
        return _tag(row) in {tag.strip() for tag in tags.split(",")} or tags.strip() == "*"
    try:
        since = parsedate_to_datetime(request.headers.get("if-modified-since", ""))
    except (ValueError, TypeError, IndexError):
        return False
    return row.stamp.replace(microsecond=0) <= (since if since.tzinfo else since.replace(tzinfo=dt.UTC))
