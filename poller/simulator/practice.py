"""One simulated practice: its records, its clock, its limit and the calls that it got."""

from __future__ import annotations

import dataclasses
import datetime as dt
import random
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from poller.simulator.bulk import group, is_member
from poller.simulator.chart import Chart
from poller.simulator.clinical import Author, Resource
from poller.simulator.faults import Faults
from poller.simulator.further import FurtherAuthor
from poller.simulator.truth import Call, PracticeTruth

if TYPE_CHECKING:
    from poller.simulator.spec import PracticeSpec

_EASTERN = ZoneInfo("America/New_York")


class Practice:
    """State of one practice. The world holds the lock."""

    def __init__(self, spec: PracticeSpec, seed: int, began: dt.datetime) -> None:
        self.spec = spec
        self.began = began
        self.chart = Chart()
        self.faults = Faults()
        self.calls: list[Call] = []
        self.rng = random.Random(f"{seed}/{spec.code}/care")
        self.fault_rng = random.Random(f"{seed}/{spec.code}/faults")
        self.write_rng = random.Random(f"{seed}/{spec.code}/writes")
        self.job_rng = random.Random(f"{seed}/{spec.code}/jobs")
        self.author = Author(self.rng, opaque=spec.mode == "ecw")
        self.further = FurtherAuthor(
            random.Random(f"{seed}/{spec.code}/further"), self.author.clinicians, opaque=spec.mode == "ecw"
        )
        self._group_name = Author(self.job_rng, opaque=spec.mode == "ecw").mint("Group")
        self._minute: dt.datetime | None = None
        self._in_minute = 0

    def reach(self, now: dt.datetime) -> None:
        """Let all be as it is at ``now``: what is due becomes visible, and a manner that was to end has ended."""
        self.chart.reveal(now)
        if self.spec.bulk and not self.chart.written("Group"):
            self.enrol(now)
            self.chart.reveal(now)
        until = self.spec.last_updated_until
        if until is not None and now >= self.began + dt.timedelta(seconds=until):
            self.spec = dataclasses.replace(self.spec, last_updated="refused", last_updated_until=None)

    def served_at(self, now: dt.datetime) -> dt.datetime:
        """The practice's own idea of the time."""
        return now + dt.timedelta(seconds=self.faults.skew_seconds)

    def put(self, resource: Resource, now: dt.datetime, *, at_once: bool = False) -> None:
        """Write a version: give it the meta that this practice's mode would, and let it be seen now or late."""
        stamp = self._stamp(resource, now)
        if self.spec.mode == "ecw":
            text = stamp.astimezone(_EASTERN).isoformat(timespec="milliseconds")
            meta = {**resource.get("meta", {}), "lastUpdated": text}
        else:
            text = stamp.astimezone(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
            number = self.chart.number(resource["resourceType"], resource["id"]) + 1
            meta = {**resource.get("meta", {}), "versionId": str(number), "lastUpdated": text}
        head = {"resourceType": resource["resourceType"], "id": resource["id"], "meta": meta}
        rest = {name: value for name, value in resource.items() if name not in head}
        self.chart.put({**head, **rest}, stamp, now, now if at_once else self._visible_from(now))
        if resource["resourceType"] == "Patient" and self.chart.written("Group"):
            self.enrol(now)

    def delete(self, resource_type: str, name: str, now: dt.datetime) -> None:
        """Remove a resource. Raises KeyError when it is not there."""
        self.chart.delete(resource_type, name, now, self._visible_from(now))
        if resource_type == "Patient" and self.chart.written("Group"):
            self.enrol(now)

    def enrol(self, now: dt.datetime) -> None:
        """Put the practice's patients, or the share of them that it may show, into its group; nothing when they are."""
        share = self.spec.group_share
        members = [name for name in self.chart.written("Patient") if is_member(name, share)]
        made = group(self._group_name, f"{self.spec.code}-ALL", members)
        before = self.chart.written("Group").get(self._group_name)
        if before is None or before["member"] != made["member"]:
            self.put(made, now)

    def _visible_from(self, now: dt.datetime) -> dt.datetime:
        faults = self.faults
        if faults.late and self.write_rng.random() < faults.late:
            return now + dt.timedelta(seconds=faults.late_seconds)
        return now

    def _stamp(self, resource: Resource, now: dt.datetime) -> dt.datetime:
        """``meta.lastUpdated`` by the practice's clock: ecw in whole seconds, and on MedicationRequest no more than ``authoredOn``."""
        served = self.served_at(now)
        before = self.chart.row(resource["resourceType"], resource["id"])
        if self.spec.stamps == "unmoved" and before is not None:
            return before.stamp
        if self.spec.mode == "open":
            return served.replace(microsecond=served.microsecond // 1000 * 1000)
        if resource["resourceType"] == "MedicationRequest" and "authoredOn" in resource:
            day = dt.date.fromisoformat(str(resource["authoredOn"])[:10])
            return dt.datetime(day.year, day.month, day.day, tzinfo=_EASTERN)
        return served.replace(microsecond=0)

    def admit(self, now: dt.datetime) -> bool:
        """Count a call in its calendar minute; False when the minute's calls are used up, which locks it for its rest."""
        minute = now.replace(second=0, microsecond=0)
        if minute != self._minute:
            self._minute, self._in_minute = minute, 0
        self._in_minute += 1
        return self._in_minute <= self.spec.limit

    def truth(self) -> PracticeTruth:
        """All that judging this practice needs."""
        return PracticeTruth(self.spec.mode, self.spec.limit, self.chart.truth(), list(self.calls))
