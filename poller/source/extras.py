"""What else a server may take: asked because an operator wants to know, though no way of reading hangs on it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import replace
from email.utils import format_datetime
from typing import Any
from urllib.parse import quote

from poller.core.capability import Finding, TypeReport
from poller.core.model import Kind
from poller.core.window import instant
from poller.source import links
from poller.source.asking import Asker
from poller.source.strategies import where
from poller.source.trial import Trial
from poller.source.ways import FUTURE

_NOT_MODIFIED = 304

_COUNTED = frozenset({"Observation"})
"""Where ``_count`` is asked about though the configuration sets no page size: patients have several of these."""


async def since(trial: Trial, now: dt.datetime) -> Finding:
    """What becomes of ``_since`` in a search by patient: one in the future must come back empty, of a patient who has something."""
    holders, category = await trial.holders(1)
    if not holders:
        return Finding.UNPROVEN
    plain = trial.asker.where(trial.target(Kind.PATIENT, holders[0], category))
    asked = await trial.asker.ask(f"{plain}&_since={instant(now + FUTURE)}", trial.feed)
    trial.note("_since in the future", asked, empty=asked.is_empty)
    if asked.finding is not Finding.YES:
        return asked.finding
    return Finding.YES if asked.is_empty else Finding.IGNORED


async def count(trial: Trial) -> Finding:
    """What becomes of ``_count``: one row is asked for, of a patient who has several."""
    holders, category = await trial.holders(1)
    if not holders:
        return Finding.UNPROVEN
    plain = links.without(trial.asker.where(trial.target(Kind.PATIENT, holders[0], category)), "_count")
    asked = await trial.asker.ask(f"{plain}&_count=1", trial.feed, is_usual=False)
    trial.note("_count", asked)
    if asked.finding is not Finding.YES or asked.page is None:
        return asked.finding
    if len(asked.page.showings) > 1:
        return Finding.IGNORED
    return Finding.YES if len(trial.plain[holders[0], category].found) > 1 else Finding.UNPROVEN


async def day_windows(trial: Trial) -> Finding:
    """What becomes of a practitioner's day without a patient: the encounter that is known to be there must be, and none of another day."""
    known = [
        (resource["id"], visit)
        for shown in trial.plain.values()
        for resource in shown.resources.values()
        if (visit := _visit(resource)) is not None
    ]
    if not known:
        return Finding.UNPROVEN
    name, (practitioner, day) = known[0]
    bounds = (("date", f"ge{day}"), ("date", f"lt{day + dt.timedelta(days=1)}"))
    query = where(trial.feed, {"practitioner": f"Practitioner/{practitioner}"}, bounds)
    asked = await trial.asker.ask(query, trial.feed)
    trial.note("a practitioner's day", asked)
    if asked.finding is not Finding.YES or asked.page is None:
        return asked.finding
    found = {one.sighting.id: _visit(one.sighting.resource) for one in asked.page.showings}
    far = [visit for visit in found.values() if visit is not None and abs(visit[1] - day) > dt.timedelta(days=1)]
    if far:
        return Finding.IGNORED
    return Finding.YES if name in found or asked.page.next is not None else Finding.DIFFERS


def _visit(resource: Mapping[str, Any]) -> tuple[str, dt.date] | None:
    """The practitioner and the day of an Encounter, as it says itself."""
    if resource.get("resourceType") != "Encounter":
        return None
    try:
        day = dt.date.fromisoformat(str(resource["period"]["start"])[:10])
        named = [str(part["individual"]["reference"]) for part in resource["participant"] if "individual" in part]
    except (KeyError, TypeError, ValueError):
        return None
    found = [name.partition("Practitioner/")[2] for name in named if "Practitioner/" in name]
    return (found[0], day) if found and found[0] else None


async def conditional(asker: Asker, resource_type: str, name: str) -> Finding:
    """Whether a read of what has not changed may be answered 304 (RFC 9110 §13.1).

    That a read of an id with dots fails on some servers says nothing of their health, which absences are judged by.
    """
    path, expected = f"{resource_type}/{quote(name, safe='')}", frozenset({500}) if "." in name else frozenset[int]()
    first = await asker.ask(path, "", expected=expected)
    if first.finding is not Finding.YES:
        return first.finding
    tag, modified = (first.answer.headers.get(header) for header in ("etag", "last-modified"))
    if tag is None and modified is None:
        modified = format_datetime((first.answer.date or first.answer.began).astimezone(dt.UTC), usegmt=True)
    headers = {"If-None-Match": tag} if tag is not None else {"If-Modified-Since": modified or ""}
    second = await asker.ask(path, "", headers=headers, accepted=frozenset({_NOT_MODIFIED}), expected=expected)
    if second.finding is not Finding.YES:
        return second.finding
    return Finding.YES if second.status == _NOT_MODIFIED else Finding.IGNORED


async def ask_extras(trial: Trial, found: TypeReport, now: dt.datetime) -> TypeReport:
    """The report with these findings, where they are of use: each costs a call."""
    if trial.feed == "Observation":
        found = replace(found, since=await since(trial, now))
    if trial.feed == "Encounter":
        found = replace(found, day_windows=await day_windows(trial))
    wants_count = trial.config is not None and trial.config.page_size is not None
    return replace(found, count=await count(trial)) if wants_count or trial.feed in _COUNTED else found
